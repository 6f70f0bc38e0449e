"""Large objects: fragments on different hosts, or whole copies, and reading them back from any that
have enough.

What comes is told apart by how it was made (`fragments`), decoded and given to the caller's
function; hosts whose fragments make up something that does not open have lied together.
docs/vpk.md, "Fragments".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from kwaai.errors import KwaaiError, PeerMisbehaved, SealBroken, StorageFull, TooFewHosts
from kwaai.limits import VPK_LARGE_BYTES_MAX, VPK_LARGE_HEDGE_S, VPK_WRITE_S_MAX
from kwaai.vpk.erasure import Coding, coding_for
from kwaai.vpk.fragments import (
    Fragment,
    join_stripe,
    make_fragments,
    parse_fragment,
    stripe_id,
)
from kwaai.vpk.members import HostOutcome, Roster, is_room_lacking
from kwaai.vpk.retrievability import tags_id
from kwaai.vpk.spread import Spread
from kwaai.vpk.types import Object

T = TypeVar("T")

Tag: TypeAlias = Callable[[bytes, bytes], bytes]
"""(id, bytes) to the tags of a proof of retrievability (`kwaai.vpk.retrievability.tag`)."""


def large_ids(object_id: bytes, stripes: int) -> list[bytes]:
    """Return the ids under which hosts keep so many stripes of an object, and their tags."""
    own = [stripe_id(object_id, stripe) for stripe in range(stripes)]
    return own + [tags_id(i) for i in own]


async def put_large(
    roster: Roster,
    base: bytes,
    object_id: bytes,
    blob: bytes,
    *,
    replicas: int,
    least: int,
    tag: Tag | None,
) -> Coding:
    """Store one large object; see `HostSet.put_large`."""
    coding = coding_for(roster.spread.places, replicas, len(blob))
    write = LargeWrite(roster, base, object_id, tag)
    if not coding.is_whole:
        # Half of those that may be lost must be there at once; the others are left to repair.
        spare = (coding.count - coding.least + 1) // 2
        if await write.run(blob, coding, coding.least + spare):
            return coding
        coding = Coding(1, max(1, min(replicas, len(roster.members))))
    if await write.run(blob, coding, min(least, coding.count)):
        return coding
    if write.errors and all(is_room_lacking(e) for e in write.errors):
        raise StorageFull(
            f"no host has room for an object of {len(blob)} bytes: {write.errors[0].message}"
        )
    why = f" ({write.errors[0].message})" if write.errors else ""
    raise TooFewHosts(
        f"too few hosts took an object of {len(blob)} bytes{why}; try again when they answer"
    )


@dataclass(slots=True)
class LargeWrite:
    """Writing one large object. Members that fail are not asked again."""

    roster: Roster
    base: bytes
    object_id: bytes
    tag: Tag | None
    errors: list[KwaaiError] = field(default_factory=list)
    _failed: set[int] = field(default_factory=set)

    async def run(self, blob: bytes, coding: Coding, enough: int) -> bool:
        """Put each fragment of each stripe on another host; say whether at least `enough` of each
        are there, and not with strangers alone.
        """
        for stripe, fragments in enumerate(await asyncio.to_thread(make_fragments, blob, coding)):
            placed = await self.put_stripe(stripe, dict(enumerate(fragments)), coding, {})
            anchored = any(self.roster.spread.places[m].anchor for m in placed)
            if not anchored or len(placed) < enough:
                return False
        return True

    async def put_stripe(
        self, stripe: int, fragments: dict[int, bytes], coding: Coding, there: dict[int, int]
    ) -> dict[int, int]:
        """Put what is not `there` (member to index) yet where it should be; return what is then."""
        placed = dict(there)
        own_id = stripe_id(self.object_id, stripe)
        while True:
            left = [i for i in fragments if i not in placed.values()]
            free = [m for m in self._wanted(own_id, coding, placed) if m not in placed]
            if not left or not free:
                return placed
            pairs = list(zip(free, left, strict=False))
            results = await asyncio.gather(
                *(self._put(member, own_id, fragments[index]) for member, index in pairs)
            )
            for (member, index), error in zip(pairs, results, strict=True):
                if error is None:
                    placed[member] = index
                else:
                    self._failed.add(member)
                    self.errors.append(error)

    def _wanted(self, own_id: bytes, coding: Coding, placed: dict[int, int]) -> list[int]:
        """Return who should have a fragment, of those that have not failed."""
        alive = [i for i in range(len(self.roster.members)) if i not in self._failed]
        places = [self.roster.spread.places[i] for i in alive]
        if not any(place.anchor for place in places):
            return []
        row = Spread(places).holders([own_id], coding.count, strangers_max=coding.strangers_max)[0]
        wanted = [alive[int(i)] for i in row]
        # Who has one already need not be in the row: as many others stay out.
        return wanted[: coding.count - sum(1 for m in placed if m not in wanted)]

    async def _put(self, member: int, own_id: bytes, fragment: bytes) -> KwaaiError | None:
        objects: list[Object] = [(own_id, fragment)]
        if self.tag is not None:
            objects.append((tags_id(own_id), await asyncio.to_thread(self.tag, own_id, fragment)))
        call = self.roster.members[member].host.put(self.base, objects)
        answer = await self.roster.ask(member, call, VPK_WRITE_S_MAX)
        return answer if isinstance(answer, KwaaiError) else None


@dataclass(slots=True)
class LargeRead(Generic[T]):
    """Reading one large object. Made for one `run`."""

    roster: Roster
    base: bytes
    object_id: bytes
    replicas: int
    opens: Callable[[bytes], T]
    hint: Coding | None = None
    _bad: set[bytes] = field(default_factory=set)
    """Makings that did not open, or of which there is not enough."""
    _failures: list[str] = field(default_factory=list)

    async def run(self, timeout_s: float) -> T:
        """Return the opened object. Raises TooFewHosts."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        # Each making that fails has a member that lied; one that always makes up another is enough.
        for _ in range(2 * len(self.roster.members) + 1):
            try:
                first = await self._stripe(0, None, deadline_s)
            except TooFewHosts as error:
                why = "; ".join(dict.fromkeys([error.message, *self._failures[:3]]))
                raise TooFewHosts(
                    f"an object is not to be had from its hosts at present: {why}"
                ) from error
            # Whoever leads on and stalls leaves half of the time to the others.
            opened = await self._open(first, (loop.time() + deadline_s) / 2)
            if opened is not None:
                return opened[0]
        raise TooFewHosts(
            "an object is not to be had from its hosts at present: what they send does not open "
            f"({'; '.join(dict.fromkeys(self._failures[-3:])):.300})"
        )

    async def _open(self, first: dict[int, Fragment], deadline_s: float) -> tuple[T] | None:
        """Open the blob whose first stripe is there; None where it is not to be had, or false."""
        some = next(iter(first.values()))
        found = [first]
        try:
            for stripe in range(1, some.stripes):
                found.append(await self._stripe(stripe, some.making, deadline_s))
        except TooFewHosts as error:
            self._bad.add(some.making)
            self._failures.append(error.message)
            return None
        parts = [await asyncio.to_thread(join_stripe, list(f.values())) for f in found]
        outcome: HostOutcome = "served"
        opened, detail = None, ""
        try:
            opened = (self.opens(b"".join(parts)),)
        except SealBroken as error:
            outcome, detail = "wrong", error.message
            self._bad.add(some.making)
            self._failures.append(error.message)
        for member in sorted({m for fragments in found for m in fragments}):
            self.roster.note(member, outcome, detail)
        return opened

    async def _stripe(
        self, stripe: int, making: bytes | None, deadline_s: float
    ) -> dict[int, Fragment]:
        read = StripeRead(self.roster, self.base, self.object_id, stripe, self.replicas, self.hint)
        return await read.run(making, self._bad, deadline_s)


@dataclass(slots=True)
class StripeRead:
    """Reading enough fragments of one stripe. Made for one `run`."""

    roster: Roster
    base: bytes
    object_id: bytes
    stripe: int
    replicas: int
    hint: Coding | None = None
    """How it was made, if that is known: then no first answer is waited for to know."""
    _calls: dict[asyncio.Task[bytes | None], tuple[int, float]] = field(default_factory=dict)
    """Of each: the member, and when it is late."""
    _makings: dict[bytes, dict[int, Fragment]] = field(default_factory=dict)
    """By how they were made: which member sent which."""
    _failures: list[str] = field(default_factory=list)

    async def run(
        self, making: bytes | None, bad: AbstractSet[bytes], deadline_s: float
    ) -> dict[int, Fragment]:
        """Return enough fragments of one making, by member: of that one, or of any but bad ones.
        Raises TooFewHosts.
        """
        loop = asyncio.get_running_loop()
        to_ask = self._order(loop.time())
        try:
            while self._ask_more(to_ask, loop.time()):
                late_s = (at_s for _, at_s in self._calls.values() if at_s > loop.time())
                done, _ = await asyncio.wait(
                    self._calls,
                    timeout=max(0.0, min([deadline_s, *late_s]) - loop.time()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    found = self._take(self._calls.pop(task)[0], task, making, bad)
                    if found is not None and self._lacks(found) <= 0:
                        return self._makings[found]
                if loop.time() >= deadline_s:
                    for member, _ in self._calls.values():
                        self.roster.note(member, "stalled", "no answer before the deadline")
                    self._failures.append("not all answered in time")
                    break
        finally:
            for task in self._calls:
                self.roster.leave(task)
        raise TooFewHosts("; ".join(dict.fromkeys(self._failures[:8])) or "no host has it")

    def _order(self, now_s: float) -> list[int]:
        """Return all members: where it should be first, the fastest of these first."""
        spread, own_id = self.roster.spread, stripe_id(self.object_id, self.stripe)
        coding = self._expected()
        row = spread.holders([own_id], coding.count, strangers_max=coding.strangers_max)[0]
        first = [int(m) for m in row]
        rest = [m for m in spread.order(own_id) if m not in first]
        # A factor of two in time decides: of about as fast ones, whole copies lie with the first.
        classes = [int(pace.cost_s(now_s) * 1000).bit_length() for pace in self.roster.paces]
        ordered = sorted(first, key=lambda m: classes[m]) + rest
        awake = set(self.roster.awake())
        return sorted(ordered, key=lambda m: m not in awake)

    def _expected(self) -> Coding:
        if self.hint is not None:
            return self.hint
        return coding_for(self.roster.spread.places, self.replicas, VPK_LARGE_BYTES_MAX)

    def _ask_more(self, to_ask: list[int], now_s: float) -> bool:
        """Have as many asked as may be needed, and are not late; say whether any is asked."""
        guess = 1 if self.hint is None else self.hint.least
        lacking = min(map(self._lacks, self._makings), default=guess)
        late = sum(1 for _, at_s in self._calls.values() if at_s <= now_s)
        while to_ask and len(self._calls) - late < max(1, lacking):
            member = to_ask.pop(0)
            task = asyncio.create_task(self._request(member))
            self._calls[task] = member, now_s + VPK_LARGE_HEDGE_S
        return bool(self._calls)

    async def _request(self, member: int) -> bytes | None:
        own_id = stripe_id(self.object_id, self.stripe)
        blobs = await self.roster.members[member].host.get(self.base, [own_id])
        if len(blobs) != 1:
            raise PeerMisbehaved(f"{len(blobs)} objects came instead of one")
        return blobs[0]

    def _take(
        self,
        member: int,
        task: asyncio.Task[bytes | None],
        making: bytes | None,
        bad: AbstractSet[bytes],
    ) -> bytes | None:
        """Check what a member sent; return how it was made, None where it is of no use."""
        try:
            blob = task.result()
            if blob is None:
                self._failures.append("a part is not where it should be")
                return None
            fragment = parse_fragment(blob, self.stripe)
        except KwaaiError as error:
            self.roster.fail(member, error)
            self._failures.append(error.message)
            return None
        if fragment.making in bad or making not in (None, fragment.making):
            self._failures.append("a part belongs to something else")
            return None
        self._makings.setdefault(fragment.making, {})[member] = fragment
        return fragment.making

    def _lacks(self, making: bytes) -> int:
        fragments = self._makings[making].values()
        return next(iter(fragments)).coding.least - len({f.index for f in fragments})
