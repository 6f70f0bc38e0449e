"""Manifests: what a handle depends on, what it does not, and what verification notices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import DiskFull, FileCorrupt
from kwaai.limits import MANIFEST_BYTES_MAX
from kwaai.models.gguf import read_header
from kwaai.models.gguf_types import GGMLType, pad
from kwaai.models.gguf_write import encode_header, encode_value, write_gguf
from kwaai.models.manifest import Manifest, build_manifest, canonical_json, parse_manifest
from kwaai.models.manifest_cache import ManifestCache
from kwaai.models.shapes import Shape
from kwaai.models.slices import cut_embedding, cut_slice
from kwaai.models.verify import verify_model, verify_slice
from kwaai.testing.models import TINY, UNTIED, plain_gguf, tiny_model
from kwaai.types import LayerRange
from schemas import load_schema


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("m") / "model.gguf", UNTIED, "Q4_0")


@pytest.fixture(scope="module")
def manifest(model: Path) -> Manifest:
    return build_manifest(model)


def rewritten(
    source: Path,
    path: Path,
    kv: dict[str, Any] | None = None,
    alter: str = "",
    reverse: bool = False,
) -> Path:
    """Copy a model with other keys, tensors in reverse order, or a byte of one tensor changed."""
    header, data = read_header(source), source.read_bytes()
    keys = {k: v for k, v in (header.raw_kv | (kv or {})).items() if v is not None}
    tensors = []
    for t in reversed(header.tensors) if reverse else header.tensors:
        start = header.data_start + t.offset
        content = bytearray(data[start : start + t.nbytes])
        if t.name == alter:
            content[-1] ^= 1
        tensors.append((t.name, t.dims, t.ggml_type, bytes(content)))
    write_gguf(path, keys, tensors)
    return path


def test_the_manifest_matches_its_schema(manifest: Manifest) -> None:
    jsonschema.Draft202012Validator.check_schema(load_schema("model-manifest"))
    document = json.loads(manifest.encoded)
    jsonschema.validate(document, load_schema("model-manifest"))
    assert canonical_json(document) == manifest.encoded
    assert manifest.block_count == 6
    assert set(document["groups"]) == {
        "embedding",
        "head",
        "shared",
        *(f"blk.{n}" for n in range(6)),
    }
    assert "value" not in document["metadata"]["tokenizer.ggml.tokens"]


def test_the_handle_is_the_digest_of_the_canonical_form(tmp_path: Path) -> None:
    path = plain_gguf(tmp_path / "m.gguf", {"general.architecture": "llama", "general.name": "x"})
    data = bytes(range(64))
    group = hashlib.sha256(b'["token_embd.weight",0,[8,2]]\n' + data).hexdigest()
    encoded = (
        '{"format":"kwaainet-model-manifest-1","groups":{"embedding":{"sha256":"' + group + '",'
        '"tensors":[["token_embd.weight",0,[8,2]]]}},"metadata":{"general.architecture":{"value":'
        '"CAAAAAUAAAAAAAAAbGxhbWE="}}}'
    )
    assert build_manifest(path).encoded.decode() == encoded
    assert build_manifest(path).handle == "sha256:" + hashlib.sha256(encoded.encode()).hexdigest()


def test_the_handle_does_not_depend_on_names_order_or_padding(
    model: Path, manifest: Manifest, tmp_path: Path
) -> None:
    names = {"general.name": "other", "general.url": "somewhere", "general.file_type": 1}
    other = rewritten(model, tmp_path / "x.gguf", names, reverse=True)
    assert build_manifest(other).handle == manifest.handle
    header, data = read_header(model), model.read_bytes()
    body, spread, offset = bytearray(), [], 0
    for t in header.tensors:
        at = header.data_start + t.offset
        spread.append(type(t)(t.name, t.dims, t.ggml_type, offset, t.nbytes))
        body += data[at : at + t.nbytes].ljust(pad(t.nbytes, 4096) + 4096, b"\xee")
        offset = len(body)
    kv = header.raw_kv | {"general.alignment": encode_value(4096)}
    (tmp_path / "y.gguf").write_bytes(encode_header(kv, spread, 4096) + bytes(body))
    assert build_manifest(tmp_path / "y.gguf").handle == manifest.handle


@pytest.mark.parametrize(
    ("kv", "alter", "named"),
    [
        ({}, "blk.3.ffn_up.weight", "blk.3"),
        ({}, "token_embd.weight", "embedding"),
        ({}, "output_norm.weight", "head"),
        ({}, "rope_freqs.weight", "shared"),
        ({"llama.rope.freq_base": 2.0}, "", "llama.rope.freq_base"),
        ({"tokenizer.chat_template": "evil"}, "", "tokenizer.chat_template"),
        ({"tokenizer.ggml.eos_token_id": 3}, "", "tokenizer.ggml.eos_token_id"),
    ],
)
def test_the_handle_depends_on_the_content(
    model: Path, manifest: Manifest, tmp_path: Path, kv: dict[str, Any], alter: str, named: str
) -> None:
    other = rewritten(model, tmp_path / "x.gguf", kv, alter)
    assert build_manifest(other).handle != manifest.handle
    with pytest.raises(FileCorrupt, match=rf"x\.gguf is not sha256:.*: {named} differ"):
        verify_model(other, manifest)


def test_a_true_copy_is_verified(model: Path, manifest: Manifest) -> None:
    hashed: list[int] = []
    assert verify_model(model, manifest, hashed.append).handle == manifest.handle
    assert sum(hashed) == sum(t.nbytes for t in read_header(model).tensors)


@pytest.mark.parametrize("shape", [TINY, UNTIED])
@pytest.mark.parametrize(("start", "stop", "head"), [(0, 2, False), (2, 6, True), (1, 5, False)])
@pytest.mark.parametrize("named", [True, False])
def test_a_true_slice_is_verified(
    tmp_path: Path, shape: Any, start: int, stop: int, head: bool, named: bool
) -> None:
    source = tiny_model(tmp_path / "m.gguf", shape)
    promised = build_manifest(source)
    handle = promised.handle if named else None
    cut_slice(source, tmp_path / "s.gguf", LayerRange(start, stop), head, handle)
    assert verify_slice(tmp_path / "s.gguf", promised).block_count == stop - start
    cut_embedding(source, tmp_path / "e.gguf", handle)
    assert verify_slice(tmp_path / "e.gguf", promised).tensors[0].dims == (256, 300)


def flip(offset_from_end: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[-offset_from_end] ^= 1

    return change


def replace(old: bytes, new: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        assert data.count(old) == 1
        at = data.index(old)
        data[at : at + len(old)] = new

    return change


def u32(key: str, old: int, new: int) -> Callable[[bytearray], None]:
    before = key.encode() + (4).to_bytes(4, "little")
    return replace(before + old.to_bytes(4, "little"), before + new.to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (u32("kwaai.slice.start", 2, 1), "its header is not|should have"),
        (u32("kwaai.slice.stop", 4, 2), "needs 0 <= start < stop"),
        (u32("kwaai.slice.stop", 4, 9), "the model has 6"),
        (u32("llama.block_count", 2, 1), "its header is not"),
        (u32("llama.attention.head_count_kv", 2, 1), "its header is not"),
        (replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight"), "its header is not"),
        (replace(b"kwaai.slice.kind", b"kwaai.slice.kinx"), "not a slice file"),
        (
            replace(b"kwaai.slice.head", b"kwaai.slice.hexd"),
            "model is not the model|which layers it holds",
        ),
        (lambda data: data.extend(b"\0"), "should have"),
        (flip(100), "content of blk.3 is wrong|that should be empty|content of shared"),
    ],
)
def test_a_false_slice_is_noticed(
    model: Path,
    manifest: Manifest,
    tmp_path: Path,
    change: Callable[[bytearray], None],
    message: str,
) -> None:
    path = tmp_path / "s.gguf"
    cut_slice(model, path, LayerRange(2, 4), head=False, handle=manifest.handle)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    with pytest.raises(FileCorrupt, match=message):
        verify_slice(path, manifest)


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_q.weight",
        "blk.1.ffn_down.weight",
        "rope_freqs.weight",
        "token_embd.weight",
        "output_norm.weight",
    ],
)
def test_one_wrong_byte_in_any_tensor_is_noticed(
    model: Path, manifest: Manifest, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "s.gguf"
    cut_slice(model, path, LayerRange(2, 4), head=False)
    header, data = read_header(path), bytearray(path.read_bytes())
    tensor = header.tensor(name)
    assert tensor is not None
    data[header.data_start + tensor.offset + tensor.nbytes // 2] ^= 0x80
    path.write_bytes(data)
    with pytest.raises(FileCorrupt, match=r"is wrong|should be empty"):
        verify_slice(path, manifest)


def test_the_tokenizer_of_a_head_is_checked(
    model: Path, manifest: Manifest, tmp_path: Path
) -> None:
    path = tmp_path / "s.gguf"
    cut_slice(model, path, LayerRange(4, 6), head=True)
    data = path.read_bytes()
    assert data.count(b"[7]") == 1
    path.write_bytes(data.replace(b"[7]", b"[8)"))
    with pytest.raises(FileCorrupt, match=r"its tokenizer\.ggml\.tokens is not the model's"):
        verify_slice(path, manifest)


def test_a_slice_of_another_model_is_noticed(model: Path, tmp_path: Path) -> None:
    other = build_manifest(tiny_model(tmp_path / "o.gguf", UNTIED, "Q4_0", seed=1))
    path = tmp_path / "s.gguf"
    cut_slice(model, path, LayerRange(0, 2), head=False)
    with pytest.raises(FileCorrupt, match=f"no part of {other.handle}: the content of blk.0"):
        verify_slice(path, other)
    cut_slice(model, path, LayerRange(0, 2), head=False, handle=build_manifest(model).handle)
    with pytest.raises(FileCorrupt, match="it was cut from sha256:"):
        verify_slice(path, other)


def test_a_manifest_comes_back(manifest: Manifest) -> None:
    parsed = parse_manifest(manifest.encoded)
    assert parsed == manifest
    assert parsed.handle == manifest.handle
    spaced = json.dumps(json.loads(manifest.encoded), indent=3).encode()
    assert parse_manifest(spaced).handle == manifest.handle


def edit(document: Any, *path: Any, value: Any = None) -> bytes:
    """Change, add or (value None) delete the item at `path` of a manifest."""
    *parents, last = path
    item = document
    for step in parents:
        item = item[step]
    if value is None:
        del item[last]
    else:
        item[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "kwaainet-model-manifest-2", "wrong at"),
        (("format",), None, "is a required property"),
        (("extra",), 1, "Additional properties"),
        (("groups", "blk.2"), None, "not numbered from 0 without a gap"),
        (("groups", "other"), {}, "wrong at"),
        (("groups", "head", "sha256"), "xyz", "wrong at"),
        (("groups", "head", "tensors", 0, 0), "blk.0.x", "not a sorted list of its tensors"),
        (("groups", "head", "tensors", 0, 1), 4, "not known to ggml"),
        (("groups", "head", "tensors", 0, 2, 0), 7, "blocks of 32"),
        (("groups", "head", "tensors", 0, 2, 0), 2**53, "wrong at"),
        (("groups", "embedding", "tensors", 0, 2), [2**53 - 32] * 2, "overflows"),
        (("metadata", "llama.block_count", "value"), "BAAAAAE=", "broken metadata"),
        (("metadata", "llama.block_count", "value"), "BAAAAAEAAAA=\n", "base64|wrong at"),
        (("metadata", "general.name"), {"value": "BAAAAAEAAAA="}, "must not"),
        (("metadata", "general.architecture"), None, "required"),
    ],
)
def test_manifests_that_are_refused(
    manifest: Manifest, path: tuple[Any, ...], value: Any, message: str
) -> None:
    with pytest.raises(FileCorrupt, match=message):
        parse_manifest(edit(json.loads(manifest.encoded), *path, value=value))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"1" * 5000, bytes(MANIFEST_BYTES_MAX + 1)],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(FileCorrupt):
        parse_manifest(data)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    with pytest.raises(FileCorrupt):
        parse_manifest(data)


def test_the_cache_hashes_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model.read_bytes())
    cache = ManifestCache(tmp_path / "manifests")
    assert cache.known(path) is None
    first = cache.manifest(path)

    def hash_again(*_: object) -> Manifest:
        raise AssertionError("hashed again")

    monkeypatch.setattr("kwaai.models.manifest_cache.build_manifest", hash_again)
    assert cache.manifest(path) == first
    assert cache.known(path) == first
    monkeypatch.undo()
    other = rewritten(model, tmp_path / "other.gguf", alter="output.weight")
    other.replace(path)
    assert cache.known(path) is None
    assert cache.manifest(path).handle != first.handle


def test_a_cache_that_cannot_be_written_costs_only_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no room left on the disk")

    cache = ManifestCache(tmp_path / "manifests")
    with monkeypatch.context() as patched:
        patched.setattr("kwaai.models.manifest_cache.write_atomic", full)
        assert cache.manifest(model) == build_manifest(model)
    assert cache.known(model) is None
    assert "manifest_not_remembered" in caplog.text


@pytest.mark.parametrize("extra", ["position_embd.weight", "token_embd_norm.weight", "rope_freqs"])
@pytest.mark.parametrize("shape", [TINY, UNTIED])
def test_what_lies_beside_the_embedding_is_in_every_slice(
    tmp_path: Path, shape: Shape, extra: str
) -> None:
    source = tiny_model(tmp_path / "plain.gguf", shape)
    header, data = read_header(source), source.read_bytes()
    tensors = [
        (
            t.name,
            t.dims,
            t.ggml_type,
            data[header.data_start + t.offset : header.data_start + t.offset + t.nbytes],
        )
        for t in header.tensors
    ]
    path = tmp_path / "model.gguf"
    write_gguf(path, header.raw_kv, [*tensors, (extra, (256, 4), GGMLType.F32, bytes(4096))])
    manifest, part = build_manifest(path), tmp_path / "part.gguf"
    for layers in (LayerRange(0, 6), LayerRange(3, 6), LayerRange(1, 3)):
        cut_slice(path, part, layers, layers.stop == 6, manifest.handle)
        assert verify_slice(part, manifest).tensor(extra) is not None
    cut_embedding(path, part, manifest.handle)
    assert [t.name for t in verify_slice(part, manifest).tensors] == ["token_embd.weight"]


def test_a_broken_record_is_no_record(model: Path, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path)
    handle = cache.manifest(model).handle
    for record in tmp_path.iterdir():
        record.write_text(record.read_text("utf-8").replace("blk.1", "blk.X"), "utf-8")
    assert cache.known(model) is None
    assert cache.manifest(model).handle == handle
    for record in tmp_path.iterdir():
        record.write_bytes(b"{")
    assert cache.known(model) is None
