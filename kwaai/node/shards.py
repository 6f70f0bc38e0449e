"""What a node does for others: sessions on the slices that it serves, over its links.

Decides who gets in, ends what is lost, idle or drained, and counts. One session's life is `hop`'s;
which slices there are is the caller's (`HeldParts`). docs/protocol/shard.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeAlias
from weakref import WeakKeyDictionary

from credentials.keys import PeerId
from kwaai.errors import Busy, KwaaiError, PeerLost, PeerMisbehaved, PeerRefused
from kwaai.limits import (
    COMPUTE_WEIGHT_MAX,
    SHARD_CLOSE_TIMEOUT_S,
    SHARD_DRAIN_GRACE_S,
    SHARD_SAYINGS_MAX,
    SHARD_SESSION_IDLE_S,
    SHARD_SESSIONS_MAX,
    SHARD_SHARE_S,
    SHARD_SWEEP_S,
)
from kwaai.log import get_logger
from kwaai.node.accounts import ServedLedger
from kwaai.node.hop import HopCounters, HopRefusal, ServedSession
from kwaai.node.next_hop import Addresses, NextHops
from kwaai.node.parts import HeldParts, Part
from kwaai.node.shard_control import ShardControl, ToHop
from kwaai.node.shares import Shares
from kwaai.wire.messages import Cancel, Control, Open, Probe, Refused, RefusedReason

Admit: TypeAlias = Callable[[PeerId, Open], bytes]
"""Called with every OPEN that this node could serve. Returns this hop's signed offer, b"" for none.
Raises KwaaiError, with the rule that forbids it; Busy."""

WeightOf: TypeAlias = Callable[[PeerId], int]
"""A requester's share of this node's compute, 1 to COMPUTE_WEIGHT_MAX."""

log = get_logger(__name__)


class ShardServer:
    """Serves hops. Belongs to one event loop; `start` once, `stop` in the end."""

    def __init__(
        self,
        control: ShardControl,
        parts: HeldParts,
        *,
        addresses: Addresses = lambda _: (),
        sessions_max: int = SHARD_SESSIONS_MAX,
        idle_s: float = SHARD_SESSION_IDLE_S,
        admit: Admit | None = None,
        ledger: ServedLedger | None = None,
        weight_of: WeightOf | None = None,
    ) -> None:
        """`addresses`: where a peer's links are, by its own record. `admit`: who may have a
        session; None: everybody. `ledger`: told of every session, for its receipts. `weight_of`:
        a requester's share where several wait; None: all have the same, as this node's own work.
        """
        self._control, self._parts, self._me = control, parts, control.links.peer
        self._sessions_max, self._idle_s = sessions_max, idle_s
        self.admit, self._ledger, self._weight_of = admit, ledger, weight_of
        self._sessions: dict[bytes, ServedSession] = {}
        self._next_hops = NextHops(control.links, addresses)
        self._shares: WeakKeyDictionary[Part, Shares] = WeakKeyDictionary()
        self._sayings: dict[asyncio.Task[None], PeerId] = {}
        self._is_draining = False
        self._sweep: asyncio.TimerHandle | None = None
        self.counters = HopCounters()
        control.links.on_lost(self._on_lost)

    def start(self) -> None:
        """Take sessions from now on."""
        self._is_draining = False
        self._control.serve(self._on_message)

    @property
    def sessions_open(self) -> int:
        """Sessions that hold anything here, those being opened or closed included."""
        return len(self._sessions)

    @property
    def is_draining(self) -> bool:
        """Whether new sessions are refused."""
        return self._is_draining

    def sessions_on(self, part: Part) -> int:
        """How many sessions use `part`."""
        return sum(session.part is part for session in self._sessions.values())

    def stats(self) -> Mapping[str, float]:
        """Counters and gauges, by the names of `kwaai.api.metrics.GENERATOR_STATS`."""
        return {
            "sessions_open": len(self._sessions),
            "sessions_opened": self.counters.opened,
            "sessions_refused": self.counters.refused,
            "sessions_failed": self.counters.failed,
            "hop_steps": self.counters.steps,
            "hop_rows": self.counters.rows,
            "hop_repeats": self.counters.repeats,
        }

    def resume(self) -> None:
        """Take new sessions again after `drain`."""
        self._is_draining = False

    async def drain(self, grace_s: float = SHARD_DRAIN_GRACE_S, part: Part | None = None) -> None:
        """Refuse new sessions and wait for those that run, then end them and tell their requesters.

        `part`: only the sessions of one slice that is no longer served (its provider does not give
        it out any more); the server goes on with the others.
        """
        if part is None:
            self._is_draining = True
        running = self._of(part)
        if running and grace_s > 0:
            await asyncio.wait(running, timeout=grace_s)
        self._end_all(part)
        if running := self._of(part):
            await asyncio.wait(running, timeout=SHARD_CLOSE_TIMEOUT_S)

    async def stop(self) -> None:
        """End everything at once. Idempotent."""
        await self.drain(0.0)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for task in tuple(self._sayings):
            task.cancel()

    def _of(self, part: Part | None) -> list[asyncio.Task[None]]:
        return [
            session.task
            for session in self._sessions.values()
            if session.task is not None and part in (None, session.part)
        ]

    def _end_all(self, part: Part | None) -> None:
        for session in tuple(self._sessions.values()):
            if part in (None, session.part):
                session.end(PeerRefused("it stops serving", peer=self._me, retry_after_s=1.0))

    # Messages.

    def _on_message(self, peer: PeerId, message: ToHop) -> None:
        if isinstance(message, Open):
            self._on_open(peer, message)
            return
        session = self._sessions.get(message.session)
        if session is None or session.requester != peer:
            return  # over already, or none of this peer's business
        if isinstance(message, Cancel):
            session.cancel(message)
        elif isinstance(message, Probe):
            self._say(peer, session.progress)
        else:
            session.close(message)

    def _on_open(self, peer: PeerId, wanted: Open) -> None:
        try:
            session = self._admit(peer, wanted)
        except HopRefusal as refusal:
            self._refuse(peer, wanted, refusal)
            return
        except PeerMisbehaved as error:
            self._refuse(peer, wanted, HopRefusal(RefusedReason.BAD_REQUEST, error.message))
            return
        self._sessions[wanted.session] = session
        if self._ledger is not None:
            self._ledger.begin(wanted.session, peer)
        session.task = asyncio.create_task(self._live(session), name="shard-session")
        if self._sweep is None:
            self._sweep_later()

    def _admit(self, peer: PeerId, wanted: Open) -> ServedSession:
        if self._is_draining:
            raise HopRefusal(RefusedReason.DRAINING, "this node stops serving; ask another")
        if wanted.session in self._sessions:
            raise HopRefusal(RefusedReason.BAD_REQUEST, "a session of this id is open")
        if self._me in (peer, wanted.previous, wanted.next):
            raise HopRefusal(RefusedReason.BAD_REQUEST, "this node would be its own neighbour")
        part = self._parts.part(wanted.handle, wanted.layers)
        if part is None:
            raise self._not_held(peer, wanted)
        if wanted.samples and not part.head:
            raise HopRefusal(RefusedReason.NOT_HELD, f"it holds {part.layers} without the head")
        if wanted.context_tokens > part.context_tokens:
            raise HopRefusal(
                RefusedReason.TOO_LARGE,
                f"it has {part.context_tokens} positions a session, not {wanted.context_tokens}",
            )
        if len(self._sessions) >= self._sessions_max:
            raise HopRefusal(RefusedReason.BUSY, "every session of this node is taken", 1.0)
        self._check_share(peer, part)
        session = ServedSession(
            wanted,
            peer,
            part,
            self._control,
            self.counters,
            self._next_hops,
            me=self._me,
            offer=self._offer(peer, wanted),
            weight=COMPUTE_WEIGHT_MAX if self._weight_of is None else self._weight_of(peer),
        )
        self._share(part).let_in(peer, time.monotonic())
        return session

    def _not_held(self, peer: PeerId, wanted: Open) -> HopRefusal:
        """Say what is served; or, of a range that can be divided, load the part for whoever may
        use it.
        """
        handle, layers = wanted.handle, wanted.layers
        if self._parts.divides(handle, layers):
            self._offer(peer, wanted)
            try:
                wait_s = self._parts.load_part(handle, layers)
            except Busy as error:
                return HopRefusal(RefusedReason.BUSY, error.message, error.retry_after_s)
            what = f"it loads layers {layers}; ask again in {wait_s:.0f} s"
            return HopRefusal(RefusedReason.BUSY, what, wait_s)
        held = " ".join(str(r) for r in self._parts.held(handle)) or "none of its layers"
        return HopRefusal(RefusedReason.NOT_HELD, f"it does not serve layers {layers}, but {held}")

    def _offer(self, peer: PeerId, wanted: Open) -> bytes:
        """Ask this node's rules. Last of all, so that an intent is only used up where it counts."""
        if self.admit is None:
            return b""
        try:
            return self.admit(peer, wanted)
        except Busy as error:
            raise HopRefusal(RefusedReason.BUSY, error.message, error.retry_after_s) from None
        except KwaaiError as error:
            raise HopRefusal(
                RefusedReason.NOT_ALLOWED, error.message, error.retry_after_s
            ) from None

    # Fairness.

    def _share(self, part: Part) -> Shares:
        shares = self._shares.get(part)
        if shares is None:
            shares = Shares() if self._weight_of is None else Shares(self._weight_of)
            self._shares[part] = shares
        return shares

    def _check_share(self, peer: PeerId, part: Part) -> None:
        """Refuse more than a share while others wait, and what is another's turn."""
        shares, held, stats = self._share(part), self._held(part), part.stats
        now_s, most = time.monotonic(), stats.sessions_max
        if not shares.may_open(peer, held, now_s, most=most):
            raise HopRefusal(RefusedReason.BUSY, "you have your share, and others wait", 1.0)
        if shares.must_wait(peer, now_s, free=most - stats.sessions_open):
            shares.turned_away(peer, held, now_s, most=most)
            raise HopRefusal(RefusedReason.BUSY, "it is the turn of others that wait", 1.0)

    def _held(self, part: Part) -> Counter[PeerId]:
        """Return the sessions of a slice by requester."""
        return Counter(
            s.requester for s in self._sessions.values() if s.part is part and not s.is_ending
        )

    def _turned_away(self, session: ServedSession) -> None:
        part, peer = session.part, session.requester
        most = part.stats.sessions_max
        self._share(part).found_none(peer)
        self._share(part).turned_away(peer, self._held(part), time.monotonic(), most=most)

    def _share_out(self, now_s: float) -> None:
        """End the oldest session of whoever holds more than its share of a slice for long."""
        for part, shares in tuple(self._shares.items()):
            greedy = shares.greedy(self._held(part), now_s, most=part.stats.sessions_max)
            if greedy is None:
                continue
            own = [
                s for s in self._sessions.values()
                if s.part is part and s.requester == greedy and not s.is_ending
            ]  # fmt: skip
            oldest = min(own, key=lambda session: session.began_s)
            if now_s - oldest.began_s > SHARD_SHARE_S:
                oldest.end(PeerRefused("others wait for a session", peer=self._me))

    def _refuse(self, peer: PeerId, wanted: Open, why: HopRefusal) -> None:
        self.counters.refused += 1
        log.info("shard_session_refused", peer=peer, reason=why.reason.name, message=why.message)
        retry_ms = round(1000 * (why.retry_after_s or 0.0))
        self._say(peer, Refused(wanted.session, wanted.hop, why.reason, why.message, retry_ms))

    def _say(self, peer: PeerId, message: Control) -> None:
        """Send a control message without waiting for it."""
        if self._control.send_now(peer, message):
            return
        if sum(other == peer for other in self._sayings.values()) >= SHARD_SAYINGS_MAX:
            return  # it does not read; nobody else waits for that
        task = asyncio.create_task(self._send(peer, message))
        self._sayings[task] = peer
        task.add_done_callback(lambda task: self._sayings.pop(task, None))

    async def _send(self, peer: PeerId, message: Control) -> None:
        try:
            await self._control.send(peer, message)
        except KwaaiError as error:
            log.info("shard_requester_gone", peer=peer, problem=error.message)

    # Lives.

    async def _live(self, session: ServedSession) -> None:
        try:
            await session.live()
        finally:
            del self._sessions[session.wanted.session]
            if self._ledger is not None:
                account = session.record.account()
                self._ledger.end(session.wanted.session, session.requester, account)
            if session.found_full:
                self._turned_away(session)

    def _on_lost(self, peer: PeerId, reason: str) -> None:
        """A link is gone: so are the sessions that go over it."""
        for session in tuple(self._sessions.values()):
            if session.requester == peer:
                session.end(None)
            elif peer in session.peers:
                session.end(PeerLost(f"its link to the hop beside it ended: {reason}", peer=peer))

    def _sweep_later(self) -> None:
        """Look for idle sessions while there are sessions."""
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(
            max(0.05, min(SHARD_SWEEP_S, self._idle_s / 4)), self._sweep_now
        )

    def _sweep_now(self) -> None:
        self._sweep = None
        now_s = time.monotonic()
        for session in tuple(self._sessions.values()):
            session.check_age(now_s, self._idle_s)
        self._share_out(now_s)
        if self._sessions:
            self._sweep_later()
