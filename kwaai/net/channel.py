"""One session's way to one peer: messages in order, in both directions.

Does not open links: a channel waits until its peer has one. `kwaai.net.links` makes channels.
"""

from __future__ import annotations

from collections.abc import Callable

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import PeerError, PeerLost, PeerUnreachable
from kwaai.net.link import Link
from kwaai.wire.channels import ChannelState, Part


class Channel:
    """Opened by `Links.open_channel` on both ends before either sends."""

    __slots__ = ("_forget", "_link", "_lost", "_state", "id", "peer", "receive")

    def __init__(
        self,
        peer: PeerId,
        channel: bytes,
        receive: Callable[[bytes], None],
        forget: Callable[[Channel], None],
    ) -> None:
        self.peer = peer
        self.id = channel
        self.receive = receive
        self._forget = forget
        self._link: Link | None = None
        self._state: ChannelState | None = None
        self._lost: PeerError | None = None

    def bind(self, link: Link) -> None:
        """Use a link. A channel lives on one link, and ends with it."""
        if self._link is None and self._lost is None:
            self._link = link
            self._state = link.open_channel(self.id, self)

    def link_ended(self, link: Link, error: PeerError) -> None:
        """Fail from now on when this was the channel's link."""
        if self._link is link:
            self._link = None
            self._lost = error

    def send_now(self, *parts: Part) -> bool:
        """Send a message if it need not wait for credit or the socket; whether it went. Raises
        PeerLost, PeerUnreachable.
        """
        link, state = self._link, self._state
        if link is None or state is None:
            raise self._why_not()
        return link.send_now(state, parts, check_size(parts, limits.LINK_MESSAGE_BYTES_MAX))

    async def send(self, *parts: Part, timeout_s: float = limits.LINK_SEND_TIMEOUT_S) -> None:
        """Send one message made of `parts`, 1 byte to 2 MiB together; waits for credit.

        The parts may change as soon as this returns or raises. When it is cancelled or late the
        peer gets the whole message or none of it. Raises PeerUnreachable without a link, PeerLost,
        PeerRefused when the peer has closed the channel, PeerStalled when it does not read.
        """
        link, state = self._link, self._state
        if link is None or state is None:
            raise self._why_not()
        nbytes = check_size(parts, limits.LINK_MESSAGE_BYTES_MAX)
        if not link.send_now(state, parts, nbytes):
            await link.send(state, parts, nbytes, timeout_s)

    def _why_not(self) -> PeerError:
        if self._lost is not None:
            return PeerLost(self._lost.message, peer=self.peer)
        return PeerUnreachable(f"there is no link to {self.peer} yet", peer=self.peer)

    def consumed(self, nbytes: int, messages: int = 1) -> None:
        """Give the peer credit for received messages: their bytes together, and how many."""
        if self._link is not None and self._state is not None:
            self._link.grant(self._state, nbytes, messages)

    def close(self) -> None:
        """Take and send nothing more. Idempotent."""
        self._forget(self)
        link, self._link = self._link, None
        if self._lost is None:
            self._lost = PeerLost("this channel is closed", peer=self.peer)
        if link is not None and self._state is not None:
            link.close_channel(self._state)


def check_size(parts: tuple[Part, ...], most: int) -> int:
    """Return the bytes of a message of 1 to `most` bytes."""
    nbytes = 0
    for part in parts:
        nbytes += part.nbytes if isinstance(part, memoryview) else len(part)
    if not 0 < nbytes <= most:
        raise ValueError(f"a message has 1 to {most} bytes, not {nbytes}")
    return nbytes
