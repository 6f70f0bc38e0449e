"""Published segments: how a manifest names them, and how they are fetched.

docs/vpk.md, "Segments".
"""

from __future__ import annotations

import asyncio
import json

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import FileCorrupt, RecordInvalid, SealBroken
from kwaai.limits import BASE_DEAD_ROWS_MAX
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core
from kwaai.vpk.keys import SEGMENT
from kwaai.vpk.manifest import NO_DIGEST, Manifest, SegmentRef, digest
from kwaai.vpk.seal import open_sealed
from kwaai.vpk.segments import Segment, parse_segment, rows_of


async def fetch_segment(core: Core, ref: SegmentRef) -> Segment:
    """Fetch, open and parse a published segment. Raises TooFewHosts, RecordInvalid."""

    def opened(sealed: bytes) -> bytes:
        if digest(sealed) != ref.digest:
            raise SealBroken(f"segment {ref.id.hex()} is not the one that was published")
        return open_sealed(core.keys, core.tenant, SEGMENT, ref.id, sealed)

    plain = await core.hosts.get_large(core.id, ref.id, opened)
    try:
        segment = await asyncio.to_thread(parse_segment, plain)
    except FileCorrupt as error:
        raise RecordInvalid(error.message) from error
    if len(segment) != ref.rows:
        raise RecordInvalid(f"segment {ref.id.hex()} has other rows than the manifest says")
    return segment


def dead_rows(manifest: Manifest) -> NDArray[np.uint64]:
    """Return the rows that a manifest says were removed. Raises RecordInvalid."""
    runs = [(run.writer, run.start, run.stop - run.start) for run in manifest.removed]
    if sum(count for _, _, count in runs) > BASE_DEAD_ROWS_MAX:
        raise RecordInvalid("a manifest names more removed rows than a base may have")
    return rows_of(runs)


def encode_reference(ref: SegmentRef) -> bytes:
    """Return how the manifest names a segment, for the database."""
    return json.dumps([ref.size_bytes, ref.digest.hex(), ref.coding, ref.epoch]).encode()


def parse_reference(data: bytes, segment: rows.SegmentRow) -> SegmentRef:
    """Return a segment's entry of the manifest. Raises FileCorrupt."""
    try:
        size_bytes, found, coding, epoch = json.loads(data)
        return SegmentRef(
            segment.id,
            segment.rows,
            int(size_bytes),
            bytes.fromhex(found),
            NO_DIGEST,
            str(coding),
            int(epoch),
        )
    except (ValueError, TypeError) as error:
        raise FileCorrupt(
            f"the knowledge base's database is damaged ({error}); {rows.SCHEMA.remedy}"
        ) from error


def keys_of(segment: rows.SegmentRow) -> NDArray[np.uint64]:
    """Return the (writer, number) of a segment's rows, in its order."""
    runs = rows.parse_local_runs(segment.runs)
    return rows_of(zip(runs["writer"], runs["start"], runs["count"], strict=True))
