"""Who is at fault in one session along hops: where a step does not come back, and where one hop
blames another.

Asks the hops, and waits for a bounded time. Decides by `stall`, speaks by `blame`; ends nothing
itself (`remote` does, as it is told). docs/protocol/shard.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from credentials.keys import PeerId
from kwaai.errors import KwaaiError, PeerError, PeerStalled
from kwaai.limits import SHARD_PROBE_TIMEOUT_S, SHARD_STEP_PATIENCE, SHARD_STEP_TIMEOUT_S_MIN
from kwaai.node.blame import Blame
from kwaai.node.shard_control import ShardControl
from kwaai.node.stall import find_stalled
from kwaai.wire.messages import Probe, Progress


@dataclass(slots=True)
class UnderWay:
    """A step that was sent and is not answered yet. Times are of the event loop."""

    future: asyncio.Future[Any]
    sent_s: float
    patience_s: float
    """How long it may take before hops are asked where it is."""
    due_s: float
    """When they are."""


class Inquiry:
    """What a session knows of its hops, and the questions that it asks them. Needs a running loop
    where it is used.
    """

    def __init__(
        self,
        session: bytes,
        peers: Sequence[PeerId],
        blame: Blame,
        control: ShardControl,
        steps: Mapping[int, UnderWay],
        *,
        fail: Callable[[KwaaiError], object],
        is_over: Callable[[], bool],
    ) -> None:
        """`steps`: the session's own, by number, the oldest first. `fail` ends the session with an
        error.
        """
        self._session, self._peers, self._blame, self._control = session, peers, blame, control
        self._steps, self._fail, self._is_over = steps, fail, is_over
        self._changed = asyncio.Event()
        self._progress: dict[int, Progress] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._search: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._heard: set[PeerId] = set()
        """Hops that are known to live since the last hearing began."""
        self._ended: set[PeerId] = set()
        """Hops that have said that the session is over for them, and say no more."""

    def close(self) -> None:
        """Ask nobody any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._search, self._hearing):
            if task is not None:
                task.cancel()

    # What comes of the hops.

    def heard(self, peer: PeerId) -> None:
        """Note that a hop lives."""
        self._heard.add(peer)

    def ended(self, peer: PeerId) -> None:
        """Note that the session is over for a hop."""
        self._ended.add(peer)
        self.wake()

    def progressed(self, message: Progress) -> None:
        """Note how far a hop says that it has come."""
        self._progress[message.hop] = message

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._changed.set()

    async def until(self, is_done: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `is_done`, the session is over, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_done() and not self._is_over():
                    self._changed.clear()
                    await self._changed.wait()

    # One hop blames another.

    def blamed(self, error: PeerError) -> None:
        """End the session because of what a hop says; of another hop only after a look."""
        if error.accuser is None:
            self._fail(error)
        elif self._hearing is None and not self._is_over():
            self._hearing = asyncio.create_task(self._hear(error))

    async def _hear(self, error: PeerError) -> None:
        """See whether a hop that another one blames lives. If it does, it may be either's fault."""
        accused = PeerId(error.peer or "")
        self._heard = set(self._ended)
        await self._probe(accused)
        await self.until(lambda: accused in self._heard, SHARD_PROBE_TIMEOUT_S)
        if accused not in self._heard:
            error.accuser = None
        self._fail(error)

    # A step does not come back.

    def watch(self, patience_s: float) -> None:
        """Look after the steps under way, from `patience_s` on."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(patience_s, self._look)

    def _look(self) -> None:
        """The timer: is the oldest step overdue?"""
        self._timer = None
        if self._is_over() or not self._steps:
            return
        loop = asyncio.get_running_loop()
        due_s = next(iter(self._steps.values())).due_s
        if loop.time() >= due_s and (self._search is None or self._search.done()):
            self._search = asyncio.create_task(self._find_stalled())
            due_s = loop.time() + SHARD_STEP_TIMEOUT_S_MIN
        self._timer = loop.call_later(max(0.01, due_s - loop.time()), self._look)

    async def _find_stalled(self) -> None:
        """Ask the hops where the oldest step is. Whoever does not answer, or has had it for too
        long, is at fault.
        """
        number, step = next(iter(self._steps.items()))
        self._progress.clear()
        await asyncio.gather(*(self._probe(peer) for peer in self._peers))
        await self.until(lambda: len(self._progress) == len(self._peers), SHARD_PROBE_TIMEOUT_S)
        if self._is_over() or number not in self._steps:
            return
        waited_s = asyncio.get_running_loop().time() - step.sent_s
        stalled = find_stalled(self._progress, len(self._peers), number)
        if stalled.is_working and waited_s < SHARD_STEP_PATIENCE * step.patience_s:
            step.due_s += step.patience_s
            return
        what = f"{stalled.what} (step {number}, for {waited_s:.1f} s)"
        accuser = self._peers[stalled.hop - 1] if stalled.is_disputed else None
        if accuser is not None:
            what = f"{what}; {self._blame.name(accuser)} says that it has sent it"
        peer = self._peers[stalled.hop]
        self._fail(self._blame.error(PeerStalled, peer, what, accuser=accuser))

    async def _probe(self, peer: PeerId) -> None:
        with contextlib.suppress(PeerError):  # it does not answer either
            await self._control.send(peer, Probe(self._session))
