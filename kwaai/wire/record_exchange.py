"""The two messages in which nodes tell each other records: what I have and you may lack, and the
answer.

Pure. Records travel as the bytes that their peers signed; nothing of them is checked here but their
length. docs/protocol/records.md, "Exchange", has the formats byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kwaai import limits
from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.record_store import ID_BYTES

PROTOCOL: Final = "/kwaai/records/1.0.0"

_PUSH, _COMPARE = 1, 2
_ENTRY_BYTES = ID_BYTES + 8


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request: take these records; and, if `held` is there, tell me what I lack."""

    records: tuple[bytes, ...] = ()
    held: tuple[tuple[bytes, int], ...] | None = None
    """(id, sequence) of every record that the asker holds; None asks for nothing."""


@dataclass(frozen=True, slots=True)
class ExchangeAnswer:
    """Records that the asker lacks, newest first, and ids of those that the answerer lacks."""

    records: tuple[bytes, ...] = ()
    wanted: tuple[bytes, ...] = ()
    more: bool = False
    """The records did not fit: ask again."""


def encode_exchange(request: Exchange) -> bytes:
    """Encode a request."""
    writer = Writer().uint(_PUSH if request.held is None else _COMPARE, 1)
    _encode_records(writer, request.records)
    if request.held is not None:
        writer.uint(len(request.held), 2)
        for record_id, sequence in request.held:
            writer.fixed(record_id, ID_BYTES).uint(sequence, 8)
    return writer.finish()


def parse_exchange(data: bytes) -> Exchange:
    """Parse a request. Raises WireError."""
    reader = Reader(data)
    kind = reader.uint(1, least=_PUSH, most=_COMPARE)
    records = _parse_records(reader)
    held = None
    if kind == _COMPARE:
        count = reader.uint(2)
        if count * _ENTRY_BYTES != reader.left:
            raise WireError(f"{count} entries are not in {reader.left} bytes")
        held = tuple((reader.fixed(ID_BYTES), reader.uint(8)) for _ in range(count))
    reader.finish()
    return Exchange(records, held)


def encode_answer(answer: ExchangeAnswer) -> bytes:
    """Encode an answer."""
    writer = Writer().uint(int(answer.more), 1)
    _encode_records(writer, answer.records)
    writer.uint(len(answer.wanted), 2)
    for record_id in answer.wanted:
        writer.fixed(record_id, ID_BYTES)
    return writer.finish()


def parse_answer(data: bytes) -> ExchangeAnswer:
    """Parse an answer. Raises WireError."""
    reader = Reader(data)
    more = bool(reader.uint(1, most=1))
    records = _parse_records(reader)
    count = reader.uint(2, most=limits.RECORDS_WANTED_MAX)
    wanted = tuple(reader.fixed(ID_BYTES) for _ in range(count))
    reader.finish()
    return ExchangeAnswer(records, wanted, more)


def take_records(records: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the first of `records` that fit into one message."""
    taken: list[bytes] = []
    size = 0
    for data in records:
        size += len(data) + 2
        if size > limits.RECORDS_ANSWER_BYTES_MAX:
            break
        taken.append(data)
    return tuple(taken)


def _encode_records(writer: Writer, records: tuple[bytes, ...]) -> None:
    writer.uint(len(records), 2)
    for data in records:
        writer.blob(data)


def _parse_records(reader: Reader) -> tuple[bytes, ...]:
    count = reader.uint(2, most=limits.RECORDS_MAX)
    return tuple(reader.blob(most=limits.RECORD_BYTES_MAX) for _ in range(count))
