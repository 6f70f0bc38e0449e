"""A curious host attacks what it really stores after a real ingest, and sees nothing but sizes,
times, and which opaque records come and go together. Every attack is shown to work where there is
something to be seen.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from vpk_attack_tools import (
    DIMENSION,
    align,
    as_vectors,
    embed,
    identify,
    recovered,
    rotate,
    similarity_correlation,
    unevenness,
    write_texts,
)

from kwaai.errors import SealBroken
from kwaai.vpk import keys
from kwaai.vpk.base import Base
from kwaai.vpk.fragments import parse_fragment
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.ingest import NewDocument
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import LocalHost
from kwaai.vpk.members import Member
from kwaai.vpk.pir import make_masks
from kwaai.vpk.query import Query
from kwaai.vpk.records import TextRecord, encode_text, encode_vectors
from kwaai.vpk.retrievability import tags_id
from kwaai.vpk.seal import NONCE_BYTES, OVERHEAD_BYTES, SIZE_CLASSES, seal_many
from kwaai.vpk.types import BaseMode, EmbedderSpec, Host, Object, Passage, PirTable

ROOT = RootKey(bytes(range(32)))
TENANT = ROOT.tenant().public.raw
SPEC = EmbedderSpec("public-model", "ab" * 32, DIMENSION, True)
NAME = "secret plans"
DOCUMENTS, PASSAGES = 50, 40
ROWS = DOCUMENTS * PASSAGES
TEXTS = write_texts(ROWS, 1)
VECTORS = embed(TEXTS)
OTHERS = embed(write_texts(ROWS, 2))
"""The attacker's own texts, of the same kind."""
BODY = NONCE_BYTES + 4
"""Where the numbers are in a sealed vector, behind nonce and scale."""
VECTOR_BYTES = 4 + DIMENSION + OVERHEAD_BYTES
STORE_BYTES = 1 << 30


class Watched(LocalHost):
    """A host that writes down what it is asked for."""

    def __init__(self, store: HostStore, tenant: bytes, name: str) -> None:
        super().__init__(store, tenant)
        self.name = name
        self.puts: list[list[bytes]] = []
        self.gets: list[list[bytes]] = []
        self.masks: list[list[bytes]] = []

    @property
    def id(self) -> str:
        return self.name

    async def put(self, base: bytes, objects: Sequence[Object]) -> None:
        self.puts.append([object_id for object_id, _ in objects])
        await super().put(base, objects)

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        self.gets.append(list(ids))
        return await super().get(base, ids)

    async def pir(self, base: bytes, table: PirTable, masks: Sequence[bytes]) -> list[bytes]:
        self.masks.append(list(masks))
        return await super().pir(base, table, masks)


@dataclass
class Eve:
    """A host, and what it has of a base."""

    host: Watched
    path: Path
    base: Base
    other: Watched
    """The second host, in mode oblivious."""
    objects: dict[bytes, bytes] = field(default_factory=dict)
    writer: int = 0
    """Bob's device, which he knows."""

    async def look(self) -> None:
        """Read all that is stored."""
        answer = await self.base.search(Query(vector=VECTORS[0], k=1))
        self.writer = answer.hits[0].row[0]
        after = b""
        while ids := await self.host.list_ids(self.base.id, after, 1000):
            found = await LocalHost.get(self.host, self.base.id, ids)
            self.objects |= {i: data for i, data in zip(ids, found, strict=True) if data}
            after = ids[-1]

    def sealed(self) -> list[bytes]:
        """What was sealed, without the heads of fragments and the tags of audits, which are no
        secret and in the same place in all that have them.
        """
        tags = {tags_id(object_id) for object_id in self.objects}
        found = []
        for object_id, data in self.objects.items():
            if object_id in tags:
                continue
            try:
                found.append(bytes(parse_fragment(data, 0).payload))
            except SealBroken:
                found.append(data)
        return found

    def vectors(self) -> list[bytes]:
        """The sealed vectors in the order of ROWS, which only a test that has the keys can know."""
        rows = self.rows()
        base = ROOT.base(self.base.id)
        return [self.objects[object_id] for object_id in base.record_ids(keys.VECTOR, rows)]

    def rows(self) -> np.ndarray:
        """Found with the owner's keys: the one writer, numbers in the order of ingest."""
        base = ROOT.base(self.base.id)
        ids = {n: base.record_id(keys.VECTOR, self.writer, n) for n in range(2 * ROWS)}
        found = [[self.writer, n] for n, object_id in ids.items() if object_id in self.objects]
        return np.array(found, np.uint64)

    def bytes_on_disk(self) -> bytes:
        return b"".join(
            part.read_bytes() for part in sorted(self.path.parent.iterdir()) if part.is_file()
        )


def _document(number: int) -> NewDocument:
    name = f"invoice-{number:02d}.txt"
    return NewDocument(name, f"/home/bob/{name}", "00" * 32, 10, 1, "text/plain", name, "/home/bob")


async def _ingest(directory: Path, mode: BaseMode, documents: int) -> Eve:
    """The base of so many documents, and one of its hosts; mode oblivious has a second."""
    watched = []
    for name in ("eve", "mallory")[: 1 if mode == "sealed" else 2]:
        (directory / name).mkdir(parents=True)
        store = HostStore.open(directory / name / "host.db", STORE_BYTES)
        store.create_tenant(TENANT, STORE_BYTES)
        watched.append(Watched(store, TENANT, name))
    members = [Member(host, host.name, 3, trusted=True) for host in watched]
    hosts = HostSet(members, replicas=len(members))
    base = await Base.create(directory / "bob", ROOT, NAME, hosts=hosts, mode=mode, embedder=SPEC)
    eve = Eve(watched[0], directory / "eve" / "host.db", base, watched[-1])
    for number in range(documents):
        part = slice(number * PASSAGES, (number + 1) * PASSAGES)
        passages = [Passage(text, ("Heading of bob",), 1, 0, len(text)) for text in TEXTS[part]]
        await base.add_document(_document(number), passages, VECTORS[part])
    await base.publish()
    await eve.look()
    return eve


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def eve(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Eve]:
    found = await _ingest(tmp_path_factory.mktemp("sealed"), "sealed", DOCUMENTS)
    yield found
    found.base.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


# The attacks of the report.
async def test_identification_is_chance(eve: Eve) -> None:
    """Which of the candidate texts, whose vectors anybody can compute, is this record?"""
    blurred = VECTORS + np.random.default_rng(2).standard_normal(VECTORS.shape) * 0.02
    assert identify(blurred.astype(np.float32), VECTORS) > 0.9, "the attack has lost its power"
    sealed = eve.vectors()
    assert len(sealed) == ROWS
    for skip in (0, 4, NONCE_BYTES, BODY, VECTOR_BYTES - DIMENSION):
        hits = identify(as_vectors(sealed, skip), VECTORS) * ROWS
        assert hits <= 10, f"{hits} of {ROWS} identified; chance is 1, and never beyond 10"


async def test_alignment_is_chance(eve: Eve) -> None:
    """The geometry of what is stored, against the geometry of other texts of the same kind."""
    broken = recovered(align(rotate(VECTORS), OTHERS), VECTORS)
    assert broken > 0.9, f"the attack has lost its power: {broken} of a rotation"
    found = recovered(align(as_vectors(eve.vectors(), BODY), OTHERS), VECTORS)
    assert abs(found) < 0.05, f"{found} of a vector is recovered; chance is 0"


async def test_similar_passages_do_not_look_similar(eve: Eve) -> None:
    assert similarity_correlation(rotate(VECTORS, 0.3), VECTORS) > 0.5
    seen = similarity_correlation(as_vectors(eve.vectors(), BODY), VECTORS)
    assert abs(seen) < 0.03


async def test_equal_passages_do_not_look_equal() -> None:
    base = ROOT.base(bytes(16))
    vector = encode_vectors(VECTORS[:1])[0]
    objects = seal_many(base, TENANT, keys.VECTOR, [(bytes([n]) * 16, vector) for n in range(200)])
    bits = np.unpackbits(np.frombuffer(b"".join(data for _, data in objects), np.uint8))
    rows = bits.reshape(200, -1)
    differing = (rows[:100] != rows[100:]).mean()
    assert abs(differing - 0.5) < 0.01


# The bytes.
async def test_what_is_stored_looks_random(eve: Eve) -> None:
    plain = b"".join(encode_vectors(VECTORS))
    assert unevenness(plain) > 50
    everything = b"".join(eve.sealed())
    assert unevenness(everything) < 6
    assert len(zlib.compress(everything)) > len(everything)


def _needles(eve: Eve) -> list[bytes]:
    """Pieces of everything that is bob's business."""
    words = [text[:16].encode() for text in TEXTS[::50]]
    names = [b"invoice-", b"/home/bob", b"Heading of bob", NAME.encode(), SPEC.model.encode()]
    numbers = [record[4:20] for record in encode_vectors(VECTORS)[::50]]
    floats = [vector.tobytes()[:16] for vector in VECTORS[::50]]
    texts = [encode_text(TextRecord(text, "invoice"))[:16] for text in TEXTS[::50]]
    base = ROOT.base(eve.base.id)
    secret = [ROOT.expose(), base.share()[-32:], base.audit_key(), ROOT.local_key(eve.base.id)]
    secret += [base.sealing_key(kind) for kind in (1, 3, 4, 5)]
    secret.append(eve.writer.to_bytes(8, "big"))
    return [*words, *names, *numbers, *floats, *texts, *secret]


async def test_nothing_of_bob_is_in_the_hosts_files(eve: Eve) -> None:
    data = eve.bytes_on_disk()
    assert TENANT in data, "the search has lost its power: this much a host does know"
    assert eve.base.id in data
    found = [needle for needle in _needles(eve) if needle in data]
    assert not found


async def test_what_a_plain_host_stores_would_be_found(eve: Eve, tmp_path: Path) -> None:
    """The same search, where a tenant stores what it has unsealed."""
    store = HostStore.open(tmp_path / "plain.db", STORE_BYTES)
    store.create_tenant(TENANT, STORE_BYTES)
    plain = [*(text.encode() for text in TEXTS[::50]), *encode_vectors(VECTORS)[::50]]
    store.put(TENANT, bytes(16), [(n.to_bytes(16, "big"), p) for n, p in enumerate(plain)])
    store.close()
    data = b"".join(part.read_bytes() for part in tmp_path.iterdir())
    found = [needle for needle in _needles(eve) if needle in data]
    assert len(found) >= len(plain)


# Ids.
async def test_ids_say_nothing_to_a_dictionary(eve: Eve) -> None:
    """Hash all names and texts that may be there, in all usual ways: the reference's ids
    (SHA-256 of name::number, 8 bytes) fall to this at once."""
    names = [_document(number).name for number in range(DOCUMENTS)]
    guesses = [f"{name}::{n}".encode() for name in names for n in range(PASSAGES)]
    guesses += [text.encode() for text in TEXTS] + [name.encode() for name in names]
    hashes: list[Callable[[bytes], bytes]] = [
        lambda data: hashlib.sha256(data).digest(),
        lambda data: hashlib.blake2b(data, digest_size=16).digest(),
        lambda data: hashlib.blake2b(data, digest_size=16, key=TENANT).digest(),
        lambda data: hashlib.blake2b(data, digest_size=16, key=eve.base.id).digest(),
        lambda data: hashlib.md5(data).digest(),
    ]
    dictionary = {digest(guess)[:8] for digest in hashes for guess in guesses}
    reference = [hashlib.sha256(guess).digest()[:8] for guess in guesses[:ROWS]]
    assert all(object_id in dictionary for object_id in reference)
    assert not [object_id for object_id in eve.objects if object_id[:8] in dictionary]


async def test_ids_say_nothing_about_their_rows(eve: Eve) -> None:
    """Neighbours in a document are no neighbours in any order of ids; kinds do not show in them."""
    base = ROOT.base(eve.base.id)
    rows = eve.rows()
    for kind in (keys.VECTOR, keys.TEXT):
        ids = [int.from_bytes(i[:8], "big") for i in base.record_ids(kind, rows)]
        ranks = np.argsort(np.argsort(ids))
        assert abs(np.corrcoef(ranks, np.arange(ROWS))[0, 1]) < 0.12
    assert unevenness(b"".join(eve.objects)) < 6


async def test_bases_and_epochs_cannot_be_linked(eve: Eve, tmp_path: Path) -> None:
    """The same documents in another base: no id and no piece of any object is met again."""
    other = await _ingest(tmp_path, "sealed", 5)
    try:
        assert not set(eve.objects) & set(other.objects)
        pieces = {
            data[at : at + 12] for data in other.sealed() for at in range(0, len(data) - 12, 12)
        }
        seen = b"".join(eve.sealed())
        assert not [at for at in range(len(seen) - 12) if seen[at : at + 12] in pieces]
    finally:
        other.base.close()
    rows = eve.rows()[:100]
    next_epoch = ROOT.base(eve.base.id, 2).record_ids(keys.VECTOR, rows)
    assert not set(next_epoch) & set(eve.objects)


# Sizes.
async def test_sizes_are_classes(eve: Eve) -> None:
    sizes = {len(data) for data in eve.sealed()}
    assert sizes <= {VECTOR_BYTES, *SIZE_CLASSES}
    assert {len(data) for data in eve.vectors()} == {VECTOR_BYTES}
    texts = ROOT.base(eve.base.id).record_ids(keys.TEXT, eve.rows())
    lengths = {len(encode_text(TextRecord(text, "invoice"))) for text in TEXTS}
    assert len({len(eve.objects[i]) for i in texts}) <= 2 < len(lengths)


async def test_oblivious_records_and_reads_are_all_alike(tmp_path: Path) -> None:
    eve = await _ingest(tmp_path, "oblivious", 3)
    try:
        base = ROOT.base(eve.base.id)
        texts = [base.record_id(keys.TEXT, eve.writer, number) for number in range(ROWS)]
        found = [eve.objects[object_id] for object_id in texts if object_id in eve.objects]
        assert len(found) == 3 * PASSAGES
        assert len({len(data) for data in found}) == 1
        assert VECTOR_BYTES not in {len(data) for data in eve.objects.values()}
        for host in (eve.host, eve.other):
            host.gets.clear()
            host.masks.clear()
        for k, number in ((1, 0), (5, 7), (3, 7), (5, 90)):
            answer = await eve.base.search(Query(TEXTS[number], VECTORS[number], k=k))
            assert answer.hits[0].text == TEXTS[number]
        for host in (eve.host, eve.other):
            assert not host.gets, "an object was asked for by name"
            assert len(host.masks) == 4
            assert len({len(masks) for masks in host.masks}) == 1
            bits = np.unpackbits(np.frombuffer(b"".join(chain(*host.masks)), np.uint8))
            assert abs(bits.mean() - 0.5) < 0.1
    finally:
        eve.base.close()


# What is asked.
async def test_requests_say_which_and_not_in_what_order(eve: Eve) -> None:
    """Candidates are fetched by id, not by rank; rows are put by id, not as the text goes on."""
    rows_put = [ids for ids in eve.host.puts if len(ids) >= PASSAGES]
    assert len(rows_put) >= DOCUMENTS
    assert all(ids == sorted(ids) for ids in rows_put)
    eve.host.gets.clear()
    for number in range(0, ROWS, 400):
        answer = await eve.base.search(Query(TEXTS[number], VECTORS[number], k=5))
        assert answer.hits[0].text == TEXTS[number]
    assert eve.host.gets
    assert all(ids == sorted(ids) for ids in eve.host.gets)
    assert all(len(object_id) == 16 for ids in eve.host.gets for object_id in ids)


async def test_no_oracle_by_scores(eve: Eve) -> None:
    """A host that answers with scores gives every vector away: `DIMENSION` basis queries, all rows
    of each. Ours has no score to give: it is asked for ids, and for XORs of sealed bytes.
    """
    basis = np.eye(DIMENSION, dtype=np.float32)
    scores = np.stack([VECTORS @ query for query in basis], axis=1)
    assert recovered(scores - scores.mean(axis=0), VECTORS) > 0.999
    calls = {name for name in vars(Host) if not name.startswith("_") and callable(vars(Host)[name])}
    assert calls == {
        "put",
        "get",
        "delete",
        "list_ids",
        "put_manifest",
        "get_manifest",
        "bases",
        "drop_base",
        "usage",
        "pir_table",
        "pir",
        "prove",
    }
    table = await eve.host.pir_table(eve.base.id, VECTOR_BYTES)
    ordered = sorted(i for i, data in eve.objects.items() if len(data) == VECTOR_BYTES)
    assert table.rows == len(ordered)
    unit_masks, _ = make_masks(table.rows, [], 3, bytes)
    for row, mask in enumerate(unit_masks):
        one = bytearray(mask)
        one[0] ^= 0x80 >> row
        (answer,) = await eve.host.pir(eve.base.id, table, [bytes(one)])
        assert answer == eve.objects[ordered[row]], "no more than the sealed row itself"
