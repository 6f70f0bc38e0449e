"""The links of a node: one long-lived link per peer, dialled or accepted, and the channels on them.

Decides who is welcome and which of two links stays. Does not know what messages mean, or whom to
dial. docs/protocol/link.md has the rules that two ends must share.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable, Sequence

from credentials.keys import PeerId, SecretKey, parse_peer_id
from kwaai import limits, log
from kwaai.errors import (
    Busy,
    PeerError,
    PeerLost,
    PeerRefused,
    PeerUnreachable,
    PortInUse,
)
from kwaai.net.channel import Channel, check_size
from kwaai.net.dial import first_of, origin_of, parse_address
from kwaai.net.handshake import INSTANCE_BYTES, VERSIONS, LinkIdentity, VersionMismatch
from kwaai.net.link import Link, LinkCounters
from kwaai.net.network import Network, Stream
from kwaai.net.stream_transport import StreamTransport
from kwaai.wire.frames import Reason

PROTOCOL = "/kwaai/link/1.0.0"
"""Of the network's streams that carry a link."""

ControlHandler = Callable[[PeerId, bytes], None]
LostListener = Callable[[PeerId, str], None]

logger = log.get_logger(__name__)


class Links:
    """All links of this node."""

    def __init__(
        self,
        secret: SecretKey,
        network: Network | None = None,
        *,
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        self._identity = LinkIdentity(secret, os.urandom(INSTANCE_BYTES), versions)
        self._network = network
        self._past = LinkCounters()
        """Of links that are gone, and of what no link counts itself."""
        self._links: dict[PeerId, Link] = {}
        self._unproven: dict[Link, None] = {}
        """Connections in their handshake, the oldest first."""
        self._finishing: dict[PeerId, Link] = {}
        """Dials that have shown who they are, and wait to be taken."""
        self._connected: set[Link] = set()
        self._dials: dict[PeerId, asyncio.Task[Link]] = {}
        self._carriers: set[asyncio.Task[None]] = set()
        self._waiting: dict[PeerId, list[asyncio.Future[Link]]] = {}
        self._channels: dict[PeerId, dict[bytes, Channel]] = {}
        self._control: ControlHandler | None = None
        self._lost: list[LostListener] = []
        self._server: asyncio.Server | None = None
        self._is_stopping = False

    @property
    def counters(self) -> LinkCounters:
        """What happened on all links until now."""
        counters = dataclasses.replace(self._past)
        for link in self._links.values():
            counters.add(link)
        return counters

    @property
    def peer(self) -> PeerId:
        """Who this node is."""
        return self._identity.peer

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; port 0 takes a free one. Returns where. Raises PortInUse."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, host, port)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                in_use = error.errno == errno.EADDRINUSE
                why = "is in use; end what uses it, or" if in_use else f"({error.strerror});"
                raise PortInUse(
                    f"port {port} on {host} {why} choose another with --link-port"
                ) from error
            raise
        if self._network is not None:
            self._network.handle_streams(PROTOCOL, self._accept_stream)
        bound = self._server.sockets[0].getsockname()
        return bound[0], bound[1]

    async def stop(self) -> None:
        """End all links, saying goodbye. Idempotent."""
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks: list[asyncio.Task[Link]] = list(self._dials.values())
        for task in tasks:
            task.cancel()
        for link in [*self._links.values(), *self._unproven, *self._finishing.values()]:
            link.goodbye_and_end(Reason.STOPPING, "this node stops")
        leaving = [link.closed for link in self._connected]
        if leaving:
            await asyncio.wait(leaving, timeout=2 * limits.LINK_STOP_TIMEOUT_S)
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*tasks, *self._carriers, return_exceptions=True)

    # Links.

    def link(self, peer: PeerId) -> Link | None:
        """Return the open link to a peer."""
        return self._links.get(peer)

    def all(self) -> tuple[Link, ...]:
        """Return all open links."""
        return tuple(self._links.values())

    async def get(self, peer: PeerId, addresses: Sequence[str] = ()) -> Link:
        """Return the link to a peer; dial `host:port`s, then a stream of the network, if there is
        none. Raises PeerUnreachable, PeerRefused, Busy.
        """
        link = self._links.get(peer)
        if link is not None:
            return link
        if peer == self.peer or self._is_stopping:
            raise PeerUnreachable(
                "a node has no link to itself" if peer == self.peer else "this node stops",
                peer=peer,
            )
        task = self._dials.get(peer)
        if task is None:
            task = asyncio.create_task(self._dial(peer, addresses))
            self._dials[peer] = task
            task.add_done_callback(lambda task: self._dialled(peer, task))
        return await asyncio.shield(task)

    def _dialled(self, peer: PeerId, task: asyncio.Task[Link]) -> None:
        del self._dials[peer]
        if not task.cancelled():
            task.exception()  # those who asked have it; when they are gone, nobody misses it

    async def _dial(self, peer: PeerId, addresses: Sequence[str]) -> Link:
        self._make_room()
        try:
            async with asyncio.timeout(limits.LINK_DIAL_TIMEOUT_S):
                while True:
                    try:
                        return await self._dial_once(peer, addresses)
                    except _Another:
                        link = await self._other_link(peer)
                    if link is not None:
                        return link
        except TimeoutError:
            raise PeerUnreachable(
                f"{peer} did not take a link within {limits.LINK_DIAL_TIMEOUT_S:g} s", peer=peer
            ) from None

    async def _dial_once(self, peer: PeerId, addresses: Sequence[str]) -> Link:
        link, failed = await first_of(addresses, lambda address: self._dial_tcp(peer, address))
        if link is not None:
            return link
        for _, error in failed:
            if isinstance(error, _Another | PeerRefused | VersionMismatch):
                raise error
        reasons = [f"{address}: {error.message}" for address, error in failed]
        if self._network is not None:
            try:
                stream = await self._network.open_stream(peer, PROTOCOL)
            except PeerError as error:
                reasons.append(f"libp2p: {error.message}")
            else:
                return await self._take_stream(stream, peer)
        why = "; ".join(reasons) or "no address of its is known"
        raise PeerUnreachable(f"there is no link to {peer}: {why}", peer=peer)

    async def _dial_tcp(self, peer: PeerId, address: str) -> Link:
        host, port = parse_address(address)
        link = Link(self, self._identity, peer, remote=host)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.LINK_CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: link, host, port)
        except TimeoutError:
            raise PeerUnreachable("no answer", peer=peer) from None
        except OSError as error:
            raise PeerUnreachable(_in_words(error), peer=peer) from None
        return await self._until_ready(link)

    async def _take_stream(self, stream: Stream, peer: PeerId) -> Link:
        link = Link(self, self._identity, peer, is_direct=False, remote=peer)
        self._carry(StreamTransport(stream, link))
        return await self._until_ready(link)

    def _carry(self, transport: StreamTransport) -> asyncio.Task[None]:
        carrier = asyncio.create_task(transport.run())
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)
        return carrier

    async def _until_ready(self, link: Link) -> Link:
        try:
            await asyncio.shield(link.ready)
        except PeerError as error:
            if link.is_superseded or link.goodbye is Reason.DUPLICATE:
                raise _Another(error.message, peer=link.peer) from None
            raise
        finally:
            if not link.is_open:
                link.end(PeerLost("this dial was given up", peer=link.peer))
        return link

    async def _other_link(self, peer: PeerId) -> Link | None:
        """Wait a moment for a link that the peer says is there, or on its way."""
        link = self._links.get(peer)
        if link is not None:
            return link
        future: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, []).append(future)
        try:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(future, limits.LINK_OTHER_S)
            return None
        finally:
            self._waiting.get(peer, [future]).remove(future)

    def _accept(self) -> Link:
        return Link(self, self._identity, None)

    async def _accept_stream(self, peer: PeerId, stream: Stream) -> None:
        link = Link(self, self._identity, None, is_direct=False, remote=peer)
        await self._carry(StreamTransport(stream, link))

    # What links ask and tell (LinkOwner).

    def link_connected(self, link: Link) -> None:
        """Count an unproven connection; the oldest yields when there are too many."""
        self._connected.add(link)
        link.closed.add_done_callback(lambda _: self._connected.discard(link))
        if self._is_stopping:
            link.end(PeerLost("this node stops"))
            return
        if link.is_dialled:
            return
        self._unproven[link] = None
        origin = origin_of(link.remote)
        same = [other for other in self._unproven if origin_of(other.remote) == origin]
        victim = None
        if len(same) > limits.LINK_HANDSHAKES_PER_ADDRESS_MAX:
            victim = same[0]
        elif len(self._unproven) > limits.LINK_HANDSHAKES_MAX:
            victim = next(iter(self._unproven))
        if victim is not None:
            self._past.handshakes_refused += 1
            victim.end(PeerLost("too many connections are in their handshake"))

    def may_finish(self, link: Link) -> bool:
        """A dialled peer is who it should be: go on unless another link is as far."""
        if link.peer in self._links or link.peer in self._finishing:
            return False
        self._finishing[link.peer] = link
        return True

    def refusal(self, link: Link) -> tuple[Reason, str] | None:
        """Decide about a peer that dialled and has proven who it is."""
        refusal = self._refusal(link)
        if refusal is not None:
            self._past.handshakes_refused += 1
        return refusal

    def _refusal(self, link: Link) -> tuple[Reason, str] | None:
        peer = link.peer
        there = self._links.get(peer)
        if self._is_stopping:
            return Reason.STOPPING, "the node stops"
        if there is not None:
            if there.instance == link.instance and there.is_dialled:
                # Either both dialled at once, and this link was first; or the peer has lost it.
                there.doubt()
                return Reason.DUPLICATE, "there is a link already"
            there.end(PeerLost(f"{peer} has dialled again", peer=peer))
        elif peer in self._finishing and _order(self.peer) < _order(peer):
            return Reason.DUPLICATE, "a link from here is on its way"
        try:
            self._make_room(origin_of(link.remote))
        except Busy as error:
            return Reason.BUSY, error.message
        return None

    def _make_room(self, origin: str | None = None) -> None:
        """Let go of the link that was unused for longest when there are too many, or too many that
        were dialled from `origin`: then of those.
        """
        rivals = [
            link for link in self._links.values()
            if not link.is_dialled and origin_of(link.remote) == origin
        ]  # fmt: skip
        if len(rivals) < limits.LINKS_PER_ADDRESS_MAX:
            if len(self._links) < limits.LINKS_MAX:
                return
            rivals = list(self._links.values())
        idle = [link for link in rivals if not link.channel_count]
        if not idle:
            raise Busy(f"all {len(rivals)} links are in use", retry_after_s=5.0)
        least = min(idle, key=lambda link: link.used_s)
        least.goodbye_and_end(Reason.BUSY, "the node has too many links")

    def link_ready(self, link: Link) -> None:
        """Use a link that both ends have taken."""
        peer = link.peer
        self._unproven.pop(link, None)
        self._drop_finishing(link)
        self._links[peer] = link
        self._past.links_opened += 1
        for channel in self._channels.get(peer, {}).values():
            channel.bind(link)
        for waiting in self._waiting.pop(peer, ()):
            if not waiting.done():
                waiting.set_result(link)
        logger.info("link_opened", peer=peer, is_dialled=link.is_dialled, is_direct=link.is_direct)

    def link_ended(self, link: Link, error: PeerError) -> None:
        """Tell the channels and whoever listens."""
        self._unproven.pop(link, None)
        self._drop_finishing(link)
        if self._links.get(link.peer) is not link:
            return
        del self._links[link.peer]
        self._past.links_lost += 1
        self._past.add(link)
        logger.info("link_ended", peer=link.peer, reason=error.message)
        for channel in tuple(self._channels.get(link.peer, {}).values()):
            channel.link_ended(link, error)
        for listener in self._lost:
            try:
                listener(link.peer, error.message)
            except Exception:  # one listener's fault must not keep the news from the others
                logger.exception("link_listener_failed", peer=link.peer)

    def link_misbehaved(self, link: Link) -> None:
        """Count it."""
        self._past.peers_misbehaved += 1

    def _drop_finishing(self, link: Link) -> None:
        if self._finishing.get(link.peer) is link:
            del self._finishing[link.peer]

    def link_control(self, link: Link, message: bytes) -> None:
        """Hand on a message of the control channel."""
        if self._control is not None:
            self._control(link.peer, message)

    # Messages.

    def open_channel(
        self, peer: PeerId, channel: bytes, receive: Callable[[bytes], None]
    ) -> Channel:
        """Take messages of a channel from now on; the link need not be there yet.

        `channel` is 16 bytes, not all zero, that are used once: both ends open it before either
        sends. `receive` is called in the loop, in order; call `consumed` when a message was used,
        or the peer may send no more after 4 MiB. It may raise WireError or PeerMisbehaved: the
        link is then cut. Raises Busy when there are too many.
        """
        channels = self._channels.setdefault(peer, {})
        if channel in channels or len(channel) != 16 or not any(channel):
            raise ValueError("a channel's id is 16 bytes, not all zero, and used once")
        if len(channels) >= limits.LINK_CHANNELS_MAX:
            raise Busy(f"there are {limits.LINK_CHANNELS_MAX} channels with {peer} already")
        opened = channels[channel] = Channel(peer, channel, receive, self._forget)
        link = self._links.get(peer)
        if link is not None:
            opened.bind(link)
        return opened

    def _forget(self, channel: Channel) -> None:
        channels = self._channels.get(channel.peer, {})
        if channels.get(channel.id) is channel:
            del channels[channel.id]
        if not channels:
            self._channels.pop(channel.peer, None)

    @property
    def channel_count(self) -> int:
        """Channels that are open, with all peers."""
        return sum(map(len, self._channels.values()))

    def on_control(self, handler: ControlHandler) -> None:
        """Call `handler(peer, message)` for every message of a control channel."""
        self._control = handler

    async def send_control(
        self,
        peer: PeerId,
        message: bytes,
        addresses: Sequence[str] = (),
        timeout_s: float = limits.LINK_SEND_TIMEOUT_S,
    ) -> None:
        """Send 1 byte to 64 KiB on the control channel; dials when there is no link. Raises as
        `get` and `Channel.send` do.
        """
        nbytes = check_size((message,), limits.LINK_CONTROL_BYTES_MAX)
        link = self._links.get(peer) or await self.get(peer, addresses)
        if not link.send_now(link.control, (message,), nbytes):
            await link.send(link.control, (message,), nbytes, timeout_s)

    def on_lost(self, listener: LostListener) -> None:
        """Call `listener(peer, reason)` when the link to a peer is gone."""
        self._lost.append(listener)


class _Another(PeerError):
    """There is, or will be, another link to the peer."""


def _order(peer: PeerId) -> bytes:
    return parse_peer_id(peer).raw


def _in_words(error: OSError) -> str:
    if error.errno and error.errno > 0:  # a failed look-up of a name has a number of its own
        return os.strerror(error.errno)
    return error.strerror or str(error)
