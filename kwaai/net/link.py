"""One encrypted link to one peer: messages out of and into records, and how the link ends.

The upper half of `kwaai.net.secured`. Does not dial, decide whether a peer is welcome or know what
messages mean: `kwaai.net.links` does the first two. The frames' rules are `kwaai.wire.mux`; the
bytes are in docs/protocol/link.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from credentials.keys import PeerId
from kwaai import limits, log
from kwaai.errors import PeerError, PeerLost, PeerMisbehaved, PeerRefused, PeerStalled
from kwaai.net.handshake import LinkIdentity, VersionMismatch, WrongPeer
from kwaai.net.secured import SecuredProtocol, Stage
from kwaai.net.vigil import Vigil
from kwaai.wire import channels, frames
from kwaai.wire.channels import ChannelState, Outgoing, Part
from kwaai.wire.codec import WireError
from kwaai.wire.frames import DATA_OVERHEAD_BYTES, Reason
from kwaai.wire.mux import Mux

logger = log.get_logger(__name__)


@dataclass(slots=True)
class LinkCounters:
    """What happened on all links since the node started."""

    links_opened: int = 0
    links_lost: int = 0
    handshakes_refused: int = 0
    peers_misbehaved: int = 0
    dropped_unknown_channel: int = 0
    keys_renewed: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def add(self, link: Link) -> None:
        """Count what passed through a link."""
        self.dropped_unknown_channel += link.dropped_pieces
        self.keys_renewed += link.keys_renewed
        self.messages_sent += link.messages_sent
        self.messages_received += link.messages_received
        self.bytes_sent += link.bytes_sent
        self.bytes_received += link.bytes_received


class LinkOwner(Protocol):
    """Who decides about links, and hears of them."""

    def link_connected(self, link: Link) -> None:
        """A transport is there; nobody has proven anything."""

    def may_finish(self, link: Link) -> bool:
        """Whether a dialled link to a proven peer is still wanted."""

    def refusal(self, link: Link) -> tuple[Reason, str] | None:
        """Why a proven peer that dialled is not welcome, None when it is."""

    def link_ready(self, link: Link) -> None:
        """Both ends have taken the link."""

    def link_ended(self, link: Link, error: PeerError) -> None:
        """The link is of no more use, or never was."""

    def link_misbehaved(self, link: Link) -> None:
        """The peer broke the protocol; the link ends."""

    def link_control(self, link: Link, message: bytes) -> None:
        """A message came on the control channel."""


class ChannelOwner(Protocol):
    """Who gets the messages of a channel."""

    receive: Callable[[bytes], None]


class Link(SecuredProtocol):
    """A link. `send_now` and `send` are for whoever holds a ChannelState of it."""

    def __init__(
        self,
        owner: LinkOwner,
        identity: LinkIdentity,
        expected: PeerId | None,
        *,
        is_direct: bool = True,
        remote: str = "",
    ) -> None:
        """`expected` is the peer that this node dials; None when it was dialled."""
        super().__init__(identity, expected, is_direct, remote)
        self._owner = owner
        self._mux = Mux()
        self._vigil = Vigil(self, self._loop)
        self._abort_timer: asyncio.TimerHandle | None = None
        self.since_s = 0.0
        """Of the loop's clock: when the link was ready."""
        self.used_s = 0.0
        """Of the loop's clock: when a message last passed."""
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self.measured = asyncio.Event()
        """The first round trip is known."""
        self.is_superseded = False
        """Whether this dial ended because there is another link to the peer."""
        self.goodbye: Reason | None = None
        """Why the peer ended the link, if it said so."""
        self.messages_sent = 0
        self.messages_received = 0

    @property
    def rtt_s(self) -> float | None:
        """Seconds of a round trip, as measured lately."""
        return self._vigil.meter.rtt_s

    @property
    def bandwidth_bytes_s(self) -> float | None:
        """Bytes a second towards the peer, as measured lately."""
        return self._vigil.meter.bandwidth_bytes_s

    @property
    def is_open(self) -> bool:
        return self.stage is Stage.OPEN

    @property
    def channel_count(self) -> int:
        """Channels that are open on this end."""
        return self._mux.channel_count

    @property
    def dropped_pieces(self) -> int:
        """Pieces of messages that came for channels that are not open here."""
        return self._mux.dropped_pieces

    # Beginning.

    def _on_connected(self) -> None:
        self._vigil.connected()
        self._owner.link_connected(self)

    def _on_peer(self) -> bool:
        if self._owner.may_finish(self):
            return True
        self.is_superseded = True
        self.end(PeerLost(f"another link to {self.peer} was faster", peer=self.peer))
        return False

    def _on_keys(self) -> None:
        if self.is_dialled:
            return
        refusal = self._owner.refusal(self)
        if refusal is not None:
            self.end(PeerRefused(f"{self.peer} was refused: {refusal[1]}"), *refusal)
            return
        self.write_record(frames.encode_ready())
        self._open()

    def _open(self) -> None:
        self.stage = Stage.OPEN
        self.since_s = self.used_s = self._loop.time()
        self._vigil.opened()
        self._owner.link_ready(self)
        if not self.ready.done():
            self.ready.set_result(None)

    # Receiving.

    def _on_record(self, record: bytes) -> None:
        if self.stage is Stage.OPEN:
            state = self._mux.receive_whole(record)
            if state is not None:
                self._deliver(state, record[DATA_OVERHEAD_BYTES:])
                return
        self._on_frames(record)

    def _on_frames(self, record: bytes) -> None:
        for event in self._mux.receive(record):
            if self.stage is Stage.CONFIRM and not isinstance(
                event, channels.Ready | channels.Goodbye
            ):
                raise WireError("it sends before it has taken the link")
            if isinstance(event, channels.Message):
                self._deliver(event.channel, event.data)
            elif isinstance(event, channels.Ponged):
                self._vigil.ponged(event.token)
                self.measured.set()
            elif isinstance(event, channels.Ready):
                if self.stage is not Stage.CONFIRM:
                    raise WireError("it takes a link twice")
                self._open()
            elif isinstance(event, channels.KeyUpdated):
                self._opener.update(self.received_s)
            elif isinstance(event, channels.Refused):
                self._on_refused(event.channel)
            else:
                self._on_goodbye(event.reason, event.text)
            if self.stage is Stage.ENDED:
                return
        if self._mux.has_output:
            self._pump()

    def _deliver(self, state: ChannelState, message: bytes) -> None:
        self.messages_received += 1
        self.used_s = self.received_s
        try:
            if state is self._mux.control:
                self.grant(state, len(message), 1)
                self._owner.link_control(self, message)
            elif state.is_open:
                cast(ChannelOwner, state.owner).receive(message)
        except (WireError, PeerMisbehaved) as error:
            raise WireError(error.message) from error
        except Exception:  # a fault of ours must not end what other sessions do on this link
            logger.exception("link_message_failed", peer=self.peer, message_bytes=len(message))

    def _on_refused(self, state: ChannelState) -> None:
        for outgoing in self._mux.abandon(state):
            self._settle(outgoing, self.channel_refused())

    def channel_refused(self) -> PeerError:
        """Return the error of a send on a channel that the peer does not have open."""
        return PeerRefused(f"{self.peer} has closed this channel", peer=self.peer)

    def _on_goodbye(self, reason: Reason, text: str) -> None:
        self.goodbye = reason
        kind = PeerRefused if self.stage is Stage.CONFIRM else PeerLost
        self.end(kind(f"{self.peer} ended the link: {text or reason.name.lower()}", peer=self.peer))

    # Sending.

    def open_channel(self, channel: bytes, owner: ChannelOwner) -> ChannelState:
        """Take and send messages of a channel from now on."""
        state = self._mux.open(channel, owner)
        if self._mux.channel_count == 1:
            self._vigil.busy()
        return state

    def close_channel(self, state: ChannelState) -> None:
        """Forget a channel; what waits on it fails."""
        try:
            waiting = self._mux.close(state)
        except WireError as error:
            self._cut(error)
            return
        for outgoing in waiting:
            self._settle(outgoing, PeerLost(f"the channel to {self.peer} was closed here"))
        self._on_writable()

    def send_now(self, state: ChannelState, parts: Sequence[Part], nbytes: int) -> bool:
        """Send a message if it need not wait; whether it went."""
        if self._is_paused or self.stage is not Stage.OPEN:
            return False
        record = self._mux.whole_record(state, parts, nbytes)
        if record is None:
            return False
        self.messages_sent += 1
        self.write_record(record)
        return True

    async def send(
        self, state: ChannelState, parts: Sequence[Part], nbytes: int, timeout_s: float
    ) -> None:
        """Send a message, waiting for credit and the socket. Cancelled or too late, it is taken
        back whole. Raises PeerLost, PeerRefused, PeerStalled.
        """
        if self.stage is not Stage.OPEN or not state.is_open:
            raise PeerLost(f"there is no link to {self.name} any more", peer=self.peer)
        if state.is_refused:
            raise self.channel_refused()
        outgoing = self._mux.queue(state, parts, nbytes)
        if outgoing is None:
            raise PeerStalled(
                f"{self.peer} does not read: {limits.LINK_SENDS_WAITING_MAX} messages wait already",
                peer=self.peer,
            )
        waiter = self._loop.create_future()
        outgoing.waiter = waiter
        self._on_writable()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise PeerStalled(
                f"{self.peer} has not taken a message within {timeout_s:g} s", peer=self.peer
            ) from None
        finally:
            # Whoever sends may use the memory for something else from now on.
            if self.stage is Stage.OPEN and outgoing.left:
                self._take_back(outgoing)

    def _take_back(self, outgoing: Outgoing) -> None:
        try:
            self._mux.cancel(outgoing)
            self._pump()
        except WireError as error:
            self._cut(error)

    @property
    def control(self) -> ChannelState:
        """The control channel, for `send_now` and `send`."""
        return self._mux.control

    def grant(self, state: ChannelState, nbytes: int, messages: int) -> None:
        """Give the peer credit back for messages that were used."""
        if self.stage is not Stage.OPEN:
            return
        try:
            if self._mux.grant(state, nbytes, messages):
                self._pump()
        except WireError as error:
            self._cut(error)

    def _pump(self) -> None:
        while not self._is_paused and self._mux.has_output and self.stage is Stage.OPEN:
            record = self._mux.next_record()
            if not record:
                return
            self.write_record(record)
            if self._mux.finished:
                self.used_s = self._loop.time()
                for outgoing in self._mux.finished:
                    self.messages_sent += 1
                    self._settle(outgoing, None)
                self._mux.finished.clear()

    def _on_writable(self) -> None:
        try:
            self._pump()
        except WireError as error:
            self._cut(error)

    def _settle(self, outgoing: Outgoing, error: PeerError | None) -> None:
        waiter = cast("asyncio.Future[None] | None", outgoing.waiter)
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    # Watching and ending.

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    @property
    def is_idle_now(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._is_paused and not self._mux.has_output

    def doubt(self) -> None:
        """End the link unless the peer answers a ping soon: it behaves as if the link were gone."""
        if self.stage is Stage.OPEN:
            self._vigil.doubt()

    def goodbye_and_end(self, reason: Reason, text: str) -> None:
        """End the link on this node's wish."""
        self.end(PeerLost(f"this node ended the link to {self.name}: {text}"), reason, text)

    def _cut(self, error: WireError) -> None:
        """End the link because of what the peer sent."""
        if self.stage is Stage.ENDED:
            return
        if isinstance(error, WrongPeer | VersionMismatch):
            self.end(error)
            return
        self._owner.link_misbehaved(self)
        logger.warning("link_cut", peer=self.name, reason=error.message)
        self.end(
            PeerMisbehaved(f"the link to {self.name} was cut: {error.message}"),
            Reason.PROTOCOL,
            error.message,
        )

    def end(self, error: PeerError, reason: Reason | None = None, text: str = "") -> None:
        """End the link: fail what waits, tell the peer why if there is a reason. Idempotent."""
        if self.stage is Stage.ENDED:
            return
        was = self.stage
        if error.peer is None:
            error.peer = self.peer or None
        if reason is not None and was is not Stage.HANDSHAKE and not self._transport.is_closing():
            self._transport.write(self._sealer.seal(frames.encode_goodbye(reason, text)))
        self.stage = Stage.ENDED
        self.is_keyed = False
        self._vigil.ended()
        for outgoing in self._mux.end():
            self._settle(outgoing, PeerLost(error.message, peer=self.peer))
        if not self.ready.done():
            self.ready.set_exception(error)
        self._transport.close()
        self._owner.link_ended(self, error)
        self._abort_timer = self._loop.call_later(limits.LINK_STOP_TIMEOUT_S, self._transport.abort)
