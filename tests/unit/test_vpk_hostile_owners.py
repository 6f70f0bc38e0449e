"""An owner who shares a base of nonsense: the reader's node says so, and goes on."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kwaai.vpk.segments as segments_of
from kwaai.errors import FileCorrupt, KwaaiError
from kwaai.testing.vpk_hosts import local_hosts
from kwaai.vpk.access import SharedKeys
from kwaai.vpk.base import Base
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keys import SEGMENT, RootKey
from kwaai.vpk.manifest import (
    NO_DIGEST,
    HostRef,
    Manifest,
    RowRun,
    SegmentRef,
    digest,
    sign_manifest,
)
from kwaai.vpk.query import Query
from kwaai.vpk.seal import seal
from kwaai.vpk.segments import DocumentMeta, Part, Segment, encode_segment
from kwaai.vpk.types import EmbedderSpec

OWNER = RootKey(b"\x0e" * 32)
BASE_ID = b"s" * 16
ACCESS = OWNER.access(BASE_ID)
READER = SharedKeys(ACCESS.tenant, ACCESS.keys, b"l" * 32)
SPEC = EmbedderSpec("test", "", 16, True)
META = DocumentMeta(b"u" * 16, "a", "/a", "a", "text/plain", "00", 1, 1, "/", 1)


def manifest(**changes: Any) -> Manifest:
    made = Manifest(
        base=BASE_ID,
        name="theirs",
        sequence=1,
        previous=NO_DIGEST,
        epoch=1,
        mode="sealed",
        embedder=None,
        params=b"",
        segments=(),
        removed=(),
        hosts=(HostRef("here", "x", 1.0, True),),
        generation=0,
        replicas=1,
        created_s=1.0,
        published_s=1.0,
        writers=(),
    )
    return replace(made, **changes)


async def put(hosts: HostSet, payload: bytes, count: int) -> SegmentRef:
    name = os.urandom(16)
    sealed = seal(ACCESS.keys, ACCESS.tenant, SEGMENT, name, payload)
    await hosts.put_large(BASE_ID, name, sealed)
    return SegmentRef(name, count, len(sealed), digest(sealed))


async def share(hosts: HostSet, made: Manifest) -> None:
    signer = ACCESS.check_owner("theirs")
    data = sign_manifest(made, signer, ACCESS.keys)
    await hosts.put_manifest(BASE_ID, made.sequence, data, lambda _: made)


def rows_at(writer: int, start: int, count: int) -> np.ndarray:
    numbers = np.arange(count, dtype=np.uint64) + np.uint64(start)
    return np.column_stack((np.full(count, writer, np.uint64), numbers))


def part(**changes: Any) -> tuple[Part, ...]:
    return (Part(replace(META, **changes), 0, 2),)


def twice_the_same_document() -> Segment:
    one = Part(META, 0, 1)
    return Segment(rows_at(1, 0, 2), (one, replace(one, start=1)), (("a", "b"), ("c", "d")))


def same_row_twice() -> Segment:
    return Segment(np.array([[1, 5], [1, 5]], np.uint64), part(), (("a", "b"), ("c", "d")))


TEXTS = (("a", "b"), ("c", "d"))
BAD: dict[str, Callable[[], Segment]] = {
    "surrogates in a name": lambda: Segment(rows_at(1, 0, 2), part(name="\ud800"), TEXTS),
    "surrogates in a path": lambda: Segment(rows_at(1, 0, 2), part(path="/\udcff"), TEXTS),
    "surrogates in a text": lambda: Segment(rows_at(1, 0, 2), part(), (("\ud800", "b"), TEXTS[1])),
    "surrogates in a context": lambda: Segment(
        rows_at(1, 0, 2), part(), (("a", "\udfff"), TEXTS[1])
    ),
    "zeros in a text": lambda: Segment(
        rows_at(1, 0, 2), part(name="a\0b"), (("a\0b", ""), ("", ""))
    ),
    "the same document twice": twice_the_same_document,
    "the same row twice": same_row_twice,
    "rows at the end of numbers": lambda: Segment(rows_at(1, 2**63 - 1, 2), part(), TEXTS),
    "writers at the end of numbers": lambda: Segment(rows_at(2**63 - 1, 0, 2), part(), TEXTS),
    "codes of no index": lambda: Segment(rows_at(1, 0, 2), part(), TEXTS, codes=b"xy"),
    "vectors unasked": lambda: Segment(rows_at(1, 0, 2), part(), TEXTS, vectors=b"xy"),
    "escapes in a name": lambda: Segment(rows_at(1, 0, 2), part(name="\x1b]0;pwned\x07"), TEXTS),
}


@pytest.mark.parametrize("what", BAD)
async def test_segments_of_nonsense(tmp_path: Path, what: str) -> None:
    with local_hosts(tmp_path / "host.db", OWNER) as hosts:
        segment = BAD[what]()
        ref = await put(hosts, encode_segment(segment), len(segment))
        await share(hosts, manifest(segments=(ref,)))
        await _look(tmp_path, hosts)
        # And again, with rows that are removed, and one more manifest.
        runs = (RowRun(1, 0, 1), RowRun(1, 5, 6))
        await share(hosts, manifest(sequence=2, removed=runs, segments=(ref,)))
        await _look(tmp_path, hosts)


async def _look(tmp_path: Path, hosts: HostSet) -> None:
    try:
        base = await Base.restore(tmp_path / "r", READER, BASE_ID, hosts)
    except KwaaiError:
        return
    try:
        await base.refresh()
        base.documents()
        base.stats()
        await base.search(Query("a c pwned", k=5))
    except KwaaiError:
        pass
    finally:
        base.close()


NUMBERS = [0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 2]


@pytest.mark.parametrize("writer", NUMBERS)
@pytest.mark.parametrize("start", NUMBERS)
async def test_removed_rows_of_nonsense(tmp_path: Path, writer: int, start: int) -> None:
    with local_hosts(tmp_path / "host.db", OWNER) as hosts:
        segment = Segment(rows_at(1, 0, 2), part(), TEXTS)
        ref = await put(hosts, encode_segment(segment), 2)
        try:
            await share(
                hosts, manifest(segments=(ref,), removed=(RowRun(writer, start, start + 1),))
            )
        except (KwaaiError, ValueError):
            return  # nobody can publish that with this program; another one is refused by readers
        await _look(tmp_path, hosts)


@pytest.mark.parametrize(
    "changes",
    [
        {"params": b"\1"},
        {"params": b"\1\xff\xff" + bytes(5000)},
        {"params": b"\1\x10\0" + bytes(16) + b"\x00\x7e" * 16},  # NaN
        {"params": b"\1\x10\0" + bytes(16) + b"\x00\x7c" * 16},  # infinite
        {"params": b"\1\x10\0" + b"\xff" * 16 + b"\xff\x7b" * 16},
        {"thin": b"\1" + b"\xff" * 28},
        {"mode": "oblivious", "text_bytes": 2**26},
        {"hosts": (HostRef("here", "x", 0.0, True),)},
        {"hosts": ()},
        {"hosts": (HostRef("\x1b[2J", "\x1b[2J", 1.0, False),)},
        {"name": "\x1b[2J/../x"},
        {"created_s": 1.8e16, "published_s": 1.8e16},
        {"replicas": 255},
        {"embedder": EmbedderSpec("\x1b[2J", "zz", 4096, True)},
        {"segments": (SegmentRef(b"q" * 16, 2**32 - 1, 2**26, b"d" * 32, coding="99/99"),)},
        {"segments": (SegmentRef(b"q" * 16, 0, 0, b"d" * 32, coding="1/1"),)},
        {"removed": (RowRun(1, 0, 2**40),)},
    ],
)
async def test_manifests_of_nonsense(tmp_path: Path, changes: dict[str, Any]) -> None:
    with local_hosts(tmp_path / "host.db", OWNER) as hosts:
        await share(hosts, manifest(embedder=SPEC) if "params" in changes else manifest())
        base = await Base.restore(tmp_path / "r", READER, BASE_ID, hosts, name="x")
        try:
            await share(hosts, manifest(sequence=2, **changes))
            await base.refresh()
            base.stats()
            base.published_hosts()
            await base.search(Query("a", np.ones(16, np.float32) / 4, k=5))
        except (KwaaiError, ValueError):  # what this program does not sign, no reader takes
            pass
        finally:
            base.close()


def test_segment_bombs_stop_at_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment of a few bytes that opens to a gigabyte of zeros is refused before it is there."""
    packed = zlib.compress(bytes(64 << 20), 9)
    head = segments_of._HEAD.pack(b"KSG1", 1, 1, 20, 0, 0, len(packed), 1 << 20, 0, bytes(16))
    runs = segments_of.encode_runs(rows_at(1, 0, 1))
    tracemalloc.start()
    try:
        with pytest.raises(FileCorrupt):
            segments_of.parse_segment(head + runs + packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
