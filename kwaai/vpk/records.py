"""The plain bytes of records: a vector as int8 with its scale; a passage's text with its citation.

Sealing is `kwaai.vpk.seal`'s. What opens was sealed by somebody with the keys; it is checked all
the same. docs/vpk.md, "Records".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kwaai.errors import RecordInvalid
from kwaai.limits import (
    VPK_DIMENSION_MAX,
    VPK_DOCUMENT_NAME_BYTES_MAX,
    VPK_HEADING_BYTES_MAX,
    VPK_HEADINGS_MAX,
    VPK_PASSAGE_BYTES_MAX,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCALE_BYTES: Final = 4
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BIIIHB")  # version, page, start, stop, name's bytes, headings
_PAGE_MAX: Final = 2**32 - 1
_CHARS_MAX: Final = 2**32 - 1
_LEVELS: Final = 127
_ENCODED: Final = 256
"""Vectors that are encoded at a time: 0.4 MB of float32 stay near the processor."""
_PLAIN_BYTES_MAX: Final = (
    _HEAD.size
    + VPK_DOCUMENT_NAME_BYTES_MAX
    + VPK_HEADINGS_MAX * (2 + VPK_HEADING_BYTES_MAX)
    + VPK_PASSAGE_BYTES_MAX
)


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A passage and where it is from."""

    text: str
    document: str
    """The document's name."""
    heading: tuple[str, ...] = ()
    """The headings above it, the outermost first."""
    page: int | None = None
    """From 1."""
    start: int = 0
    stop: int = 0
    """Characters of the document's text, half-open."""


def vector_bytes(dimension: int) -> int:
    """Return the plain bytes of a vector's record."""
    return SCALE_BYTES + dimension


def encode_vector(vector: NDArray[np.float32]) -> bytes:
    """Encode one vector, float32 (dim,), as 4 + dim bytes."""
    return encode_vectors(vector[None])[0]


def encode_vectors(vectors: NDArray[np.float32]) -> list[bytes]:
    """Encode vectors, float32 (n, dim): a big-endian f32 scale, then int8 values each.

    value = scale * int8, scale = largest magnitude / 127. Raises ValueError for values that are not
    finite and for shapes that cannot be.
    """
    if vectors.ndim != 2 or not 1 <= vectors.shape[1] <= VPK_DIMENSION_MAX:
        raise ValueError(f"vectors are (n, 1 to {VPK_DIMENSION_MAX}), not {vectors.shape}")
    records = []
    for start in range(0, len(vectors), _ENCODED):
        records += _encode(vectors[start : start + _ENCODED])
    return records


def _encode(vectors: NDArray[np.float32]) -> list[bytes]:
    import numpy as np

    count, dimension = vectors.shape
    largest = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float32)
    if not np.isfinite(largest).all():
        raise ValueError("a vector has values that are not finite")
    scale = np.maximum(largest / np.float32(_LEVELS), np.finfo(np.float32).tiny)
    size = vector_bytes(dimension)
    records = np.empty((count, size), np.uint8)
    said = np.where(largest > 0, scale, 0).astype(">f4")
    records[:, :SCALE_BYTES] = said[:, None].view(np.uint8)
    levels = np.rint(vectors / scale[:, None])
    np.clip(levels, -_LEVELS, _LEVELS, out=levels)
    records[:, SCALE_BYTES:] = levels.astype(np.int8).view(np.uint8)
    data = records.tobytes()
    return [data[at : at + size] for at in range(0, len(data), size)]


def decode_vectors(records: Sequence[bytes], dimension: int) -> NDArray[np.float32]:
    """Decode records of vectors to float32 (n, dimension). Raises RecordInvalid."""
    import numpy as np

    size = vector_bytes(dimension)
    if set(map(len, records)) - {size}:
        raise RecordInvalid(f"a vector of {dimension} dimensions has {size} bytes")
    rows = np.frombuffer(b"".join(records), _vector_type(dimension))
    scale = rows["scale"].astype(np.float32)
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise RecordInvalid("a vector's scale is no finite number above 0")
    vectors: NDArray[np.float32] = rows["levels"].astype(np.float32) * scale[:, None]
    return vectors


def encode_text(record: TextRecord) -> bytes:
    """Encode a passage with its citation, compressed. Raises ValueError for what is out of bounds
    (VPK_PASSAGE_BYTES_MAX and its like; names and headings are cut instead).
    """
    text = record.text.encode("utf-8")
    if len(text) > VPK_PASSAGE_BYTES_MAX:
        raise ValueError(f"a passage has at most {VPK_PASSAGE_BYTES_MAX} bytes, not {len(text)}")
    name = _cut(record.document, VPK_DOCUMENT_NAME_BYTES_MAX)
    headings = [_cut(title, VPK_HEADING_BYTES_MAX) for title in record.heading[:VPK_HEADINGS_MAX]]
    page = 0 if record.page is None else record.page
    if not (0 <= page <= _PAGE_MAX and 0 <= record.start <= record.stop <= _CHARS_MAX):
        raise ValueError(f"a citation of page {page}, {record.start} to {record.stop}, cannot be")
    head = _HEAD.pack(_VERSION, page, record.start, record.stop, len(name), len(headings))
    parts = [head, name]
    for title in headings:
        parts += [len(title).to_bytes(2, "big"), title]
    return zlib.compress(b"".join([*parts, text]), 6)


def parse_text(data: bytes) -> TextRecord:
    """Parse what `encode_text` made. Raises RecordInvalid."""
    plain = _inflate(data)
    try:
        version, page, start, stop, name_bytes, headings = _HEAD.unpack_from(plain)
        if version != _VERSION or start > stop or name_bytes > VPK_DOCUMENT_NAME_BYTES_MAX:
            raise RecordInvalid("a passage's record is not what this version writes")
        at = _HEAD.size
        name, at = _take(plain, at, name_bytes)
        titles = []
        for _ in range(headings):
            (length,) = struct.unpack_from(">H", plain, at)
            title, at = _take(plain, at + 2, length)
            titles.append(title)
        text = plain[at:].decode("utf-8")
    except (struct.error, UnicodeDecodeError) as error:
        raise RecordInvalid("a passage's record is not what this version writes") from error
    return TextRecord(text, name, tuple(titles), page or None, start, stop)


def _take(plain: bytes, at: int, length: int) -> tuple[str, int]:
    if at + length > len(plain):
        raise RecordInvalid("a passage's record ends early")
    return plain[at : at + length].decode("utf-8"), at + length


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, _PLAIN_BYTES_MAX + 1)
    except zlib.error as error:
        raise RecordInvalid("a passage's record is not compressed as it should be") from error
    if not inflater.eof or inflater.unused_data or len(plain) > _PLAIN_BYTES_MAX:
        raise RecordInvalid("a passage's record has more bytes than it may, or an open end")
    return plain


def _cut(text: str, bytes_max: int) -> bytes:
    """UTF-8 of a text, cut between characters where it is too long."""
    data = text.encode("utf-8")
    if len(data) <= bytes_max:
        return data
    return data[:bytes_max].decode("utf-8", "ignore").encode("utf-8")


def _vector_type(dimension: int) -> np.dtype[np.void]:
    import numpy as np

    return np.dtype([("scale", ">f4"), ("levels", "i1", (dimension,))])
