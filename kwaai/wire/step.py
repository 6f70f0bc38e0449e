"""The messages of a session's own channel: a STEP from hop to hop, TOKENS back to the requester.

The hot path: a fixed header is packed and unpacked at once, and a float32 tensor is never copied.
Says nothing about order (kwaai.wire.session) and nothing about opening (kwaai.wire.shard).
docs/protocol/shard.md, "STEP" and "TOKENS".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from kwaai.limits import (
    BATCH_TOKENS_MAX,
    BLOCKS_MAX,
    EMBEDDING_LENGTH_MAX,
    HOPS_MAX,
    LINK_MESSAGE_BYTES_MAX,
)
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import WireError
from kwaai.wire.tensors import Dtype, Rows, encode_rows, parse_rows

STEP_TAG = 4
TOKENS_TAG = 5
SESSION_BYTES = 16
HANDLE_PREFIX = "sha256:"

# tag, kind, dtype, timings; count, outputs; session; step; handle; start, stop; position; width;
# reserved. 80 bytes, and 16 for each timing: the tensor starts at a multiple of 16.
_STEP = struct.Struct(">BBBBHH16sQ32sHHIII")
# tag, timings, tokens; session; step; position.
_TOKENS = struct.Struct(">BBH16sQI")
_TIMING = struct.Struct(">IIII")
_U32_MAX = 2**32 - 1


class StepKind(IntEnum):
    """What a step does to a session."""

    PREFILL = 0
    """Append a piece of the prompt."""
    DECODE = 1
    """Append one token and answer for it."""
    VERIFY = 2
    """Append several guessed tokens and answer for the last `outputs` of them."""
    ROLLBACK = 3
    """Forget every position from `position` on."""


_KINDS = {int(kind): kind for kind in StepKind}
_DTYPES = {int(dtype): dtype for dtype in Dtype}


class Timing(NamedTuple):
    """What one hop spent on one step, in microseconds. A peer's word: shown, never relied on."""

    hop: int
    queue_us: int
    compute_us: int
    link_us: int
    """Encoding, and waiting for the link's credit, of the step that this hop got: 0 if unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Hidden states on their way to the holder of `layers`, or a rollback. Not comparable: rows."""

    session: bytes
    step: int
    kind: StepKind
    handle: ModelHandle
    layers: LayerRange
    """What the receiver runs: an error in routing is seen at once."""
    position: int
    """Of the first row. For a rollback: the first position to forget."""
    count: int
    """Positions appended, which is the number of rows. 0 for a rollback."""
    outputs: int
    """For how many of the last positions the end of the path answers."""
    dtype: Dtype
    """When encoding: the type wished for. When parsed: the type that was on the wire."""
    rows: Rows | None
    """float32 (count, width); None for a rollback. When parsed: do not write to it."""
    timings: tuple[Timing, ...] = ()
    """One for each hop that the step has passed, in order."""

    @property
    def width(self) -> int:
        """Numbers per row; 0 for a rollback."""
        return 0 if self.rows is None else self.rows.shape[1]

    @property
    def kept_bytes(self) -> int:
        """Memory that the rows hold."""
        return 0 if self.rows is None else self.rows.nbytes


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the last hop sampled for one step (fast mode): as many tokens as outputs."""

    session: bytes
    step: int
    position: int
    """The step's."""
    tokens: tuple[int, ...]
    timings: tuple[Timing, ...] = ()

    @property
    def kept_bytes(self) -> int:
        """Memory that the tokens hold."""
        return 8 * len(self.tokens)


def encode_step(step: Step) -> tuple[bytes, memoryview]:
    """Return a step's header and its tensor, to be sent one after the other.

    The tensor shares memory with `step.rows` where it can. It is empty for a rollback.
    """
    rows = step.rows
    if rows is None:
        dtype, tensor, width = 0, memoryview(b""), 0
    else:
        dtype, tensor = encode_rows(rows, step.dtype)
        width = rows.shape[1]
    timings = step.timings
    header = _STEP.pack(
        STEP_TAG,
        step.kind,
        dtype,
        len(timings),
        step.count,
        step.outputs,
        step.session,
        step.step,
        handle_bytes(step.handle),
        step.layers.start,
        step.layers.stop,
        step.position,
        width,
        0,
    )
    if timings:
        header += _encode_timings(timings)
    return header, tensor


def encode_tokens(message: Tokens) -> bytes:
    """Return a TOKENS message's bytes."""
    header = _TOKENS.pack(
        TOKENS_TAG,
        len(message.timings),
        len(message.tokens),
        message.session,
        message.step,
        message.position,
    )
    tokens = struct.pack(f">{len(message.tokens)}I", *message.tokens)
    return header + _encode_timings(message.timings) + tokens


def parse_data(data: bytes | memoryview) -> Step | Tokens:
    """Parse what came on a session's channel. Raises WireError for anything else."""
    if not data:
        raise WireError("a message is empty")
    if data[0] == STEP_TAG:
        return parse_step(data)
    if data[0] == TOKENS_TAG:
        return parse_tokens(data)
    raise WireError(f"a message of type {data[0]} does not belong on a session's channel")


def parse_step(data: bytes | memoryview) -> Step:
    """Parse a STEP. Its rows share memory with `data` if they are float32. Raises WireError."""
    if not _STEP.size <= len(data) <= LINK_MESSAGE_BYTES_MAX:
        raise WireError(
            f"a step has {len(data)} bytes, not {_STEP.size} to {LINK_MESSAGE_BYTES_MAX}"
        )
    (
        tag,
        kind_number,
        dtype_number,
        timing_count,
        count,
        outputs,
        session,
        number,
        handle,
        start,
        stop,
        position,
        width,
        reserved,
    ) = _STEP.unpack_from(data)
    kind = _KINDS.get(kind_number)
    if tag != STEP_TAG or kind is None or reserved:
        raise WireError(f"no step of this version: type {tag}, kind {kind_number}, {reserved}")
    if not start < stop <= BLOCKS_MAX:
        raise WireError(f"a step is for layers [{start},{stop})")
    view = memoryview(data)
    tensor_at = _STEP.size + _TIMING.size * timing_count
    timings = _parse_timings(view[_STEP.size : tensor_at], timing_count) if timing_count else ()
    if kind is StepKind.ROLLBACK:
        if count or outputs or dtype_number or width or len(data) != tensor_at:
            raise WireError("a rollback carries hidden states")
        dtype, rows = Dtype.F32, None
    else:
        dtype = _check_shape(kind, count, outputs, dtype_number, position, width)
        rows = parse_rows(view[tensor_at:], dtype, count, width)
    return Step(
        session,
        number,
        kind,
        ModelHandle(HANDLE_PREFIX + handle.hex()),
        LayerRange(start, stop),
        position,
        count,
        outputs,
        dtype,
        rows,
        timings,
    )


def _check_shape(
    kind: StepKind, count: int, outputs: int, dtype_number: int, position: int, width: int
) -> Dtype:
    """Return the type of a step's tensor. Raises WireError for a shape that its kind forbids."""
    dtype = _DTYPES.get(dtype_number)
    if dtype is None:
        raise WireError(f"hidden states are of type {dtype_number}, which this version has not")
    if not 1 <= width <= EMBEDDING_LENGTH_MAX:
        raise WireError(f"hidden states are {width} wide, not 1 to {EMBEDDING_LENGTH_MAX}")
    if not 1 <= count <= BATCH_TOKENS_MAX or position + count > _U32_MAX:
        raise WireError(f"a step has {count} rows, from position {position} on")
    if kind is StepKind.DECODE:
        fits = count == outputs == 1
    elif kind is StepKind.VERIFY:
        fits = 1 <= outputs <= count
    else:
        fits = outputs <= count
    if not fits:
        raise WireError(f"a {kind.name.lower()} step has {count} rows and {outputs} outputs")
    return dtype


def parse_tokens(data: bytes | memoryview) -> Tokens:
    """Parse TOKENS. Raises WireError."""
    if len(data) < _TOKENS.size:
        raise WireError(f"a message of tokens has {len(data)} bytes, not {_TOKENS.size} or more")
    tag, timing_count, token_count, session, number, position = _TOKENS.unpack_from(data)
    tokens_at = _TOKENS.size + _TIMING.size * timing_count
    if tag != TOKENS_TAG or token_count > BATCH_TOKENS_MAX:
        raise WireError(f"no message of tokens: type {tag} with {token_count} tokens")
    if len(data) != tokens_at + 4 * token_count:
        raise WireError(
            f"a message of {token_count} tokens and {timing_count} timings has {len(data)} bytes, "
            f"not {tokens_at + 4 * token_count}"
        )
    timings = _parse_timings(memoryview(data)[_TOKENS.size : tokens_at], timing_count)
    tokens = struct.unpack_from(f">{token_count}I", data, tokens_at)
    return Tokens(session, number, position, tokens, timings)


def _encode_timings(timings: Sequence[Timing]) -> bytes:
    return b"".join([_TIMING.pack(*timing) for timing in timings])


def _parse_timings(data: memoryview, count: int) -> tuple[Timing, ...]:
    if count > HOPS_MAX or len(data) != count * _TIMING.size:
        raise WireError(f"a message of {len(data)} bytes here announces {count} timings")
    timings = tuple(map(Timing._make, _TIMING.iter_unpack(data)))
    if any(timing.hop >= HOPS_MAX for timing in timings):
        raise WireError(f"a timing is of a hop beyond {HOPS_MAX}")
    return timings


def microseconds(duration_s: float) -> int:
    """Return a duration as a timing holds it: within [0, 2^32)."""
    return max(0, min(_U32_MAX, round(duration_s * 1e6)))


def handle_bytes(handle: ModelHandle) -> bytes:
    """Return a handle's 32 bytes. Raises ValueError for what is no handle."""
    if not handle.startswith(HANDLE_PREFIX):
        raise ValueError(f"{handle!r:.80} is no model handle (sha256:...)")
    return bytes.fromhex(handle[len(HANDLE_PREFIX) :])
