"""The libp2p host: listens, dials, secures (Noise), multiplexes (Yamux), keeps connections.

Made of py-libp2p's parts rather than its Swarm, whose dialling, caches and limits do not fit (the
reasons are in docs/protocol/discovery.md). Knows no protocol above streams. Trio only.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import KwaaiError, PeerLost, PeerMisbehaved, PeerUnreachable, UserError
from kwaai.log import get_logger
from kwaai.net.libp2p_stream import P2pStream, loss, reason_of
from kwaai.net.libp2p_wire import RawSocket, accept_protocol, offer_protocol, open_listener
from kwaai.net.libp2p_yamux import SafeYamux
from kwaai.net.multiaddrs import Address, ip_address, peer_id_bytes, peer_id_of_bytes

log = get_logger(__name__)
Serve: TypeAlias = Callable[[P2pStream, str], Awaitable[None]]
Direction: TypeAlias = Literal["inbound", "outbound"]


class Conn:
    """One authenticated connection."""

    def __init__(self, peer: PeerId, address: Address, direction: Direction) -> None:
        self.peer = peer
        self.address = address
        self.direction: Direction = direction
        self.since_s = time.time()
        self.opened_s = trio.current_time()
        self.rtt_s: float | None = None
        self.agent = ""
        self.protocols: frozenset[str] = frozenset()
        self.streams_in = 0
        self.allowance = 2 * limits.P2P_STREAMS_PER_S_MAX
        self.allowed_s = self.opened_s
        self.muxed: SafeYamux
        self.ended = trio.Event()

    @property
    def is_usable(self) -> bool:
        return self.muxed.is_usable

    def next_stream_s(self) -> float:
        """Count one more stream of the peer; return how long it has to wait for its turn."""
        now = trio.current_time()
        rate = limits.P2P_STREAMS_PER_S_MAX
        earned = (now - self.allowed_s) * rate
        self.allowance = min(2 * rate, self.allowance + earned) - 1
        self.allowed_s = now
        return max(0.0, -self.allowance / rate)


class Host:
    """All connections of one node."""

    def __init__(
        self,
        secret: SecretKey,
        *,
        on_open: Callable[[Conn], None],
        on_close: Callable[[Conn, bool], None],
        on_rtt: Callable[[Conn], None],
        heartbeat_s: float = limits.P2P_HEARTBEAT_S,
    ) -> None:
        pair = create_new_key_pair(secret.expose_seed())
        self._noise = Noise(pair, noise_privkey=create_noise_key_pair().private_key)
        self.peer_id = peer_id(secret.public)
        self.handlers: dict[str, Serve] = {}
        self.conns: dict[PeerId, list[Conn]] = {}
        self.counters: Counter[str] = Counter()
        self.listening: tuple[Address, ...] = ()
        self.nursery: trio.Nursery
        self._on_open, self._on_close, self._on_rtt = on_open, on_close, on_rtt
        self._heartbeat_s = heartbeat_s
        self._pending: list[tuple[str, trio.CancelScope]] = []
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._dials = trio.CapacityLimiter(limits.P2P_DIALS_MAX)

    async def run(
        self,
        listen: Sequence[Address],
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; then close everything. Raises PortInUse, UserError."""
        listeners = [await open_listener(address) for address in listen]
        names = [listener.socket.getsockname() for listener in listeners]
        self.listening = tuple(ip_address(name[0], name[1]) for name in names)
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                for listener in listeners:
                    nursery.start_soon(self._accept, listener)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                for listener in listeners:
                    await listener.aclose()

    # --- connections

    def conn(self, peer: PeerId) -> Conn | None:
        """Return the connection to use for a peer: of two that crossed, the same on both sides."""
        usable = [conn for conn in self.conns.get(peer, ()) if conn.is_usable]
        return usable[0] if usable else None

    def count(self, direction: Direction | None = None) -> int:
        return sum(
            direction is None or conn.direction == direction
            for conns in self.conns.values()
            for conn in conns
        )

    async def dial(self, peer: PeerId, addresses: Sequence[Address]) -> Conn:
        """Return a connection to `peer`, made if there is none. Raises PeerUnreachable.

        The caller sets the deadline.
        """
        if peer == self.peer_id:
            raise UserError("this node does not connect to itself")
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:
                existing = self.conn(peer)
                if existing is not None:
                    return existing
                if not addresses:
                    raise PeerUnreachable(f"no address of {peer} is known", peer=peer)
                if self.count() >= limits.P2P_CONNECTIONS_MAX:
                    raise PeerUnreachable(
                        f"{peer} was not dialled: {self.count()} connections are open already",
                        peer=peer,
                    )
                async with self._dials:
                    return await self._dial_any(peer, addresses)
        finally:
            if not lock.locked():
                self._dialling.pop(peer, None)

    async def close(self, peer: PeerId) -> None:
        """Close all connections to a peer, and wait until they are gone."""
        conns = list(self.conns.get(peer, ()))
        for conn in conns:
            conn.muxed.give_up("this node closed the connection")
        for conn in conns:
            await conn.ended.wait()

    async def open_stream(self, peer: PeerId, protocol: str, payload: bytes = b"") -> P2pStream:
        """Open a stream on the connection to `peer`, and send `payload` with the offer; after the
        answer where the peer has not said that it speaks `protocol`: some reset a stream on which
        anything follows an offer that they decline, and their answer is lost with it.

        Raises PeerUnreachable (not connected), PeerLost, PeerRefused (not spoken).
        """
        conn = self.conn(peer)
        if conn is None:
            raise PeerUnreachable(f"there is no connection to {peer}", peer=peer)
        try:
            stream = P2pStream(await conn.muxed.open_stream(), conn.muxed, peer, self.nursery)
        except Exception as error:  # py-libp2p raises many kinds; all mean that it is gone
            raise loss(peer, conn.muxed, error) from error
        try:
            if protocol in conn.protocols:
                await offer_protocol(stream, protocol, payload)
            else:
                await offer_protocol(stream, protocol)
                await stream.write(payload)
        except BaseException:
            stream.drop()
            raise
        return stream

    # --- inside

    async def _dial_any(self, peer: PeerId, addresses: Sequence[Address]) -> Conn:
        failures: list[str] = []
        won: list[Conn] = []
        async with trio.open_nursery() as nursery:

            async def try_one(address: Address, failed: trio.Event) -> None:
                try:
                    conn = await self._dial_one(peer, address)
                except (KwaaiError, OSError) as error:
                    failures.append(f"{address}: {error}")
                    failed.set()
                    return
                won.append(conn)
                nursery.cancel_scope.cancel()

            for address in addresses[: limits.P2P_ADDRESSES_PER_PEER_MAX]:
                failed = trio.Event()
                nursery.start_soon(try_one, address, failed)
                with trio.move_on_after(limits.P2P_DIAL_STAGGER_S):
                    await failed.wait()
        if won:
            return won[0]
        existing = self.conn(peer)  # it may have come from the other side meanwhile
        if existing is not None:
            return existing
        self.counters["dials_failed"] += 1
        raise PeerUnreachable(f"{peer} does not answer ({'; '.join(failures)})", peer=peer)

    async def _dial_one(self, peer: PeerId, address: Address) -> Conn:
        with trio.move_on_after(limits.P2P_HANDSHAKE_TIMEOUT_S):
            stream = await trio.open_tcp_stream(address.host, address.port)
            return await self._secure(stream, address, "outbound", peer)
        raise PeerUnreachable(f"no answer within {limits.P2P_HANDSHAKE_TIMEOUT_S:.0f} s", peer=peer)

    async def _accept(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                log.warning("p2p_accept_failed", reason=str(error))
                await trio.sleep(0.2)
                continue
            self.nursery.start_soon(self._admit, stream)

    async def _admit(self, stream: trio.SocketStream) -> None:
        """Authenticate whoever has connected; the oldest that have not yet make room for it."""
        try:
            name = stream.socket.getpeername()
            address = ip_address(name[0], name[1])
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        if self._is_full(address.host):
            self.counters["inbound_refused"] += 1
            await trio.aclose_forcefully(stream)
            return
        entry = (address.host, trio.CancelScope())
        self._make_room(address.host)
        self._pending.append(entry)
        try:
            with entry[1], trio.move_on_after(limits.P2P_HANDSHAKE_TIMEOUT_S):
                await self._secure(stream, address, "inbound", None)
                return
            self.counters["handshakes_late"] += 1
        except (KwaaiError, OSError) as error:
            self.counters["handshakes_failed"] += 1
            log.debug("p2p_handshake_failed", address=str(address), reason=str(error))
        finally:
            if entry in self._pending:
                self._pending.remove(entry)

    def _is_full(self, ip: str) -> bool:
        inbound = [c for cs in self.conns.values() for c in cs if c.direction == "inbound"]
        same = sum(conn.address.host == ip for conn in inbound)
        return len(inbound) >= limits.P2P_INBOUND_MAX or same >= limits.P2P_INBOUND_PER_IP_MAX

    def _make_room(self, ip: str) -> None:
        same = [entry for entry in self._pending if entry[0] == ip]
        victim = None
        if len(same) >= limits.P2P_PENDING_PER_IP_MAX:
            victim = same[0]
        elif len(self._pending) >= limits.P2P_PENDING_MAX:
            victim = self._pending[0]
        if victim is not None:
            self._pending.remove(victim)
            victim[1].cancel()

    async def _secure(
        self, stream: trio.SocketStream, address: Address, direction: Direction, peer: PeerId | None
    ) -> Conn:
        """Prove who is at the other end, agree on Yamux, register the connection."""
        raw = RawSocket(stream, is_initiator=peer is not None)
        try:
            if peer is not None:
                await offer_protocol(raw, NOISE)
                secured = await self._noise.secure_outbound(raw, ID(peer_id_bytes(peer)))
                await offer_protocol(secured, YAMUX)
            else:
                await accept_protocol(raw, (NOISE,), lambda: [NOISE])
                secured = await self._noise.secure_inbound(raw)
                await accept_protocol(secured, (YAMUX,), lambda: [YAMUX])
            proven = peer_id_of_bytes(secured.get_remote_peer().to_bytes())
            if proven is None or proven != (peer or proven) or proven == self.peer_id:
                raise PeerMisbehaved("the peer's identity is not an Ed25519 key, or is ours")
            if direction == "inbound" and self._is_full(address.host):
                raise PeerUnreachable("too many have connected meanwhile", peer=proven)
            return self._register(Conn(proven, address, direction), secured)
        except (KwaaiError, OSError, trio.Cancelled):
            await trio.aclose_forcefully(stream)
            raise
        except Exception as error:  # the handshake's libraries raise many kinds
            await trio.aclose_forcefully(stream)
            raise PeerMisbehaved(
                f"the peer did not prove its identity: {reason_of(error)}", peer=peer
            ) from error

    def _register(self, conn: Conn, secured: object) -> Conn:
        def on_round_trip(rtt_s: float) -> None:
            conn.rtt_s = rtt_s
            self._on_rtt(conn)

        conn.muxed = SafeYamux(
            secured,  # type: ignore[arg-type]
            ID(peer_id_bytes(conn.peer)),
            on_round_trip,
            self._heartbeat_s,
        )
        others = self.conns.setdefault(conn.peer, [])
        crossed = [
            other
            for other in others
            if other.is_usable
            and other.direction != conn.direction
            and conn.opened_s - other.opened_s < limits.P2P_SIMULTANEOUS_S
        ]
        # Of two that crossed, both sides use the one dialled by the lower id; otherwise the newer
        # one: a peer dials again when it has lost the older.
        dialled_here = conn.direction == "outbound"
        wins = not crossed or dialled_here == (self.peer_id < conn.peer)
        others.insert(0 if wins else len(others), conn)
        for loser in others[1:]:
            self.nursery.start_soon(self._retire, loser)
        self.nursery.start_soon(self._run_conn, conn)
        self._on_open(conn)
        return conn

    async def _retire(self, conn: Conn) -> None:
        """Close a connection that has been replaced, once what runs on it may have ended."""
        with trio.move_on_after(limits.P2P_LINGER_S):
            await conn.ended.wait()
        conn.muxed.give_up("another connection to the same peer took its place")

    async def _run_conn(self, conn: Conn) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept_streams, conn)
                await conn.muxed.start()
                nursery.cancel_scope.cancel()
        except Exception as error:  # one connection's failure is its own
            log.warning("p2p_connection_failed", peer=conn.peer, reason=repr(error))
        finally:
            await conn.muxed.abort()
            conns = self.conns.get(conn.peer, [])
            conns.remove(conn)
            if not conns:
                self.conns.pop(conn.peer, None)
            if conn.muxed.misbehaved:
                self.counters["peers_cut_off"] += 1
                log.warning("p2p_peer_cut_off", peer=conn.peer, reason=conn.muxed.reason)
            conn.ended.set()
            self._on_close(conn, not conns)

    async def _accept_streams(self, conn: Conn) -> None:
        while True:
            try:
                muxed = await conn.muxed.accept_stream()
            except Exception:  # the connection has ended; `start` returns too
                return
            stream = P2pStream(muxed, conn.muxed, conn.peer, self.nursery)
            # Too fast is made slow (it fills the peer's own pipe), too many at a time is refused.
            await trio.sleep(conn.next_stream_s())
            if conn.streams_in >= limits.P2P_STREAMS_PER_PEER_MAX:
                self.counters["streams_refused"] += 1
                stream.drop()
                continue
            conn.streams_in += 1
            self.nursery.start_soon(self._serve_stream, conn, stream)

    async def _serve_stream(self, conn: Conn, stream: P2pStream) -> None:
        try:
            with trio.fail_after(limits.P2P_HANDSHAKE_TIMEOUT_S):
                protocol = await self._negotiate(stream)
            if protocol is not None:
                await self.handlers[protocol](stream, protocol)
            await stream.close()
        except trio.Cancelled:
            stream.drop()
            raise
        except Exception as error:  # one stream's failure is its own
            self.counters["streams_failed"] += 1
            log.debug("p2p_stream_failed", peer=conn.peer, reason=reason_of(error))
            stream.drop()
        finally:
            conn.streams_in -= 1

    async def _negotiate(self, stream: P2pStream) -> str | None:
        try:
            return await accept_protocol(stream, self.handlers, lambda: list(self.handlers))
        except (PeerLost, PeerMisbehaved):
            # Most likely the request that came with an offer that we declined. No reset: it could
            # overtake our answer.
            self.counters["protocols_declined"] += 1
            return None
