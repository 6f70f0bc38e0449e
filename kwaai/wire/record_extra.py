"""What a record's `extra` holds: entries of (tag, bytes), so that parts of the node that know
nothing of one another can each add something.

Pure. Entries with unknown tags are kept; what is in an entry is for its owner. docs/protocol/
records.md, "Extra".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kwaai import limits
from kwaai.wire.codec import Reader, WireError, Writer

TAG_BYTES: Final = 1
TAG_MAX: Final = 255
SIZE_BYTES: Final = 2


def encode_extra(entries: Mapping[int, bytes]) -> bytes:
    """Encode entries in the order of their tags; none is no byte at all. Raises ValueError for a
    tag below 1 or above 255, or when it is more than a record takes.
    """
    writer = Writer()
    for tag, data in sorted(entries.items()):
        if not 0 < tag <= TAG_MAX:
            raise ValueError(f"{tag} is no tag of an entry")
        if len(data) > limits.RECORD_EXTRA_BYTES_MAX:
            raise ValueError(f"an entry has {len(data)} bytes: more than a record takes")
        writer.uint(tag, TAG_BYTES).blob(data, SIZE_BYTES)
    found = writer.finish()
    if len(found) > limits.RECORD_EXTRA_BYTES_MAX:
        raise ValueError(
            f"{len(entries)} entries have {len(found)} bytes: more than a record takes"
        )
    return found


def parse_extra(data: bytes) -> dict[int, bytes]:
    """Return the entries by tag. Raises WireError: a tag that does not rise, bytes missing."""
    reader, entries, last = Reader(data), dict[int, bytes](), 0
    while reader.left:
        tag = reader.uint(TAG_BYTES, least=1)
        if tag <= last:
            raise WireError(f"the entry {tag} comes behind the entry {last}")
        last = tag
        entries[tag] = reader.blob(SIZE_BYTES, most=limits.RECORD_EXTRA_BYTES_MAX)
    return entries
