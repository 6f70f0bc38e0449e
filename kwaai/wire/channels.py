"""What a link's mux keeps and tells: one channel's state, a message on its way, the events.

Does not decide whose turn it is: `kwaai.wire.mux` does. The rules are in docs/protocol/link.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from kwaai import limits
from kwaai.wire.frames import Reason

_CHARGE = limits.LINK_MESSAGE_CHARGE_BYTES

Part: TypeAlias = bytes | bytearray | memoryview


class Message(NamedTuple):
    """A whole message has come."""

    channel: ChannelState
    data: bytes


class Ponged(NamedTuple):
    """The peer answered the ping with this token."""

    token: bytes


class Refused(NamedTuple):
    """The peer has closed this channel, or never opened it."""

    channel: ChannelState


class KeyUpdated(NamedTuple):
    """The next record is sealed with the next key."""


class Ready(NamedTuple):
    """The peer that was dialled takes the link."""


class Goodbye(NamedTuple):
    """The peer ends the link."""

    reason: Reason
    text: str


Event: TypeAlias = Message | Ponged | Refused | KeyUpdated | Ready | Goodbye


class Outgoing:
    """A message on its way: `left` bytes of it are not in a record yet."""

    __slots__ = ("at", "channel", "left", "parts", "started", "waiter")

    def __init__(self, channel: ChannelState, parts: Sequence[Part], nbytes: int) -> None:
        self.channel = channel
        self.parts = deque(memoryview(part).cast("B") for part in parts)
        self.at = 0
        self.left = nbytes
        self.started = False
        self.waiter: object = None
        """Whatever the owner wants to find here when the message is out."""

    def take(self, nbytes: int) -> list[memoryview]:
        """Return the next `nbytes`, as views."""
        self.left -= nbytes
        taken = []
        while nbytes:
            part = self.parts[0]
            view = part[self.at : self.at + nbytes]
            taken.append(view)
            nbytes -= len(view)
            self.at += len(view)
            if self.at == len(part):
                self.parts.popleft()
                self.at = 0
        return taken


class ChannelState:
    """One channel of one link, both directions. Belongs to its Mux."""

    __slots__ = (
        "credit",
        "delivered",
        "given_back",
        "id",
        "is_open",
        "is_refused",
        "is_scheduled",
        "owner",
        "partial",
        "partial_bytes",
        "queue",
        "used",
        "window",
    )

    def __init__(self, channel: bytes, window: int, owner: object) -> None:
        self.id = channel
        self.owner = owner
        """Whatever the upper layer wants to find at a message."""
        self.window = window
        self.credit = window  # what we may send
        self.used = 0  # what the peer has sent and was not given back
        self.delivered = 0  # of that: given to the upper layer, and not consumed
        self.given_back = 0  # of that: consumed, and the peer not told yet
        self.partial: list[bytes | memoryview] = []
        self.partial_bytes = 0
        self.queue: deque[Outgoing] = deque()
        self.is_open = True
        self.is_refused = False
        self.is_scheduled = False

    def consumed(self, nbytes: int, messages: int) -> int:
        """Return the bytes to grant now, 0 to wait for more."""
        charge = nbytes + messages * _CHARGE
        if charge > self.delivered or nbytes < 0 or messages < 0:
            raise ValueError(f"{charge} bytes consumed of {self.delivered} delivered")
        self.delivered -= charge
        self.given_back += charge
        if self.given_back * 4 < self.window:
            return 0
        grant, self.given_back = self.given_back, 0
        self.used -= grant
        return grant
