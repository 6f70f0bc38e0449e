"""docs/vpk.md gives the bytes that the code writes: objects are made and read by its tables."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import nacl.bindings
import numpy as np
import pytest

from credentials.keys import PublicKey, SecretKey
from kwaai import limits
from kwaai.node.knowledge_hosts import ANCHOR_TIER
from kwaai.vpk import (
    codes,
    delegation,
    fragments,
    manifest,
    merkle,
    pir,
    records,
    retrievability,
    thin,
    thin_store,
)
from kwaai.vpk import keys as vpk_keys
from kwaai.vpk import seal as sealing
from kwaai.vpk.commit import oblivious_text_bytes
from kwaai.vpk.erasure import Coding, coding_for
from kwaai.vpk.fusion import RANK_CONSTANT
from kwaai.vpk.keys import MANIFEST, SEGMENT, TEXT, VECTOR, BaseKeys, RootKey, encode_root_key
from kwaai.vpk.segments import Segment, encode_segment
from kwaai.vpk.spread import Place
from kwaai.vpk.types import EmbedderSpec

ROOT = Path(__file__).parents[2]
CLAIM = (
    "eve learns sizes, times and which opaque records are fetched together; not text, vectors, "
    "names, nor queries, and cannot alter, omit or roll back without being noticed."
)
OWNER = RootKey(bytes(range(32)))
BASE = bytes(range(16))
KEYS = OWNER.base(BASE, 3)
TENANT = OWNER.tenant().public.raw


def words(page: str) -> str:
    text = (ROOT / page).read_text("utf-8").replace("\n> ", "\n")
    return " ".join(text.split())


DOC = words("docs/vpk.md")


def derive(key: bytes, purpose: str, context: bytes = b"") -> bytes:
    """Keys, by the page."""
    data = bytes((len(purpose),)) + purpose.encode() + context
    return hashlib.blake2b(data, key=key, digest_size=32, person=b"kwaai-vpk key 1").digest()


READ = derive(OWNER.expose(), "base", BASE + struct.pack(">I", 3))
AUDIT = derive(OWNER.expose(), "audit", BASE + struct.pack(">I", 3))


def named(person: bytes, data: bytes) -> bytes:
    """Ids, by the page."""
    return hashlib.blake2b(data, key=derive(READ, "names"), digest_size=16, person=person).digest()


def opened(kind: int, key: str, object_id: bytes, sealed: bytes) -> bytes:
    """A sealed object opened by the page alone; its padding stays."""
    place = b"kwaai-vpk seal" + b"\x01" + TENANT + BASE + bytes((kind,))
    place += struct.pack(">I", 3) + object_id
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        sealed[24:], place, sealed[:24], derive(READ, key)
    )


@pytest.mark.parametrize("page", ["README.md", "docs/vpk.md"])
def test_the_claim_is_made_word_for_word(page: str) -> None:
    assert CLAIM in words(page)


def test_keys_and_ids_are_derived_as_the_page_says() -> None:
    assert SecretKey(derive(OWNER.expose(), "tenant")).public.raw == TENANT
    assert OWNER.local_key(BASE) == derive(OWNER.expose(), "local", BASE)
    assert KEYS.audit_key() == AUDIT
    assert KEYS.share() == b"\x01" + BASE + struct.pack(">I", 3) + READ
    row = named(b"kwaai-vpk rec 1", struct.pack(">BQQ", TEXT, 7, 9))
    assert KEYS.record_id(TEXT, 7, 9) == row
    assert KEYS.object_id(SEGMENT, b"label") == named(b"kwaai-vpk obj 1", b"\x03label")
    kinds = re.findall(r"^\| (\d) \| ([A-Z]+) \|", (ROOT / "docs/vpk.md").read_text(), re.M)
    assert {(int(number), name) for number, name in kinds} == {
        (kind, name) for name, kind in vars(vpk_keys).items() if name in _KINDS
    }


_KINDS = ("VECTOR", "TEXT", "SEGMENT", "MANIFEST", "CELL", "FRAGMENT")


def test_the_root_key_as_text() -> None:
    text = encode_root_key(OWNER)
    assert re.fullmatch(r"vpk1(-[a-z2-7]{4}){14}", text)
    assert "`vpk1-` and 14 groups of 4 characters" in DOC


@pytest.mark.parametrize(
    ("kind", "key"), [(VECTOR, "record"), (TEXT, "record"), (SEGMENT, "segment")]
)
def test_a_sealed_object(kind: int, key: str) -> None:
    name = bytes(reversed(range(16)))
    sealed = sealing.seal(KEYS, TENANT, kind, name, b"plain")
    padded = opened(kind, key, name, sealed)
    assert padded == b"plain" if kind == VECTOR else padded.rstrip(b"\0") == b"plain\x80"
    assert kind == VECTOR or len(sealed) in sealing.SIZE_CLASSES


def test_size_classes() -> None:
    sizes = sealing.SIZE_CLASSES
    assert sizes[:4] == (128, 192, 256, 384)
    assert sizes[-1] == 64 * limits.MIB
    assert sum(size < 64 * limits.KIB for size in sizes) == 2 * 9
    assert sum(64 * limits.KIB <= size < 128 * limits.KIB for size in sizes) == 8
    assert records.vector_bytes(384) + sealing.OVERHEAD_BYTES == 428
    assert "428 for 384" in DOC
    assert f"{oblivious_text_bytes():,} bytes, a size that no class has" in DOC
    assert oblivious_text_bytes() not in sizes


def test_records() -> None:
    vector = np.array([0.5, -1.27, 0.0], np.float32)
    scale, *levels = struct.unpack(">f3b", records.encode_vector(vector))
    assert levels == [50, -127, 0]
    assert scale == pytest.approx(0.01)
    record = records.TextRecord("text", "doc", ("A", "Bb"), 4, 10, 14)
    plain = struct.pack(">BIIIHB", 1, 4, 10, 14, 3, 2) + b"doc\0\1A\0\2Bbtext"
    assert zlib.decompress(records.encode_text(record)) == plain


def a_manifest() -> manifest.Manifest:
    return manifest.Manifest(
        base=BASE,
        name="name",
        sequence=5,
        previous=b"p" * 32,
        epoch=3,
        mode="oblivious",
        embedder=EmbedderSpec("model", "ab" * 32, 384, True),
        params=b"params",
        segments=(manifest.SegmentRef(b"s" * 16, 6, 7, b"d" * 32, b"r" * 32, "4/8", 2),),
        removed=(manifest.RowRun(1, 2, 3),),
        hosts=(manifest.HostRef("peer", "owner", 0.5, True),),
        generation=8,
        replicas=2,
        created_s=1.5,
        published_s=2.25,
        writers=(manifest.WriterRef(11, 12),),
        text_bytes=2088,
        thin=b"thin",
    )


def text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()


def test_a_manifest() -> None:
    made = a_manifest()
    data = manifest.sign_manifest(made, OWNER.tenant(), KEYS)
    head = data[:93]
    version, tenant, base, sequence, epoch, root = struct.unpack(">B32s16sQI32s", head)
    assert (version, tenant, base, sequence, epoch) == (1, TENANT, BASE, 5, 3)
    assert root == merkle.leaf(b"s" * 16 + b"d" * 32 + b"r" * 32)
    sealed, signature = data[93:-64], data[-64:]
    digest = hashlib.blake2b(sealed, digest_size=32).digest()
    PublicKey(TENANT).verify(b"kwaai-vpk-manifest-1\0" + head + digest, signature)
    name = KEYS.object_id(MANIFEST, struct.pack(">Q", 5))
    plain = opened(MANIFEST, "manifest", name, sealed).rstrip(b"\0")[:-1]
    assert plain == b"".join(
        (
            BASE,
            text("name"),
            struct.pack(">Q32sIBI", 5, b"p" * 32, 3, 1, 2088),
            b"\1" + text("model") + text("ab" * 32) + struct.pack(">HB", 384, 1),
            struct.pack(">I", 6) + b"params",
            struct.pack(">I", 4) + b"thin",
            struct.pack(">IBQQ", 8, 2, 1500, 2250),
            struct.pack(">H16sII32s32s", 1, b"s" * 16, 6, 7, b"d" * 32, b"r" * 32),
            text("4/8") + struct.pack(">I", 2),
            struct.pack(">HQQQ", 1, 1, 2, 3),
            b"\1" + text("peer") + text("owner") + struct.pack(">fB", 0.5, 1),
            struct.pack(">HQQ", 1, 11, 12),
        )
    )


def test_the_merkle_tree() -> None:
    def node(data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=32, person=b"kwaai-vpk tree 1").digest()

    leaves = [merkle.leaf(bytes((n,))) for n in range(3)]
    assert leaves[1] == node(b"\0\1")
    assert merkle.root(leaves) == node(b"\1" + node(b"\1" + leaves[0] + leaves[1]) + leaves[2])


def test_a_delegation_and_a_share() -> None:
    reader = SecretKey(bytes(32))
    right = delegation.Delegation(TENANT, reader.public.raw, BASE, 1.0, 2.5)
    data = delegation.sign_delegation(right, OWNER.tenant())
    payload = struct.pack(">B32s32s16sBQQ", 1, TENANT, reader.public.raw, BASE, 1, 1000, 2500)
    assert data[:-64] == payload
    PublicKey(TENANT).verify(b"kwaai-vpk-delegation-1\0" + payload, data[-64:])
    share = delegation.encode_share(right, OWNER.tenant(), KEYS, "name", ("host",), "owner")
    assert share.startswith("vpkshare1-")
    inside = text("name") + b"\1" + text("host") + text("owner") + KEYS.share()
    size = len(data) + 48 + len(inside) + 64  # crypto_box_seal adds 48
    assert len(share) == len("vpkshare1-") + -(-size * 4 // 3)


def test_a_pir_table_and_masks() -> None:
    ids = [b"b" * 16, b"a" * 16]
    table = pir.describe_table(ids, 2088)
    assert table.digest == hashlib.blake2b(b"a" * 16 + b"b" * 16, digest_size=32).digest()
    one, other = pir.make_masks(9, [8], 2, lambda size: bytes(size))
    assert one == [b"\0\0", b"\0\0"]
    assert other == [b"\0\x80", b"\0\0"]
    assert f"sends {limits.BASE_PIR_ROWS_READ} masks to each" in DOC


def test_tags_and_proofs() -> None:
    data = bytes(range(200)) * 20  # 4,000 bytes: three blocks
    tags = retrievability.tag(KEYS, BASE, data)
    salt, size = tags[:16], tags[16:24]

    def hashed(what: bytes) -> bytes:
        return hashlib.blake2b(what, key=AUDIT, digest_size=16, person=b"kwaai-vpk por 1").digest()

    assert size == struct.pack(">Q", 4000)
    assert tags[24:40] == hashed(b"head" + BASE + salt + size)
    assert len(tags) == 40 + 3 * 16
    prime = 2**127 - 1
    secrets = [int.from_bytes(hashed(b"secret" + bytes((j,)))) >> 1 for j in range(128)]
    mask = int.from_bytes(hashed(b"mask" + BASE + salt + struct.pack(">I", 0)))
    block = data[:1920]
    sectors = [int.from_bytes(block[at : at + 15]) for at in range(0, 1920, 15)]
    first = (mask + sum(a * b for a, b in zip(secrets, sectors, strict=True))) % prime
    assert int.from_bytes(tags[40:56]) == first
    assert len(retrievability.challenge(1)) == 18
    assert f"A proof has {retrievability.PROOF_BYTES:,} bytes" in DOC
    named_so = hashlib.blake2b(b"tags" + BASE, digest_size=16, person=b"kwaai-vpk por 1")
    assert retrievability.tags_id(BASE) == named_so.digest()


def test_a_segment() -> None:
    rows = np.array([(7, 1), (7, 2), (9, 5)], np.uint64)
    made = Segment(rows, (), (("t", "cc"),) * 3, b"codes!", b"vec", b"m" * 16)
    data = encode_segment(made)
    head = struct.unpack_from("<4sB3xI6I16s", data)
    magic, flags, count, runs, codes_, vectors, packed, unpacked, zero, params = head
    assert (magic, flags, count, zero, params) == (b"KSG1", 1, 3, 0, b"m" * 16)
    assert (runs, codes_, vectors) == (2 * 20, 6, 3)
    at = struct.calcsize("<4sB3xI6I16s")
    assert data[at : at + runs] == struct.pack("<QQIQQI", 7, 1, 2, 9, 5, 1)
    assert data[at + runs : -packed] == b"codes!vec"
    body = zlib.decompress(data[-packed:])
    assert len(body) == unpacked
    assert body == struct.pack("<I", 2) + b"[]" + struct.pack("<II", 1, 2) * 3 + b"tcc" * 3


def test_a_fragment() -> None:
    blob = bytes(range(256)) * 9
    made = fragments.make_fragments(blob, Coding(4, 8))[0]
    payload_bytes = 576  # 2,304 over four, a multiple of 64 already
    digests = [hashlib.sha256(part[-payload_bytes:]).digest()[:16] for part in made]
    for index, part in enumerate(made):
        head = struct.pack(">4sBBBBHHQ", b"kwF1", 4, 8, index, 0, 0, 1, len(blob))
        siblings = b"".join(digests)
        stripes = hashlib.sha256(siblings).digest()[:16]
        assert part[:-payload_bytes] == head + stripes + siblings
    assert b"".join(part[-payload_bytes:] for part in made[:4]) == blob
    second = hashlib.blake2b(BASE + b"\0\1", digest_size=16, key=b"kwaai vpk stripe 1")
    assert fragments.stripe_id(BASE, 1) == second.digest()


@pytest.mark.parametrize(("owners", "coding"), [(7, "1/2"), (8, "4/8"), (11, "4/8"), (12, "6/12")])
def test_codings(owners: int, coding: str) -> None:
    places = [Place(f"h{n}", f"o{n}", 1.0, True) for n in range(owners)]
    assert str(coding_for(places, 2, 256 * limits.KIB)) == coding
    assert str(coding_for(places, 2, 256 * limits.KIB - 1)) == "1/2"


def test_the_index() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(64, 20)).astype(np.float32)
    params = codes.train(vectors)
    assert params[:1] == b"\1"
    assert params[1:3] == struct.pack("<H", 20)
    assert not any(params[3:19])
    centre = np.frombuffer(params, "<f2", offset=19)
    assert np.allclose(centre, vectors.mean(axis=0) * 64 / (64 + 64), atol=1e-3)
    code = codes.CodeIndex(params).encode(vectors[:1])
    assert len(code) == -(-20 // 8) + 8 == codes.code_bytes(20)
    assert codes.code_bytes(384) == 56
    assert "56 for 384" in DOC
    offset = struct.unpack_from("<f", code, 3)[0]
    x, c = vectors[0].astype(np.float64), centre.astype(np.float64)
    assert offset == pytest.approx(float((x - c) @ (x - c) - x @ x), rel=1e-3)


def test_cells() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 16)).astype(np.float32)
    rows = np.column_stack((np.full(200, 7), np.arange(200))).astype(np.uint64)
    params = codes.train(vectors)
    index = thin.build(vectors, rows, codes.CodeIndex(params).encode(vectors))
    version, dimension, cells, room = struct.unpack_from("<BHIH", index.centroids)
    assert (version, dimension, cells) == (1, 16, len(index.buckets))
    assert len(index.centroids) == 9 + 2 * 16 * cells
    width = 7 + codes.code_bytes(16)
    assert {len(bucket) for bucket in index.buckets} == {3 + 8 + room * width}
    count, writers, writer = struct.unpack_from("<HBQ", index.buckets[0])
    assert 0 < count <= room
    assert (writers, writer) == (1, 7)
    ref = thin_store.ThinRef(b"g" * 8, 5, b"p" * 16, 200, 9000, Coding(4, 8))
    said = struct.pack(">B8sI16sIIBB", 2, b"g" * 8, 5, b"p" * 16, 200, 9000, 4, 8)
    assert thin_store.encode_ref(ref) == said
    assert thin_store.parse_ref(said) == ref
    assert f"({len(said)} bytes, big-endian" in DOC


@pytest.mark.parametrize(
    "said",
    [
        f"at most {limits.BASE_SEGMENT_ROWS_MAX:,} rows",
        f"fewer than {limits.BASE_COMPACT_ROWS_MIN:,} rows",
        f"({limits.BASE_LISTED_SEGMENTS_MAX:,} segments, {limits.BASE_LISTED_REMOVED_MAX:,} runs",
        f"the candidates ({limits.BASE_CANDIDATES_DEFAULT})",
        f"once {limits.BASE_QUERY_POSTINGS_MAX:,} rows",
        f"(k = {RANK_CONSTANT})",
        f"{limits.VPK_AUDIT_SAMPLES} random small objects",
        f"{limits.VPK_AUDIT_PROOF_BLOCKS} challenged blocks",
        f"away for {limits.KNOWLEDGE_AWAY_S / 60:.0f} minutes",
        f"a base has {limits.HOSTS_WANTED} hosts where",
        f"(below {ANCHOR_TIER.label};",
        f"at most {limits.VPK_DELEGATION_LIFE_S_MAX / 86_400:.0f} days apart",
        f"always as many cells ({limits.THIN_CELLS_READ})",
        f"stripes of {limits.VPK_FRAGMENT_BYTES_MAX // limits.KIB:,} KiB",
        f"count | of fragments, at most {limits.VPK_FRAGMENTS_MAX}",
        f"whole copies below {limits.VPK_LARGE_BYTES_MIN // limits.KIB} KiB",
        f"At most {limits.VPK_MANIFEST_BYTES_MAX // limits.MIB} MiB",
        f"{limits.VPK_HEDGE_S_MIN * 1000:.0f} ms to {limits.VPK_HEDGE_S_MAX:.0f} s",
        f"rests for {limits.VPK_REST_S_MIN:.0f} s, doubled each time up to a minute",
    ],
)
def test_numbers_are_the_bounds(said: str) -> None:
    assert said in DOC


def headings(page: str) -> set[str]:
    return set(re.findall(r"^#+ (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE))


def referred(pages: Sequence[str]) -> list[tuple[str, str, str]]:
    """Sections of pages that the code names: (file, page, section)."""
    found = []
    for path in sorted((ROOT / "kwaai").rglob("*.py")):
        source = " ".join(path.read_text("utf-8").split())
        for page, section in re.findall(r'(docs/[\w/-]+\.md), "([^"]+)"', source):
            if page in pages:
                found.append((path.name, page, section))
    return found


def test_sections_that_the_code_names_exist() -> None:
    pages = ["docs/vpk.md", "docs/knowledge.md", "docs/storage.md", "docs/embeddings.md"]
    named_so = referred(pages)
    assert len(named_so) >= 20
    assert [each for each in named_so if each[2] not in headings(each[1])] == []


def test_a_readers_keys_do_not_audit() -> None:
    with pytest.raises(ValueError, match="do not audit"):
        BaseKeys.from_share(KEYS.share()).audit_key()
