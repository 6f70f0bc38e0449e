"""A libp2p node on the trio side: who is connected, who should be, who they are, where they are.

Puts host, identify, DHT and peer book together; `kwaai.net.libp2p_network` is its face. Dials
bootstrap peers for ever, and known peers while there are few, with backoff and jitter. Trio only.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import trio

from credentials.keys import PeerId, SecretKey
from kwaai import limits
from kwaai.errors import KwaaiError, PeerError, PeerUnreachable
from kwaai.log import get_logger
from kwaai.net.kad import KAD, Kad
from kwaai.net.libp2p_host import Conn, Host
from kwaai.net.libp2p_services import (
    IDENTIFY_PUSH,
    PING,
    Identity,
    add_identify,
    fetch_identify,
    parse_identify,
    serve_ping,
)
from kwaai.net.libp2p_stream import P2pStream, reason_of
from kwaai.net.libp2p_wire import read_message
from kwaai.net.multiaddrs import Address, ip_address
from kwaai.net.network import Connection
from kwaai.net.peer_book import PeerBook

log = get_logger(__name__)
TICK_S = 0.5
INTERFACES_S = 30.0
SAVE_S = 30.0


@dataclass(slots=True)
class _Redial:
    attempt: int
    due_s: float


class P2pNode:
    """Everything of one node that runs in the trio thread."""

    def __init__(
        self,
        secret: SecretKey,
        *,
        bootstrap: Sequence[tuple[Address, PeerId]],
        announce: Sequence[Address],
        state_path: Path | None,
        on_change: Callable[[PeerId, Connection | None], None],
        heartbeat_s: float = limits.P2P_HEARTBEAT_S,
    ) -> None:
        self.host = Host(
            secret,
            on_open=self._opened,
            on_close=self._closed,
            on_rtt=self._changed,
            heartbeat_s=heartbeat_s,
        )
        self.peer_id = self.host.peer_id
        self.book = PeerBook(self.peer_id)
        self.kad = Kad(self)
        self._bootstrap: dict[PeerId, list[Address]] = {}
        for address, peer in bootstrap:
            if peer != self.peer_id:
                self._bootstrap.setdefault(peer, []).append(address)
        self._announce = tuple(announce)
        self._state_path = state_path
        self._on_change = on_change
        self._redials: dict[PeerId, _Redial] = {}
        self._interfaces: tuple[float, tuple[str, ...]] = (0.0, ())
        self._saved = 0

    async def run(
        self, listen: Sequence[Address], task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until cancelled. Raises PortInUse, UserError."""
        # libp2p takes its logger off the root, so that what strangers do would go to standard
        # error. What matters is logged here; the library's own switch still works.
        if not os.environ.get("LIBP2P_DEBUG"):
            logging.getLogger("libp2p").setLevel(logging.CRITICAL + 1)
        if self._state_path is not None:
            self.book.load(self._state_path)
            self._saved = self.book.changes
        add_identify(self.host, self.addresses_for)
        self.host.handlers[IDENTIFY_PUSH] = self._serve_push
        self.host.handlers[PING] = serve_ping
        self.host.handlers[KAD] = self.kad.serve
        async with trio.open_nursery() as nursery:
            await nursery.start(self.host.run, listen)
            nursery.start_soon(self._keep)
            nursery.start_soon(self.kad.keep)
            task_status.started(self.addresses())
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self._save()

    # --- where we are

    def addresses(self) -> tuple[Address, ...]:
        """Return where this node listens: every interface's address for an unspecified one."""
        found: dict[Address, None] = dict.fromkeys(self._announce)
        for address in self.host.listening:
            if not address.is_unspecified:
                found[address] = None
                continue
            for ip in self._interface_ips():
                own = ip_address(ip, address.port)
                if own.kind == address.kind:
                    found[own] = None
        return tuple(found)[: limits.P2P_ADDRESSES_PER_PEER_MAX]

    def addresses_for(self, conn: Conn) -> tuple[Address, ...]:
        """Return what a peer may use of them: loopback only for a peer on this machine."""
        everything = self.addresses()
        if conn.address.is_loopback or conn.address.host in self._interface_ips():
            return everything
        return tuple(address for address in everything if not address.is_loopback)

    def _interface_ips(self) -> tuple[str, ...]:
        read_s, ips = self._interfaces
        if not ips or time.monotonic() - read_s > INTERFACES_S:
            entries = [entry for nic in psutil.net_if_addrs().values() for entry in nic]
            ips = tuple(
                entry.address
                for entry in entries
                if entry.family == socket.AF_INET
                or (entry.family == socket.AF_INET6 and not entry.address.startswith("fe80"))
            )
            # Loopback last: it is of use on this machine only.
            ips = tuple(sorted(ips, key=lambda ip: ip_address(ip, 1).is_loopback))
            self._interfaces = (time.monotonic(), ips)
        return ips

    # --- connecting

    async def connect(
        self, peer: PeerId, addresses: Sequence[Address], timeout_s: float, *, ask_dht: bool = True
    ) -> None:
        """Be connected to a peer, by given, known or DHT addresses. Raises PeerUnreachable."""
        if self.host.conn(peer) is not None:
            return
        with trio.move_on_after(timeout_s):
            known = tuple(dict.fromkeys((*addresses, *self._known_addresses(peer))))
            try:
                await self.host.dial(peer, known)
                return
            except PeerUnreachable:
                if not ask_dht:
                    raise
                found = await self.kad.find_peer(peer)
                new = [address for address in found if address not in known]
                if not new:
                    raise
            await self.host.dial(peer, new)
            return
        raise PeerUnreachable(f"{peer} does not answer within {timeout_s:g} s", peer=peer)

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to a peer; we do not dial it by ourselves for a minute."""
        self._redials[peer] = _Redial(len(limits.P2P_REDIAL_S), time.monotonic() + 60.0)
        await self.host.close(peer)

    def _known_addresses(self, peer: PeerId) -> tuple[Address, ...]:
        given = tuple(self._bootstrap.get(peer, ()))
        return tuple(dict.fromkeys((*given, *self.book.addresses(peer))))

    # --- peers come and go

    def _opened(self, conn: Conn) -> None:
        used = conn.address if conn.direction == "outbound" else None
        self.book.meet(conn.peer, used=used)
        self._redials.pop(conn.peer, None)
        self._changed(conn)
        self.host.nursery.start_soon(self._identify, conn)

    def _closed(self, conn: Conn, was_last: bool) -> None:
        if not was_last:
            remaining = self.host.conn(conn.peer)
            if remaining is not None:
                self._changed(remaining)
            return
        log.debug("p2p_peer_left", peer=conn.peer, reason=conn.muxed.reason)
        self._redials.setdefault(conn.peer, self._next_redial(0))
        self._on_change(conn.peer, None)

    def _changed(self, conn: Conn) -> None:
        if self.host.conn(conn.peer) is conn:
            self._on_change(
                conn.peer,
                Connection(
                    conn.peer,
                    str(conn.address),
                    conn.direction,
                    conn.since_s,
                    conn.rtt_s,
                    conn.agent,
                ),
            )

    async def _identify(self, conn: Conn) -> None:
        try:
            with trio.fail_after(limits.P2P_TIMEOUT_S):
                self._learn(conn, await fetch_identify(self.host, conn.peer))
        except (KwaaiError, trio.TooSlowError) as error:
            log.debug("p2p_identify_failed", peer=conn.peer, reason=reason_of(error))

    async def _serve_push(self, stream: P2pStream, protocol: str) -> None:
        with trio.fail_after(limits.P2P_TIMEOUT_S):
            data = await read_message(stream, limits.P2P_IDENTIFY_BYTES_MAX)
        conn = self.host.conn(stream.peer)
        if conn is not None:
            self._learn(conn, parse_identify(data, stream.peer))

    def _learn(self, conn: Conn, identity: Identity) -> None:
        conn.agent, conn.protocols = identity.agent, identity.protocols
        addresses = identity.addresses
        if not conn.address.is_loopback and conn.address.host not in self._interface_ips():
            addresses = tuple(address for address in addresses if not address.is_loopback)
        used = conn.address if conn.direction == "outbound" else None
        self.book.meet(conn.peer, addresses, used)
        if KAD in identity.protocols:
            self.kad.joined(conn.peer)
        self._changed(conn)

    # --- keeping connections

    async def _keep(self) -> None:
        """Dial who should be connected, close what is too much, save what is new."""
        saved_s = time.monotonic()
        for peer in self.book.met():
            self._redials.setdefault(peer, self._next_redial(0, first=True))
        while True:
            for peer in self._bootstrap:
                self._redials.setdefault(peer, self._next_redial(0, first=True))
            self._dial_due()
            self._trim()
            if time.monotonic() - saved_s > SAVE_S:
                saved_s = time.monotonic()
                await self._save()
            await trio.sleep(TICK_S)

    def _dial_due(self) -> None:
        now = time.monotonic()
        wanted = limits.P2P_PEERS_WANTED - len(self.host.conns)
        for peer, redial in list(self._redials.items()):
            if self.host.conn(peer) is not None:
                continue
            if peer not in self._bootstrap:
                if not self.book.addresses(peer):
                    del self._redials[peer]
                    continue
                if wanted <= 0:
                    continue
            if redial.due_s <= now:
                wanted -= 1
                self._redials[peer] = self._next_redial(redial.attempt + 1)
                self.host.nursery.start_soon(self._redial, peer)

    def _next_redial(self, attempt: int, *, first: bool = False) -> _Redial:
        delay_s = limits.P2P_REDIAL_S[min(attempt, len(limits.P2P_REDIAL_S) - 1)]
        delay_s *= random.uniform(0.75, 1.25)
        return _Redial(attempt, time.monotonic() + (0.0 if first else delay_s))

    async def _redial(self, peer: PeerId) -> None:
        try:
            await self.connect(peer, (), limits.P2P_TIMEOUT_S, ask_dht=False)
        except PeerError as error:
            log.debug("p2p_redial_failed", peer=peer, reason=error.message)

    def _trim(self) -> None:
        """Close idle connections that were made for look-ups only, the oldest first."""
        excess = self.host.count() - limits.P2P_CONNECTIONS_TRIM
        if excess <= 0:
            return
        idle = [
            conn
            for conns in self.host.conns.values()
            for conn in conns
            if conn.direction == "outbound"
            and conn.peer not in self._bootstrap
            and trio.current_time() - conn.opened_s > 60.0
            and not conn.muxed.streams
        ]
        for conn in sorted(idle, key=lambda conn: conn.opened_s)[:excess]:
            conn.muxed.give_up("it was idle, and there are many connections")

    async def _save(self) -> None:
        if self._state_path is None or self._saved == self.book.changes:
            return
        changes = self.book.changes
        try:
            await trio.to_thread.run_sync(self.book.save, self._state_path)
        except (OSError, KwaaiError) as error:
            log.warning("known_peers_not_saved", path=str(self._state_path), reason=str(error))
            return
        self._saved = changes
