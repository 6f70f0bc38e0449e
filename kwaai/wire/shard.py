"""The control messages of a session along a path, as bytes: open, opened, refused, failed, close,
cancel.

They travel on a link's control channel; steps and tokens (kwaai.wire.step) on the session's own.
Says nothing about order (kwaai.wire.session). docs/protocol/shard.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, TypeVar

from credentials.keys import PUBLIC_KEY_BYTES, PeerId, PublicKey, parse_peer_id, peer_id
from kwaai.limits import (
    ADDRESS_BYTES_MAX,
    BATCH_TOKENS_MAX,
    BLOCKS_MAX,
    HOPS_MAX,
    INTENT_BYTES_MAX,
    NEXT_ADDRESSES_MAX,
    PEER_CODE_BYTES_MAX,
    PEER_TEXT_BYTES_MAX,
    SAMPLING_BYTES_MAX,
)
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.messages import (
    ANY_DTYPE,
    Cancel,
    Close,
    CloseReason,
    Control,
    Failed,
    Open,
    Opened,
    Privacy,
    Probe,
    Progress,
    Refused,
    RefusedReason,
    Tag,
)
from kwaai.wire.step import SESSION_BYTES, handle_bytes
from kwaai.wire.tensors import Dtype

__all__ = [
    "ANY_DTYPE",
    "Cancel",
    "Close",
    "CloseReason",
    "Control",
    "Failed",
    "Open",
    "Opened",
    "Privacy",
    "Probe",
    "Progress",
    "Refused",
    "RefusedReason",
    "encode",
    "encode_sampling",
    "parse_control",
    "printable",
]


def encode(message: Control) -> bytes:
    """Return a control message's bytes. Texts are cut to their bound, and made printable."""
    return _ENCODERS[type(message)](message)


def parse_control(data: bytes | memoryview) -> Control:
    """Parse a control message. Raises WireError for anything that the protocol does not allow."""
    reader = Reader(data)
    tag = reader.uint(1)
    parse = _PARSERS.get(tag)
    if parse is None:
        raise WireError(f"a message of type {tag} does not belong on the control channel")
    message = parse(reader)
    reader.finish()
    return message


def _begin(tag: Tag, session: bytes) -> Writer:
    return Writer().uint(tag, 1).fixed(session, SESSION_BYTES)


def encode_sampling(sampling: Mapping[str, Any]) -> bytes:
    """Return sampling parameters as an OPEN has them: JSON, names sorted, no spaces."""
    return json.dumps(sampling, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def _encode_open(message: Open) -> bytes:
    sampling = b"" if message.sampling is None else encode_sampling(message.sampling)
    if len(sampling) > SAMPLING_BYTES_MAX:
        raise ValueError(f"sampling has {len(sampling)} bytes as JSON, over {SAMPLING_BYTES_MAX}")
    if len(message.intent) > INTENT_BYTES_MAX:
        raise ValueError(f"an intent has {len(message.intent)} bytes, over {INTENT_BYTES_MAX}")
    writer = _begin(Tag.OPEN, message.session).fixed(handle_bytes(message.handle), 32)
    _write_layers(writer, message.layers)
    writer.uint(message.block_count, 2).uint(message.hop, 1).uint(message.hops, 1)
    _write_peer(writer, message.previous)
    _write_peer(writer, message.next)
    _write_layers(writer, message.next_layers)
    writer.uint(message.context_tokens, 4).uint(message.dtypes, 1).uint(message.privacy, 1)
    writer.uint(message.keep_bytes, 4)
    writer.uint(len(message.next_addresses), 1)
    for address in message.next_addresses:
        writer.text(address)
    return writer.blob(sampling).blob(message.intent).finish()


def _parse_open(reader: Reader) -> Open:
    session = reader.fixed(SESSION_BYTES)
    handle = ModelHandle(reader.sha256())
    layers = _read_layers(reader)
    block_count = reader.uint(2, least=1, most=BLOCKS_MAX)
    hop = reader.uint(1, most=HOPS_MAX - 1)
    hops = reader.uint(1, least=hop + 1, most=HOPS_MAX)
    previous, following = _read_peer(reader), _read_peer(reader)
    next_layers = _read_layers(reader)
    context_tokens = reader.uint(4, least=1)
    dtypes = reader.uint(1)
    privacy = _read_one_of(reader, Privacy)
    keep_bytes = reader.uint(4)
    addresses = tuple(
        reader.text(most=ADDRESS_BYTES_MAX) for _ in range(reader.uint(1, most=NEXT_ADDRESSES_MAX))
    )
    sampling = _parse_sampling(reader.blob(most=SAMPLING_BYTES_MAX))
    intent = reader.blob(most=INTENT_BYTES_MAX)
    if layers is None:
        raise WireError("an open names no layers")
    message = Open(
        session=session,
        handle=handle,
        layers=layers,
        block_count=block_count,
        hop=hop,
        hops=hops,
        previous=previous,
        next=following,
        next_layers=next_layers,
        next_addresses=addresses,
        context_tokens=context_tokens,
        dtypes=dtypes,
        privacy=privacy,
        sampling=sampling,
        keep_bytes=keep_bytes,
        intent=intent,
    )
    _check_open(message)
    return message


def _check_open(message: Open) -> None:
    """Raise WireError for an OPEN whose fields contradict one another."""
    layers, following = message.layers, message.next_layers
    if not 1 <= layers.start < layers.stop <= message.block_count:
        # Tokens never travel: block 0, with the embedding, is the requester's.
        raise WireError(f"an open is for layers {layers} of {message.block_count}")
    if not message.dtypes & Dtype.F32:
        raise WireError("an open does not allow float32, which every tensor may need")
    if message.samples != (message.is_last and message.privacy is Privacy.FAST):
        raise WireError("an open does not say what follows, or says it for the end of the path")
    if message.samples != (message.sampling is not None):
        raise WireError("an open tells how to sample to who does not, or does not to who does")
    if following is None:
        ends_right = layers.stop == message.block_count
    else:
        ends_right = layers.stop == following.start and following.stop <= message.block_count
    if following is not None and message.is_last:
        ends_right = ends_right and following.stop == message.block_count
    if not ends_right:
        raise WireError(
            f"an open for layers {layers} of {message.block_count} is followed by {following}"
        )


def _parse_sampling(data: bytes) -> Mapping[str, Any] | None:
    if not data:
        return None
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise WireError("the sampling of an open is not JSON") from None
    if not isinstance(value, dict):
        raise WireError("the sampling of an open is not a JSON object")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is beyond float64")
    return value


def _encode_opened(message: Opened) -> bytes:
    writer = _begin(Tag.OPENED, message.session).uint(message.hop, 1).uint(message.dtype, 1)
    if len(message.offer) > INTENT_BYTES_MAX:
        raise ValueError(f"an offer has {len(message.offer)} bytes, over {INTENT_BYTES_MAX}")
    writer.uint(message.batch_tokens, 4).uint(message.rtt_next_us, 4)
    writer.uint(message.bandwidth_next, 8).uint(message.decode_us, 4)
    return writer.blob(message.offer).finish()


def _parse_opened(reader: Reader) -> Opened:
    return Opened(
        session=reader.fixed(SESSION_BYTES),
        hop=reader.uint(1, most=HOPS_MAX - 1),
        dtype=_read_one_of(reader, Dtype),
        batch_tokens=reader.uint(4, least=1, most=BATCH_TOKENS_MAX),
        rtt_next_us=reader.uint(4),
        bandwidth_next=reader.uint(8),
        decode_us=reader.uint(4),
        offer=reader.blob(most=INTENT_BYTES_MAX),
    )


def _encode_refused(message: Refused) -> bytes:
    writer = _begin(Tag.REFUSED, message.session).uint(message.hop, 1).uint(message.reason, 1)
    writer.text(printable(message.message), 2)
    return writer.uint(message.retry_after_ms, 4).finish()


def _parse_refused(reader: Reader) -> Refused:
    return Refused(
        session=reader.fixed(SESSION_BYTES),
        hop=reader.uint(1, most=HOPS_MAX - 1),
        reason=_read_one_of(reader, RefusedReason),
        message=reader.text(2, most=PEER_TEXT_BYTES_MAX),
        retry_after_ms=reader.uint(4),
    )


def _encode_failed(message: Failed) -> bytes:
    writer = _begin(Tag.FAILED, message.session).uint(message.step, 8)
    _write_peer(writer, message.culprit)
    writer.text(printable(message.code, PEER_CODE_BYTES_MAX))
    writer.text(printable(message.message), 2)
    return writer.uint(message.retry_after_ms, 4).finish()


def _parse_failed(reader: Reader) -> Failed:
    return Failed(
        session=reader.fixed(SESSION_BYTES),
        step=reader.uint(8),
        culprit=_read_peer(reader),
        code=reader.text(most=PEER_CODE_BYTES_MAX),
        message=reader.text(2, most=PEER_TEXT_BYTES_MAX),
        retry_after_ms=reader.uint(4),
    )


def _encode_close(message: Close) -> bytes:
    return _begin(Tag.CLOSE, message.session).uint(message.reason, 1).finish()


def _parse_close(reader: Reader) -> Close:
    return Close(reader.fixed(SESSION_BYTES), _read_one_of(reader, CloseReason))


def _encode_cancel(message: Cancel) -> bytes:
    return _begin(Tag.CANCEL, message.session).uint(message.from_step, 8).finish()


def _parse_cancel(reader: Reader) -> Cancel:
    return Cancel(reader.fixed(SESSION_BYTES), reader.uint(8))


def _encode_probe(message: Probe) -> bytes:
    return _begin(Tag.PROBE, message.session).finish()


def _parse_probe(reader: Reader) -> Probe:
    return Probe(reader.fixed(SESSION_BYTES))


def _encode_progress(message: Progress) -> bytes:
    writer = _begin(Tag.PROGRESS, message.session).uint(message.hop, 1)
    return writer.uint(message.received, 8).uint(message.sent, 8).finish()


def _parse_progress(reader: Reader) -> Progress:
    return Progress(
        session=reader.fixed(SESSION_BYTES),
        hop=reader.uint(1, most=HOPS_MAX - 1),
        received=reader.uint(8),
        sent=reader.uint(8),
    )


def _write_layers(writer: Writer, layers: LayerRange | None) -> None:
    start, stop = (layers.start, layers.stop) if layers else (0, 0)
    writer.uint(start, 2).uint(stop, 2)


def _read_layers(reader: Reader) -> LayerRange | None:
    start, stop = reader.uint(2), reader.uint(2, most=BLOCKS_MAX)
    if start == stop == 0:
        return None
    if not start < stop:
        raise WireError(f"a range of layers is [{start},{stop})")
    return LayerRange(start, stop)


def _write_peer(writer: Writer, peer: PeerId) -> None:
    writer.fixed(parse_peer_id(peer).raw, PUBLIC_KEY_BYTES)


def _read_peer(reader: Reader) -> PeerId:
    return peer_id(PublicKey(reader.fixed(PUBLIC_KEY_BYTES)))


_E = TypeVar("_E", bound=IntEnum)


def _read_one_of(reader: Reader, kind: type[_E]) -> _E:
    value = reader.uint(1)
    try:
        return kind(value)
    except ValueError:
        raise WireError(f"a {kind.__name__} is {value}, which this version has not") from None


def printable(text: str, bytes_max: int = PEER_TEXT_BYTES_MAX) -> str:
    """Return `text` as a message may carry it: on one line, printable, at most so many bytes."""
    line = "".join(c if c.isprintable() else " " for c in text[:bytes_max])
    return line.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    Open: _encode_open,
    Opened: _encode_opened,
    Refused: _encode_refused,
    Failed: _encode_failed,
    Close: _encode_close,
    Cancel: _encode_cancel,
    Probe: _encode_probe,
    Progress: _encode_progress,
}
_PARSERS: dict[int, Callable[[Reader], Control]] = {
    Tag.OPEN: _parse_open,
    Tag.OPENED: _parse_opened,
    Tag.REFUSED: _parse_refused,
    Tag.FAILED: _parse_failed,
    Tag.CLOSE: _parse_close,
    Tag.CANCEL: _parse_cancel,
    Tag.PROBE: _parse_probe,
    Tag.PROGRESS: _parse_progress,
}
