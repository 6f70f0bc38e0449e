"""What a node itself sees of sessions, for receipts: as a hop, and as who asks.

Counts and hashes what passes; signs and sends nothing (`kwaai.node.receipts`). A hop's accounts
wait in the ledger for the requester's half, for minutes. docs/protocol/receipts.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credentials.keys import PeerId
from kwaai.errors import KwaaiError, PeerStalled
from kwaai.intent.receipt import (
    OUTCOMES,
    Account,
    Outcome,
    digest_of_intent,
    digest_of_sampling,
)
from kwaai.limits import (
    RECEIPT_LEDGER_MAX,
    RECEIPT_LEDGER_PER_PEER_MAX,
    RECEIPT_LEDGER_S,
)
from kwaai.wire.messages import CloseReason, Open
from kwaai.wire.step import Step, StepKind, Tokens
from kwaai.wire.transcript import POSITION_ANY, Cover, StepChain, tensor_of

if TYPE_CHECKING:
    from kwaai.wire.session import Output


class _Clock:
    """When a session began, when its first output came, and its last."""

    __slots__ = ("_began_s", "_first_s", "_last_s", "started_s")

    def __init__(self) -> None:
        self.started_s = time.time()
        self._began_s = self._last_s = time.monotonic()
        self._first_s: float | None = None

    def answered(self, step: Step) -> None:
        self._last_s = time.monotonic()
        if self._first_s is None and step.outputs:
            self._first_s = self._last_s - self._began_s

    @property
    def finished_s(self) -> float:
        return self.started_s + self._last_s - self._began_s

    @property
    def first_s(self) -> float | None:
        return self._first_s


class HopRecorder:
    """One session on this hop, as it passes."""

    def __init__(self, wanted: Open, requester: PeerId, me: PeerId) -> None:
        self._wanted, self._requester, self._me = wanted, requester, me
        self._taken, self._given = StepChain(wanted.session), StepChain(wanted.session)
        self._clock = _Clock()
        self._outcome: Outcome = "failed"

    def took(self, step: Step, message: bytes) -> None:
        """Note a new step that was accepted. message: as it came."""
        if step.kind is StepKind.ROLLBACK:
            self._taken.rollback(step.position)
        else:
            self._taken.add_step(step, tensor_of(message, step))

    def gave(self, step: Step, output: Output, parts: Sequence[bytes | memoryview]) -> None:
        """Note the output of a step that goes out, not those that are sent again. parts: its bytes,
        the tensor last.
        """
        if step.kind is StepKind.ROLLBACK:
            self._given.rollback(step.position)
        elif isinstance(output, Tokens):
            self._given.add_tokens(step, output.tokens)
        else:
            self._given.add_step(step, parts[-1])
        self._clock.answered(step)

    def closed(self, reason: CloseReason) -> None:
        """Note how the requester ended the session."""
        self._outcome = OUTCOMES[reason]

    def failed(self, why: KwaaiError | None) -> None:
        """Note that the session ended otherwise."""
        self._outcome = "timed-out" if isinstance(why, PeerStalled) else "failed"

    def account(self) -> Account | None:
        """Return the account of a session that is over; None where nothing came out of it."""
        if not len(self._given):
            return None
        wanted = self._wanted
        return Account(
            session=wanted.session,
            requester=self._requester,
            peer=self._me,
            role="hop",
            handle=wanted.handle,
            layers=wanted.layers,
            hop=wanted.hop,
            hops=wanted.hops,
            taken=self._taken.tail(),
            given=self._given.tail(),
            started_s=self._clock.started_s,
            finished_s=self._clock.finished_s,
            first_s=self._clock.first_s,
            outcome=self._outcome,
            intent_digest=digest_of_intent(wanted.intent),
            parameters_digest=digest_of_sampling(wanted.sampling),
        )


class AskedRecorder:
    """One session that this node has on hops: what it puts into the path, and what comes out."""

    def __init__(self, opens: Sequence[Open], peers: Sequence[PeerId], me: PeerId) -> None:
        self._opens, self._peers, self._me = tuple(opens), tuple(peers), me
        session = opens[0].session
        self._taken, self._given = StepChain(session), StepChain(session)
        self._clock = _Clock()
        self._asked: dict[int, Step] = {}
        """Those under way: STEPS_UNDER_WAY_MAX at most."""
        self._answered = -1

    def sent(self, step: Step, parts: Sequence[bytes | memoryview]) -> None:
        """Note a new step on its way to the first hop, not those that are sent again."""
        self._asked[step.step] = step
        if step.kind is StepKind.ROLLBACK:
            self._taken.rollback(step.position)
        else:
            self._taken.add_step(step, parts[-1])

    def answered(self, result: Output, message: bytes) -> None:
        """Note an answer that counts. message: as it came."""
        step = self._asked.get(result.step)
        if step is None:
            return
        for number in [number for number in self._asked if number <= result.step]:
            del self._asked[number]
        if step.kind is StepKind.ROLLBACK:
            self._given.rollback(step.position)
        elif isinstance(result, Tokens):
            self._given.add_tokens(step, result.tokens)
        else:
            self._given.add_step(result, tensor_of(message, result))
        self._answered = result.step
        self._clock.answered(step)

    @property
    def cover(self) -> Cover:
        """What receipts of this session are about: what was answered."""
        rollbacks = (s.position for s in self._asked.values() if s.kind is StepKind.ROLLBACK)
        return Cover(self._answered + 1, min(rollbacks, default=POSITION_ANY))

    def accounts(self, reason: CloseReason) -> tuple[Account, ...]:
        """Return the account of each hop's part, in order; () where nothing was answered."""
        if not len(self._given):
            return ()
        taken, given = self._taken.tail(), self._given.tail()
        return tuple(
            Account(
                session=wanted.session,
                requester=self._me,
                peer=peer,
                role="requester",
                handle=wanted.handle,
                layers=wanted.layers,
                hop=wanted.hop,
                hops=wanted.hops,
                taken=taken,
                given=given,
                started_s=self._clock.started_s,
                finished_s=self._clock.finished_s,
                first_s=self._clock.first_s,
                outcome=OUTCOMES[reason],
                intent_digest=digest_of_intent(wanted.intent),
                parameters_digest=digest_of_sampling(wanted.sampling),
            )
            for wanted, peer in zip(self._opens, self._peers, strict=True)
        )


@dataclass(eq=False, slots=True)
class Entry:
    """A session on this hop: under way (no account yet), or over."""

    account: Account | None = None
    ended_s: float = 0.0
    """Of `time.monotonic`."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    half: bytes = b""
    """The requester's, that was answered. There is one answer for each session."""
    answer: bytes = b""


class ServedLedger:
    """The sessions that a hop served and whose receipts are not exchanged, or lately were.

    Bounded in all, for each requester and in time. What is forgotten without the requester's half
    is told to `on_missing`.
    """

    def __init__(
        self,
        on_missing: Callable[[Account], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_missing = on_missing
        self._clock = clock
        self._entries: OrderedDict[tuple[PeerId, bytes], Entry] = OrderedDict()
        """By requester and session (the other hops know a session's id too); those that are over
        in the order of their ends."""
        self._over: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, session: bytes, requester: PeerId) -> None:
        """Note a session that was admitted."""
        key = (requester, session)
        if key in self._entries:
            self._drop(key)
        self._entries[key] = Entry()

    def end(self, session: bytes, requester: PeerId, account: Account | None) -> None:
        """Note that a session is over. Without an account nothing came out of it."""
        key = (requester, session)
        entry = self._entries.get(key)
        if entry is None:
            return
        if account is None:
            del self._entries[key]
        else:
            entry.account, entry.ended_s = account, self._clock()
            self._over[requester] += 1
            self._entries.move_to_end(key)
        entry.ended.set()
        self._bound(requester)

    async def find(self, session: bytes, requester: PeerId, timeout_s: float) -> Entry | None:
        """Return a session of `requester` that is over, once it is; None where there is none."""
        entry = self._entries.get((requester, session))
        if entry is None:
            return None
        if entry.account is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await entry.ended.wait()
            except TimeoutError:
                return None
        return entry if entry.account is not None else None

    def expire(self) -> None:
        """Forget what has waited for RECEIPT_LEDGER_S."""
        limit_s = self._clock() - RECEIPT_LEDGER_S
        for key, entry in tuple(self._entries.items()):
            if entry.account is not None and entry.ended_s < limit_s:
                self._drop(key)

    def _bound(self, requester: PeerId) -> None:
        if self._over[requester] > RECEIPT_LEDGER_PER_PEER_MAX:
            self._drop(self._oldest(requester))
        if sum(self._over.values()) > RECEIPT_LEDGER_MAX:
            greedy, _ = self._over.most_common(1)[0]
            self._drop(self._oldest(greedy))

    def _oldest(self, requester: PeerId) -> tuple[PeerId, bytes]:
        return next(
            key
            for key, entry in self._entries.items()
            if entry.account is not None and key[0] == requester
        )

    def _drop(self, key: tuple[PeerId, bytes]) -> None:
        entry = self._entries.pop(key)
        if entry.account is None:
            entry.ended.set()
            return
        requester, _ = key
        self._over[requester] -= 1
        if not self._over[requester]:
            del self._over[requester]
        if not entry.half and self.on_missing is not None:
            self.on_missing(entry.account)
