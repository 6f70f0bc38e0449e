"""Segments: what one commit added to a base, as one value and as bytes.

Rows, their index codes, the documents they belong to and the texts for the full-text index: all
that a device needs to search, save the objects that it fetches. Bytes are read after they were
opened with the base's key, and checked all the same. Does not seal and does not store.
docs/vpk.md, "Segments".
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import FileCorrupt
from kwaai.limits import (
    BASE_PASSAGE_BYTES_MAX,
    BASE_PATH_CHARS_MAX,
    BASE_SEGMENT_BYTES_MAX,
    BASE_SEGMENT_ROWS_MAX,
)
from kwaai.vpk.types import ID_BYTES

_MAGIC = b"KSG1"
_HEAD = struct.Struct("<4sBxxxIIIIIII16s")
_RUN = np.dtype([("writer", "<u8"), ("start", "<u8"), ("count", "<u4")])
_HAS_TEXTS = 1
_ROWS_MAX = np.uint64(2**63)


@dataclass(frozen=True, slots=True)
class DocumentMeta:
    """A document, as its owner's devices tell one another of it."""

    uid: bytes
    """16 random bytes: two documents of one path, from two devices, are two."""
    name: str
    path: str
    title: str
    media_type: str
    sha256: str
    size: int
    mtime_ns: int
    root: str
    created_s: int


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a segment that belong to one document: `count` from `start`."""

    document: DocumentMeta
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Up to BASE_SEGMENT_ROWS_MAX rows."""

    rows: NDArray[np.uint64]
    """(rows, 2): writer and number of each."""
    parts: tuple[Part, ...] = ()
    """Ascending, not overlapping; rows of none are of no document."""
    texts: tuple[tuple[str, str], ...] | None = None
    """(body, context) of each row; None: rows without text."""
    codes: bytes = b""
    """Index codes, row after row, of one length; empty: rows without vectors."""
    vectors: bytes = b""
    """In mode oblivious the rows' vectors, as `records.encode_vectors` makes them."""
    params: bytes = bytes(ID_BYTES)
    """Digest of the index parameters that made the codes."""

    def __len__(self) -> int:
        return len(self.rows)


def encode_segment(segment: Segment) -> bytes:
    """Return a segment's bytes."""
    runs = encode_runs(segment.rows)
    body = _encode_body(segment)
    packed = zlib.compress(body, 6)
    head = _HEAD.pack(
        _MAGIC,
        0 if segment.texts is None else _HAS_TEXTS,
        len(segment.rows),
        len(runs),
        len(segment.codes),
        len(segment.vectors),
        len(packed),
        len(body),
        0,
        segment.params,
    )
    return b"".join((head, runs, segment.codes, segment.vectors, packed))


def parse_segment(data: bytes) -> Segment:
    """Return the segment of some bytes. Raises FileCorrupt."""
    try:
        return _parse(data)
    except (ValueError, TypeError, KeyError, zlib.error, struct.error, RecursionError) as error:
        raise FileCorrupt(
            f"a segment of a knowledge base is damaged ({str(error)[:200]}); "
            "run: kwaainet rag sync, or restore the base from its hosts"
        ) from error


def join(segments: Sequence[Segment]) -> Segment:
    """Return one segment with the rows of several, in their order. All have the same parameters,
    and all or none of them codes, vectors, texts.
    """
    parts: list[Part] = []
    start = 0
    for segment in segments:
        for part in segment.parts:
            last = parts[-1] if parts else None
            if (
                last is not None
                and last.document.uid == part.document.uid
                and last.start + last.count == start + part.start
            ):
                parts[-1] = replace(last, count=last.count + part.count)
            else:
                parts.append(replace(part, start=start + part.start))
        start += len(segment)
    texts = [segment.texts for segment in segments if segment.texts is not None]
    return Segment(
        rows=np.concatenate([segment.rows for segment in segments]),
        parts=tuple(parts),
        texts=tuple(text for each in texts for text in each) if texts else None,
        codes=b"".join(segment.codes for segment in segments),
        vectors=b"".join(segment.vectors for segment in segments),
        params=segments[0].params,
    )


def select(segment: Segment, keep: NDArray[np.bool_]) -> Segment:
    """Return a segment with those of its rows that are kept (bool, (rows,))."""
    if keep.all():
        return segment
    kept_before = np.concatenate(([0], np.cumsum(keep)))
    parts = []
    for part in segment.parts:
        start, stop = (int(kept_before[n]) for n in (part.start, part.start + part.count))
        if stop > start:
            parts.append(replace(part, start=start, count=stop - start))
    texts = segment.texts
    if texts is not None:
        texts = tuple(text for text, kept in zip(texts, keep, strict=True) if kept)
    return replace(
        segment,
        rows=segment.rows[keep],
        parts=tuple(parts),
        texts=texts,
        codes=_select_bytes(segment.codes, keep),
        vectors=_select_bytes(segment.vectors, keep),
    )


def kind_of(segment: Segment) -> tuple[bool, bool, bytes]:
    """Return what segments must have in common to be joined."""
    return segment.texts is not None, bool(segment.codes), segment.params


def encode_runs(rows: NDArray[np.uint64]) -> bytes:
    """Return rows ((n, 2): writer, number) as runs of consecutive numbers, 20 bytes each."""
    runs = runs_of(rows)
    packed = np.empty(len(runs), _RUN)
    packed["writer"], packed["start"], packed["count"] = runs.T if len(runs) else ((), (), ())
    return packed.tobytes()


def runs_of(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return (runs, 3): writer, first number, count."""
    if not len(rows):
        return np.empty((0, 3), np.uint64)
    follows = (rows[1:, 0] == rows[:-1, 0]) & (rows[1:, 1] == rows[:-1, 1] + np.uint64(1))
    starts = np.concatenate(([0], np.flatnonzero(~follows) + 1))
    counts = np.diff(np.append(starts, len(rows)))
    return np.column_stack((rows[starts], counts.astype(np.uint64)))


def rows_of(runs: Iterable[Sequence[int]]) -> NDArray[np.uint64]:
    """Return the rows ((n, 2)) of runs (writer, first number, count)."""
    table = np.array([tuple(run) for run in runs], np.uint64).reshape(-1, 3)
    counts = table[:, 2].astype(np.int64)
    rows = np.repeat(table[:, :2], counts, axis=0)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    rows[:, 1] += (np.arange(len(rows)) - before).astype(np.uint64)
    return rows


def _encode_body(segment: Segment) -> bytes:
    documents = json.dumps(
        [
            {
                **asdict(part.document),
                "uid": part.document.uid.hex(),
                "rows": [part.start, part.count],
            }
            for part in segment.parts
        ],
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode("utf-8", "surrogatepass")
    pieces = [
        piece.encode("utf-8", "surrogatepass") for text in segment.texts or () for piece in text
    ]
    lengths = np.array([len(piece) for piece in pieces], "<u4").tobytes()
    return b"".join((struct.pack("<I", len(documents)), documents, lengths, *pieces))


def _parse(data: bytes) -> Segment:
    magic, flags, rows, runs, codes, vectors, packed, body, _, params = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("no segment, or one of a newer kwaainet")
    if rows > BASE_SEGMENT_ROWS_MAX or body > BASE_SEGMENT_BYTES_MAX:
        raise ValueError("larger than a segment may be")
    if _HEAD.size + runs + codes + vectors + packed != len(data):
        raise ValueError("lengths that do not add up")
    at = _HEAD.size
    row_table = _parse_runs(data[at : at + runs], rows)
    at += runs
    for name, size in (("codes", codes), ("vectors", vectors)):
        if size and (not rows or size % rows):
            raise ValueError(f"{name} that do not fit the rows")
    inflater = zlib.decompressobj()
    raw = inflater.decompress(data[at + codes + vectors :], body)
    if len(raw) != body or not inflater.eof:
        raise ValueError("texts of another length")
    parts, texts = _parse_body(raw, rows, has_texts=bool(flags & _HAS_TEXTS))
    return Segment(
        rows=row_table,
        parts=parts,
        texts=texts,
        codes=data[at : at + codes],
        vectors=data[at + codes : at + codes + vectors],
        params=params,
    )


def _parse_runs(data: bytes, count: int) -> NDArray[np.uint64]:
    if len(data) % _RUN.itemsize:
        raise ValueError("half a run of rows")
    runs = np.frombuffer(data, _RUN)
    if len(runs) > count or int(runs["count"].sum(dtype=np.uint64)) != count:
        raise ValueError("runs that do not fit the rows")
    most = max(runs["writer"].max(), runs["start"].max()) if len(runs) else 0
    if most >= _ROWS_MAX or (len(runs) and (runs["start"] + runs["count"]).max() > _ROWS_MAX):
        raise ValueError("rows that no device numbers so")
    return rows_of(runs.tolist())


def _parse_body(
    raw: bytes, rows: int, *, has_texts: bool
) -> tuple[tuple[Part, ...], tuple[tuple[str, str], ...] | None]:
    (size,) = struct.unpack_from("<I", raw)
    listed = json.loads(raw[4 : 4 + size].decode("utf-8", "surrogatepass"))
    if not isinstance(listed, list) or len(listed) > rows:
        raise ValueError("more documents than rows")
    parts = []
    stop = 0
    for item in listed:
        part = _parse_part(item)
        if part.start < stop or part.count < 1 or part.start + part.count > rows:
            raise ValueError("documents that overlap")
        stop = part.start + part.count
        parts.append(part)
    at = 4 + size
    if not has_texts:
        if at != len(raw):
            raise ValueError("texts that are not declared")
        return tuple(parts), None
    lengths = np.frombuffer(raw, "<u4", 2 * rows, at).astype(np.int64)
    stops = np.cumsum(lengths) + at + 8 * rows
    if (lengths.max(initial=0) > BASE_PASSAGE_BYTES_MAX) or (int(stops[-1]) if rows else at) != len(
        raw
    ):
        raise ValueError("texts of other lengths")
    pieces = [
        raw[stop - length : stop].decode("utf-8", "surrogatepass")
        for stop, length in zip(stops.tolist(), lengths.tolist(), strict=True)
    ]
    return tuple(parts), tuple(zip(pieces[::2], pieces[1::2], strict=True))


def _parse_part(item: Any) -> Part:
    if not isinstance(item, dict):
        raise ValueError("a document that is none")
    uid = bytes.fromhex(_text(item["uid"]))
    if len(uid) != ID_BYTES:
        raise ValueError("a document's id of another length")
    start, count = item["rows"]
    return Part(
        DocumentMeta(
            uid=uid,
            name=_text(item["name"]),
            path=_text(item["path"]),
            title=_text(item["title"]),
            media_type=_text(item["media_type"]),
            sha256=_text(item["sha256"]),
            size=_whole(item["size"]),
            mtime_ns=_whole(item["mtime_ns"]),
            root=_text(item["root"]),
            created_s=_whole(item["created_s"]),
        ),
        _whole(start),
        _whole(count),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > BASE_PATH_CHARS_MAX:
        raise ValueError("a text that is none, or too long")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("a number that is none, or too large")
    return value


def _select_bytes(data: bytes, keep: NDArray[np.bool_]) -> bytes:
    if not data:
        return b""
    return np.frombuffer(data, np.uint8).reshape(len(keep), -1)[keep].tobytes()
