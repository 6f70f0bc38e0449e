"""What a node says of itself: which layers of which models it serves, where, and for how long, as
bytes that it signs.

Pure: no clock, no network, no store. A record that comes out of `verify_record` was signed by the
peer that it names and holds now; nothing else here may be believed. docs/protocol/records.md has
the format byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

from credentials.errors import CredentialsError
from credentials.keys import SIGNATURE_BYTES, PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import PeerError
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.signed import (
    VERSION_BYTES,
    begin_signed,
    end_signed,
    read_signed,
    read_signer,
    verify_signer,
)

RECORD_VERSION: Final = 1
SIGNATURE_DOMAIN: Final = b"kwaainet record 1\x00"
"""Precedes the signed bytes, so that no signature made for something else passes here."""
NAMESPACE: Final = "kwaai"

State: TypeAlias = Literal["joining", "online", "draining", "offline"]
STATES: Final[tuple[State, ...]] = get_args(State)

Reason: TypeAlias = Literal[
    "size", "format", "version", "key", "lifetime", "future", "expired", "signature"
]
"""Why a record is refused: too many bytes; fields missing, left over or out of bounds; a version
that is not known here; found under a key that is not its peer's; a lifetime that is not allowed;
issued in the future; expired; not signed by the peer that it names.
"""

_WITHDRAWN = 1
_HEAD = 1
_DIVISIBLE = 2
_HANDLE_PREFIX = "sha256:"


class RecordInvalid(PeerError):
    """A record that may be neither stored nor used."""

    code = "record_invalid"

    def __init__(
        self,
        message: str,
        reason: Reason = "format",
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        peer: str | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s, peer=peer)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Served:
    """One range of one model that a node serves."""

    handle: ModelHandle
    model: str
    """The node's name for the model; for people only."""
    block_count: int
    """Of the whole model."""
    layers: LayerRange
    head: bool
    """Holds the output head too; only a range that ends with the model can."""
    state: State
    context_tokens: int
    sessions_max: int
    sessions_free: int
    batch_tokens: int
    embd: int
    """Floats in a row of activations."""
    decode_us: int = 0
    """One token through the range; 0 is unknown."""
    prefill_tokens_s: float = 0.0
    """0 is unknown. Four bytes on the wire."""
    cells: int = 0
    """KV cells that llama.cpp was told, context times sessions: some models compute by it."""
    divisible: bool = False
    """Serves any part of the range too; the first who asks for one waits until it is loaded."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What one node says of itself. Times are Unix seconds, exact to the millisecond."""

    peer: PeerId
    sequence: int
    """Of two records of one peer the higher wins. The time in milliseconds, or more."""
    issued_s: float
    expires_s: float
    name: str
    version: str
    """Of the node's software."""
    listen: tuple[str, ...] = ()
    """Multiaddrs."""
    links: tuple[str, ...] = ()
    """`host:port` or `[v6]:port`, for direct links."""
    served: tuple[Served, ...] = ()
    withdrawn: bool = False
    """The node's last word: it is gone. Serves nothing and listens nowhere."""
    extra: bytes = b""
    """What later versions add. Signed and carried, not understood."""


def record_key(peer: PeerId) -> bytes:
    """Return the key under which a peer's record is found."""
    return f"/{NAMESPACE}/{peer}".encode()


def handle_key(handle: ModelHandle) -> bytes:
    """Return the 32 bytes under which the providers of a model are found."""
    return bytes.fromhex(handle.removeprefix(_HANDLE_PREFIX))


def sign_record(record: NodeRecord, secret: SecretKey) -> bytes:
    """Encode and sign a record. Raises ValueError when it is not one that others would accept."""
    if peer_id(secret.public) != record.peer:
        raise ValueError(f"the record of {record.peer} needs that peer's own key")
    try:
        writer = _encode(record, begin_signed(RECORD_VERSION, secret))
        data = end_signed(writer, SIGNATURE_DOMAIN, secret)
        parse_unverified(data)
    except (OverflowError, PeerError) as error:
        raise ValueError(f"a record cannot be announced: {error}") from error
    return data


def verify_record(data: bytes, now_s: float, *, key: bytes | None = None) -> NodeRecord:
    """Return the record in `data`, checked, in this order: size, fields and their bounds, the key
    under which it was found, its times, its signature. Raises RecordInvalid.
    """
    record = parse_unverified(data)
    if key is not None and key != record_key(record.peer):
        raise RecordInvalid(f"a record of {record.peer} lay under another key", "key")
    check_times(record, now_s)
    check_signature(record, data)
    return record


def parse_unverified(data: bytes) -> NodeRecord:
    """Return what `data` claims. Bounds are checked, nothing else is. Raises RecordInvalid."""
    if not SIGNATURE_BYTES < len(data) <= limits.RECORD_BYTES_MAX:
        raise RecordInvalid(f"a record has {len(data)} bytes", "size")
    reader = read_signed(data)
    try:
        version = reader.uint(VERSION_BYTES)
        if version != RECORD_VERSION:
            raise RecordInvalid(f"a record has version {version}; {RECORD_VERSION} is", "version")
        record = _parse(reader)
        reader.finish()
    except (WireError, ValueError) as error:
        raise RecordInvalid(f"a record is malformed: {error}", "format") from error
    return record


def check_times(record: NodeRecord, now_s: float) -> None:
    """Raise RecordInvalid unless the record holds at `now_s`, and not for longer than allowed."""
    lifetime_s = record.expires_s - record.issued_s
    if not 0 < lifetime_s <= limits.RECORD_LIFETIME_S_MAX:
        raise RecordInvalid(f"a record of {record.peer} is for {lifetime_s:.0f} s", "lifetime")
    if record.issued_s > now_s + limits.RECORD_FUTURE_S_MAX:
        raise RecordInvalid(
            f"a record of {record.peer} was issued {record.issued_s - now_s:.0f} s from now: "
            "compare the clocks of the two machines",
            "future",
        )
    if record.expires_s <= now_s:
        raise RecordInvalid(
            f"a record of {record.peer} expired {now_s - record.expires_s:.0f} s ago", "expired"
        )


def check_signature(record: NodeRecord, data: bytes) -> None:
    """Raise RecordInvalid unless the peer named in `data`, the bytes of `record`, signed them."""
    try:
        verify_signer(data, SIGNATURE_DOMAIN)
    except CredentialsError as error:
        raise RecordInvalid(
            f"a record of {record.peer} is not signed by that peer", "signature"
        ) from error


def is_same_content(first: NodeRecord, second: NodeRecord) -> bool:
    """Tell whether two records differ in nothing but their times and sequence."""
    times = {"sequence": 0, "issued_s": 0.0, "expires_s": 0.0}
    return replace(first, **times) == replace(second, **times)  # type: ignore[arg-type]


def _encode(record: NodeRecord, writer: Writer) -> Writer:
    writer.uint(record.sequence, 8).time(record.issued_s).time(record.expires_s)
    writer.uint(_WITHDRAWN if record.withdrawn else 0, 1)
    writer.text(record.name).text(record.version)
    for addresses in (record.listen, record.links):
        writer.uint(len(addresses), 1)
        for address in addresses:
            writer.text(address)
    writer.uint(len(record.served), 1)
    for served in record.served:
        _encode_served(writer, served)
    return writer.blob(record.extra)


def _encode_served(writer: Writer, served: Served) -> None:
    writer.sha256(served.handle).text(served.model)
    writer.uint(served.block_count, 2).uint(served.layers.start, 2).uint(served.layers.stop, 2)
    flags = _HEAD * served.head + _DIVISIBLE * served.divisible
    writer.uint(flags, 1).uint(STATES.index(served.state), 1)
    writer.uint(served.context_tokens, 4)
    writer.uint(served.sessions_max, 2).uint(served.sessions_free, 2)
    writer.uint(served.batch_tokens, 4).uint(served.embd, 4).uint(served.decode_us, 4)
    writer.f32(served.prefill_tokens_s).uint(served.cells, 4)


def _parse(reader: Reader) -> NodeRecord:
    peer = read_signer(reader)
    sequence = reader.uint(8)
    issued_s, expires_s = reader.time(), reader.time()
    withdrawn = bool(reader.uint(1, most=_WITHDRAWN))
    name = reader.text(most=limits.RECORD_NAME_BYTES_MAX)
    version = reader.text(most=limits.RECORD_VERSION_BYTES_MAX)
    listen = _parse_addresses(reader, _check_multiaddr)
    links = _parse_addresses(reader, _check_link)
    count = reader.uint(1, most=limits.RECORD_SERVED_MAX)
    served = tuple(_parse_served(reader) for _ in range(count))
    extra = reader.blob(most=limits.RECORD_EXTRA_BYTES_MAX)
    if withdrawn and (listen or links or served):
        raise WireError("a withdrawn record still says what it serves, or where")
    return NodeRecord(
        peer, sequence, issued_s, expires_s, name, version, listen, links, served, withdrawn, extra
    )


def _parse_served(reader: Reader) -> Served:
    handle = ModelHandle(reader.sha256())
    model = reader.text(most=limits.RECORD_MODEL_BYTES_MAX)
    block_count = reader.uint(2, least=1, most=limits.BLOCKS_MAX)
    start = reader.uint(2, most=block_count - 1)
    layers = LayerRange(start, reader.uint(2, least=start + 1, most=block_count))
    flags = reader.uint(1, most=_HEAD | _DIVISIBLE)
    head = bool(flags & _HEAD)
    if head and layers.stop != block_count:
        raise WireError(f"{layers} of {block_count} blocks cannot have the head")
    state = STATES[reader.uint(1, most=len(STATES) - 1)]
    context_tokens = reader.uint(4, least=1)
    sessions_max = reader.uint(2)
    sessions_free = reader.uint(2, most=sessions_max)
    batch_tokens = reader.uint(4, least=1)
    embd = reader.uint(4, least=1, most=limits.EMBEDDING_LENGTH_MAX)
    decode_us = reader.uint(4)
    prefill_tokens_s = reader.f32()
    if prefill_tokens_s < 0:
        raise WireError("a speed is negative")
    return Served(
        handle, model, block_count, layers, head, state, context_tokens, sessions_max,
        sessions_free, batch_tokens, embd, decode_us, prefill_tokens_s, reader.uint(4),
        bool(flags & _DIVISIBLE),
    )  # fmt: skip


def _parse_addresses(reader: Reader, check: Callable[[str], None]) -> tuple[str, ...]:
    addresses = []
    for _ in range(reader.uint(1, most=limits.RECORD_ADDRESSES_MAX)):
        address = reader.text(most=limits.RECORD_ADDRESS_BYTES_MAX)
        check(address)
        addresses.append(address)
    return tuple(addresses)


def _check_multiaddr(address: str) -> None:
    """The shape only; whoever dials parses it."""
    if not address.startswith("/") or not address.isascii() or " " in address:
        raise WireError(f"{address!r:.80} is not a multiaddr")


def _check_link(address: str) -> None:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65_535
    bracketed = host.startswith("[") and host.endswith("]") and len(host) > 2
    plain = host.isascii() and bool(host) and not any(c in host for c in ":[]/ ")
    if not is_port or not (bracketed or plain):
        raise WireError(f"{address!r:.80} is not host:port or [v6]:port")
