"""What requester and hops tell one another about a session: one frozen dataclass per message.

Values only; kwaai.wire.shard has the bytes. Steps and tokens are in kwaai.wire.step.
docs/protocol/shard.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from credentials.keys import PeerId
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.tensors import Dtype

ANY_DTYPE: Final = Dtype.F32 | Dtype.F16
"""The mask of every type that this version knows."""


class Tag(IntEnum):
    """The first byte of a message."""

    OPEN = 1
    OPENED = 2
    REFUSED = 3
    STEP = 4
    TOKENS = 5
    FAILED = 6
    CLOSE = 7
    CANCEL = 8
    PROBE = 9
    PROGRESS = 10


class Privacy(IntEnum):
    """What the hops of a path see."""

    PRIVATE = 0
    """The requester holds first and last layers: hops see hidden states only."""
    FAST = 1
    """The last hop holds the head and samples: it sees the answer's tokens."""


class RefusedReason(IntEnum):
    """Why a hop does not open a session."""

    BUSY = 1
    NOT_HELD = 2
    DRAINING = 3
    VERSION = 4
    TOO_LARGE = 5
    UNREACHABLE_NEXT = 6
    BAD_REQUEST = 7
    NOT_ALLOWED = 8
    """A rule of this node forbids it: a trust tier, an intent that does not hold."""


class CloseReason(IntEnum):
    """Why a requester closes a session."""

    DONE = 1
    CANCELLED = 2
    FAILED = 3
    DRAINING = 4


@dataclass(frozen=True, slots=True)
class Open:
    """The requester asks one hop to take part in a session."""

    session: bytes
    """16 bytes that nobody can guess, drawn by the requester."""
    handle: ModelHandle
    layers: LayerRange
    """What this hop runs: exactly a range that it serves."""
    block_count: int
    hop: int
    """0 is the first after the requester."""
    hops: int
    previous: PeerId
    """The only peer whose steps this hop takes. The requester, for hop 0."""
    next: PeerId
    """Where this hop's outputs go. The requester, for the last hop."""
    next_layers: LayerRange | None
    """What `next` runs. None: nothing, this hop holds the head and samples (fast, last hop)."""
    next_addresses: tuple[str, ...]
    """Link addresses of `next`, host:port, best first."""
    context_tokens: int
    """Positions that this session may use."""
    dtypes: int
    """Mask of the types of tensors that the requester allows on this path."""
    privacy: Privacy
    sampling: Mapping[str, Any] | None
    """How the last hop chooses tokens (fast mode); None for every other."""
    keep_bytes: int
    """Outputs that the hop is asked to keep for repeats; it may keep fewer."""
    intent: bytes = b""
    """What the requester asks of this path, signed (docs/intents.md); empty: nothing said."""

    @property
    def is_last(self) -> bool:
        """Whether this hop answers the requester."""
        return self.hop == self.hops - 1

    @property
    def samples(self) -> bool:
        """Whether this hop chooses the tokens."""
        return self.next_layers is None


@dataclass(frozen=True, slots=True)
class Opened:
    """A hop takes part: its KV session is open and its channels are ready."""

    session: bytes
    hop: int
    dtype: Dtype
    """What it will send to its next, chosen by that link's speed."""
    batch_tokens: int
    """The most rows that one step may have here."""
    rtt_next_us: int
    bandwidth_next: int
    """Bytes per second. 0: not measured."""
    decode_us: int
    """Measured for one token through the hop's range. 0: not measured."""
    offer: bytes = b""
    """The hop's signed answer to the intent of the OPEN; empty: none."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A hop does not take part."""

    session: bytes
    hop: int
    reason: RefusedReason
    message: str
    retry_after_ms: int
    """0: retrying does not help."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A hop cannot go on with a session, which is over for it."""

    session: bytes
    step: int
    """The step that failed, or the next one if none was under way."""
    culprit: PeerId
    """Who, in the eyes of the sender, is at fault: the sender itself, or a neighbour."""
    code: str
    """A stable error code."""
    message: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class Close:
    """The requester ends a session. Answered by nothing; closing what is unknown is no error."""

    session: bytes
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Cancel:
    """The requester wants no answer to the steps from `from_step` up to its next rollback."""

    session: bytes
    from_step: int


@dataclass(frozen=True, slots=True)
class Probe:
    """The requester waits for long: where does the session stand? Answered by PROGRESS."""

    session: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a hop has come. A peer's word: it finds who stalls, and proves nothing."""

    session: bytes
    hop: int
    received: int
    """Steps that have come from the previous hop: the number that is expected next."""
    sent: int
    """Steps whose output has left for the next hop."""


Control = Open | Opened | Refused | Failed | Close | Cancel | Probe | Progress
