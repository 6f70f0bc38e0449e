"""The hosts of a base, and what was seen of each: how fast it answers, how lately it failed.

Keeps nothing on disk, and judges nobody: outcomes are told to whoever counts them. docs/vpk.md,
"Placement".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

from kwaai.errors import (
    Busy,
    DiskFull,
    KwaaiError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    ResourceError,
    SealBroken,
    StorageFull,
    StorageRefused,
)
from kwaai.limits import (
    VPK_HEDGE_S_MAX,
    VPK_HEDGE_S_MIN,
    VPK_PACE_HALF_S,
    VPK_REST_S_MAX,
    VPK_REST_S_MIN,
)
from kwaai.vpk.spread import Place, Spread
from kwaai.vpk.types import Host

T = TypeVar("T")

HostOutcome: TypeAlias = Literal[
    "served",
    "wrong",
    "omitted",
    "stale",
    "unreachable",
    "lost",
    "stalled",
    "refused",
    "misbehaved",
    "full",
    "busy",
    "failed",
]
"""How one dealing with a host ended. `wrong`: what it sent does not open. `omitted`: it took an
object and no longer has it. `stale`: it has an older manifest than others. `served`: what it sent
was opened. The rest: what its error says.
"""

OnOutcome: TypeAlias = Callable[[str, HostOutcome, str], None]
"""Of a host: its id, how it went, and a detail for people. Must not raise or wait."""

_OUTCOMES: Final[tuple[tuple[type[KwaaiError], HostOutcome], ...]] = (
    (SealBroken, "wrong"),
    (PeerUnreachable, "unreachable"),
    (PeerLost, "lost"),
    (PeerStalled, "stalled"),
    (PeerMisbehaved, "misbehaved"),
    (PeerRefused, "refused"),
    (StorageRefused, "refused"),
    (StorageFull, "full"),
    (DiskFull, "full"),
    (Busy, "busy"),
    (KwaaiError, "failed"),
)

_AWAY: Final = ("unreachable", "lost", "stalled", "misbehaved", "refused", "failed", "wrong")
_SMOOTHING: Final = 0.2  # of a new measurement: the last ten count


def outcome_of(error: KwaaiError) -> HostOutcome:
    """Return how a dealing ended that raised this."""
    return next(outcome for kind, outcome in _OUTCOMES if isinstance(error, kind))


def is_room_lacking(error: KwaaiError) -> bool:
    """Say whether a host has no room: then another host may."""
    return isinstance(error, ResourceError) and outcome_of(error) == "full"


def ignore_outcome(host_id: str, outcome: HostOutcome, detail: str) -> None:
    """Note nothing."""


@dataclass(frozen=True, slots=True)
class Member:
    """A host of a base, and what placement needs to know of it."""

    host: Host
    owner: str
    """Whose it is: two members of one owner count as one where copies are spread. Whoever cannot
    be told apart gets an owner of its own."""
    tier: int = 0
    """`kwaai.trust.tiers.Tier` as a number."""
    weight: float = 1.0
    """Its share of the objects, against the others' weights; above 0."""
    trusted: bool = False
    """May be the only holder, whatever its tier: a device of the owner's own."""

    @property
    def id(self) -> str:
        """The host's PeerId, or `here`."""
        return self.host.id


class Pace:
    """How one host answers: smoothed times, and a rest after failures that grows with them."""

    __slots__ = ("_at_s", "_deviation_s", "_failures", "_rests_until_s", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0  # of a read; 0 while nothing was measured
        self._deviation_s = 0.0
        self._at_s = 0.0
        self._failures = 0
        self._rests_until_s = 0.0

    def measured(self, seconds: float, now_s: float) -> None:
        """Take in the time of a read that was answered."""
        if self._seconds <= 0.0:
            self._seconds, self._deviation_s = seconds, seconds / 2
        else:
            error = abs(seconds - self._seconds)
            self._deviation_s += _SMOOTHING * (error - self._deviation_s)
            self._seconds += _SMOOTHING * (seconds - self._seconds)
        self._at_s = now_s

    def overdue(self, seconds: float, now_s: float) -> None:
        """Take in that a read was given up after so long: it would have taken longer."""
        if seconds > self._seconds:
            self._seconds, self._at_s = seconds, now_s

    def ended(self, outcome: HostOutcome, now_s: float) -> None:
        """Let the host rest after a failure, longer each time until it serves again."""
        if outcome == "served":
            self._failures, self._rests_until_s = 0, 0.0
        elif outcome in _AWAY:
            rest_s = min(VPK_REST_S_MAX, VPK_REST_S_MIN * 2.0 ** min(self._failures, 16))
            self._failures += 1
            self._rests_until_s = now_s + rest_s

    def rests(self, now_s: float) -> bool:
        """Say whether the host failed lately."""
        return now_s < self._rests_until_s

    def cost_s(self, now_s: float) -> float:
        """Return the expected time of a read; slowness fades while a host is not asked. Of one that
        rests: far above any time.
        """
        if self.rests(now_s):
            return 1e9
        fades: float = 0.5 ** (max(0.0, now_s - self._at_s) / VPK_PACE_HALF_S)
        return self._seconds * fades

    def hedge_s(self) -> float:
        """Return the time after which an answer is later than nearly all were."""
        if self._seconds <= 0.0:
            return VPK_HEDGE_S_MAX
        late_s = self._seconds + 4.0 * self._deviation_s
        return min(VPK_HEDGE_S_MAX, max(VPK_HEDGE_S_MIN, late_s))


class Roster:
    """Members with their paces, and who is told how they did. Belongs to one event loop."""

    def __init__(
        self,
        members: Sequence[Member],
        floor: int,
        on_outcome: OnOutcome,
        paces: Mapping[str, Pace] | None = None,
    ) -> None:
        """Raises as `Spread` does."""
        self.members = tuple(members)
        self.spread = Spread([place_of(m, floor) for m in members])
        known = paces or {}
        self.paces = tuple(known.get(m.id) or Pace() for m in self.members)
        self.taken: dict[tuple[bytes, str], int] = {}
        """By base and host: the highest number of a manifest that it has taken from here."""
        self._floor, self._on_outcome = floor, on_outcome
        self._left: set[asyncio.Task[Any]] = set()

    def with_members(self, members: Sequence[Member]) -> Roster:
        """Return a roster of these; who stays keeps its pace."""
        paces = {m.id: pace for m, pace in zip(self.members, self.paces, strict=True)}
        return Roster(members, self._floor, self._on_outcome, paces)

    def note(self, index: int, outcome: HostOutcome, detail: str) -> None:
        """Tell how a dealing with a member ended; one that failed rests."""
        self.paces[index].ended(outcome, asyncio.get_running_loop().time())
        self._on_outcome(self.members[index].id, outcome, detail)

    def fail(self, index: int, error: KwaaiError) -> HostOutcome:
        """The same, of what it raised."""
        outcome = outcome_of(error)
        self.note(index, outcome, error.message)
        return outcome

    def awake(self) -> list[int]:
        """Return the members that did not fail lately."""
        now_s = asyncio.get_running_loop().time()
        return [i for i, pace in enumerate(self.paces) if not pace.rests(now_s)]

    async def ask(self, index: int, call: Awaitable[T], timeout_s: float) -> T | KwaaiError:
        """Wait for one member's answer. What it raises is told, and returned."""
        try:
            async with asyncio.timeout(timeout_s):
                return await call
        except TimeoutError:
            error: KwaaiError = PeerStalled(
                f"host {self.members[index].id:.64} did not answer in {timeout_s:.1f} s"
            )
        except KwaaiError as raised:
            error = raised
        self.fail(index, error)
        return error

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Give up a task: whatever it brings is forgotten."""
        task.cancel()
        self._left.add(task)
        task.add_done_callback(self._forget)

    async def settle(self) -> None:
        """Wait for what was given up."""
        while self._left:
            await asyncio.wait(list(self._left))

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()


def place_of(member: Member, floor: int) -> Place:
    """Return a member as placement sees it."""
    anchor = member.trusted or member.tier >= floor
    return Place(member.id, member.owner, member.weight, anchor)
