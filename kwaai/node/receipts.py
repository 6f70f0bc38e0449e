"""Receipts of a running node: after an answer, requester and hops exchange what they signed of it.

As a requester it sends its half to every hop and compares what comes back; as a hop it signs what
its own ledger says, whatever the other side claims. Counts and hashes nothing itself (`accounts`),
and decides nothing about trust. docs/protocol/receipts.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from credentials.errors import CredentialsError
from credentials.keys import PeerId, SecretKey
from credentials.verified import VerifiedCredential
from kwaai import limits
from kwaai.errors import Busy, KwaaiError, PeerError, PeerMisbehaved
from kwaai.intent.receipt import (
    Account,
    Half,
    State,
    check_chain,
    contradictions,
    receipt_of,
    sign_half,
    verify_half,
    verify_receipt_of,
)
from kwaai.log import get_logger
from kwaai.net.network import Network
from kwaai.node.accounts import Entry, ServedLedger
from kwaai.node.opening import OpenPath
from kwaai.node.rates import Rates
from kwaai.node.remote import RemoteSession
from kwaai.node.services import Ready
from kwaai.node.threads import Threads
from kwaai.store.receipts import ReceiptBook, ReceiptRow
from kwaai.trust.evidence import Outcome
from kwaai.types import LayerRange
from kwaai.wire.codec import WireError
from kwaai.wire.messages import CloseReason
from kwaai.wire.receipt_messages import (
    PROTOCOL,
    Give,
    Given,
    Recent,
    encode_given,
    encode_recent,
    encode_request,
    parse_given,
    parse_recent,
    parse_request,
)
from kwaai.wire.transcript import Cover

log = get_logger(__name__)

OnReceipt: TypeAlias = Callable[[ReceiptRow], None]
"""Told of every receipt whose exchange is over: its `state` is what came of it."""

EVIDENCE: Final[Mapping[State, Outcome]] = {
    "contradicted": Outcome.MISBEHAVED,
    "refused": Outcome.MISBEHAVED,
    "disputed": Outcome.FAILED,
}
"""What a receipt is evidence of. A dispute is one hop's word against its neighbour's, which costs
nothing to give: a failure of both, so often at most (`Observer.accused`). One that agrees is no
evidence: that the peer served was noted when it did; nor is a missing one, which a bad network
makes too."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """An answer of others' that is over."""

    accounts: tuple[Account, ...]
    cover: Cover


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of the exchange with one hop."""

    state: State
    detail: str
    half: Half | None = None


class Receipts:
    """One node's receipts. Belongs to the event loop.

    `secret`: the node's key, which signs without the register of issued credentials. `ledger`: of
    the sessions that this node serves. `shows`: whether peers may see what others signed of it.
    `keep_s`: how long receipts are kept.
    """

    def __init__(
        self,
        network: Network,
        secret: SecretKey,
        ledger: ServedLedger,
        book: ReceiptBook,
        *,
        on_result: OnReceipt | None = None,
        shows: bool = True,
        keep_s: float = limits.RECEIPT_LIFE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._network, self._secret, self._ledger, self.book = network, secret, ledger, book
        self._on_result, self._shows, self._clock = on_result, shows, clock
        self._keep_s = keep_s
        self._rates = Rates(limits.RECEIPT_ASKS_PER_S, limits.RECEIPT_ASKS_BURST)
        # What peers send never holds up what this node has to do itself.
        own_max = limits.RECEIPT_ANSWERS_AT_ONCE * limits.HOPS_MAX
        self._own = Threads("receipts-own", threads=1, calls_max=own_max, what="receipts")
        others_max = limits.RECEIPT_CALLS_MAX
        self._others = Threads("receipts", threads=1, calls_max=others_max, what="receipts")
        self._ended: asyncio.Queue[_Ended] = asyncio.Queue(limits.RECEIPT_QUEUE_MAX)
        self._unasked: deque[Account] = deque(maxlen=limits.RECEIPT_LEDGER_MAX)
        """Of hops' sessions whose requester gave no half."""
        self._kept: dict[State, int] = {}
        self.counters: Counter[str] = Counter()
        """Receipts by their state; `dropped` answers, `unwritten` rows, `rate` of refused asks."""
        ledger.on_missing = self._unasked.append
        network.handle_requests(PROTOCOL, self._answer)

    def stats(self) -> dict[str, float]:
        """Return gauges for /metrics."""
        kept = self._kept
        return {
            "receipts_kept": kept.get("agreed", 0),
            "receipts_missing": kept.get("missing", 0),
            "receipts_contradicting": kept.get("contradicted", 0) + kept.get("disputed", 0),
        }

    async def run(self, ready: Ready) -> None:
        """Exchange what is due until cancelled."""
        ready()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sweep())
                for _ in range(limits.RECEIPT_ANSWERS_AT_ONCE):
                    group.create_task(self._work())
        finally:
            self._ledger.on_missing = None
            self._own.close()
            self._others.close()

    # As a requester.

    def on_answer(self, opened: OpenPath, reason: CloseReason) -> None:
        """Have the receipts of an answer exchanged in the background; call it once it is over."""
        if opened.path.remote is not None:
            self.on_session(opened.path.remote, reason)

    def on_session(self, remote: RemoteSession, reason: CloseReason) -> None:
        """The same of a session."""
        accounts = remote.accounts(reason)
        if not accounts:
            return
        try:
            self._ended.put_nowait(_Ended(accounts, remote.cover))
        except asyncio.QueueFull:
            self.counters["dropped"] += 1
            log.warning("receipts_dropped", waiting=self._ended.qsize())

    async def join(self) -> None:
        """Wait until the receipts of all answers so far were exchanged, or given up."""
        await self._ended.join()

    async def _work(self) -> None:
        while True:
            ended = await self._ended.get()
            try:
                await self._exchange(ended)
            except (KwaaiError, CredentialsError) as error:  # the disk: these receipts are lost
                self.counters["unwritten"] += 1
                log.warning("receipts_unwritten", reason=str(error))
            finally:
                self._ended.task_done()

    async def _exchange(self, ended: _Ended) -> None:
        """Sign a half for each hop, send them, and keep what comes of it."""
        halves = await self._own.run(self._sign_all, ended)
        outcomes = await asyncio.gather(
            *(
                self._with_hop(account, half, ended.cover)
                for account, half in zip(ended.accounts, halves, strict=True)
            )
        )
        rows = [
            _row(account, half, outcome)
            for account, half, outcome in zip(
                ended.accounts, halves, _disputed(outcomes, ended.accounts), strict=True
            )
        ]
        await self._own.run(self.book.put, rows)
        self._tell(rows)

    def _sign_all(self, ended: _Ended) -> list[Half]:
        """Sign, and keep as missing: so that what is under way is not lost with the process."""
        now_s = self._clock()
        halves = [
            sign_half(receipt_of(account, ended.cover), account.other, self._secret, now_s)
            for account in ended.accounts
        ]
        nothing = _Outcome("missing", "it is being exchanged")
        self.book.put(
            _row(account, half, nothing)
            for account, half in zip(ended.accounts, halves, strict=True)
        )
        return halves

    async def _with_hop(self, account: Account, own: Half, cover: Cover) -> _Outcome:
        body = encode_request(Give(account.session, cover, own.original))
        why = ""
        for number in range(limits.RECEIPT_TRIES_MAX):
            if number:
                await asyncio.sleep(limits.RECEIPT_AGAIN_S)
            try:
                answer = await self._network.request(
                    account.peer, PROTOCOL, body, limits.RECEIPT_TIMEOUT_S
                )
                given = parse_given(answer)
            except WireError as error:
                return _Outcome("refused", f"its answer is none: {error.message}")
            except PeerError as error:
                why = error.message
                continue
            if given.half:
                return await self._own.run(self._compare, account, own, given)
            why = f"it has none ({given.verdict}): {given.reason}"
            if given.verdict == "refused":
                break
        return _Outcome("missing", why)

    def _compare(self, account: Account, own: Half, given: Given) -> _Outcome:
        me = own.issuer
        try:
            half = verify_half(given.half, issuer=account.peer, subject=me, now_s=self._clock())
        except PeerMisbehaved as error:
            return _Outcome("refused", error.message)
        found = contradictions(account, own.receipt, half.receipt)
        return _Outcome("contradicted" if found else "agreed", "; ".join(found), half)

    def _tell(self, rows: Sequence[ReceiptRow]) -> None:
        for row in rows:
            self.counters[row.state] += 1
            if row.state in ("contradicted", "disputed", "refused"):
                log.warning("receipt_disagrees", peer=row.peer, state=row.state, detail=row.detail)
            if self._on_result is not None:
                self._on_result(row)

    # As a hop.

    async def _answer(self, peer: PeerId, body: bytes) -> bytes:
        """Answer a peer. Raises Busy, WireError, ResourceError: it is then refused."""
        if not self._rates.take(peer, asyncio.get_running_loop().time()):
            self.counters["rate"] += 1
            raise Busy("you send receipts too often: wait", retry_after_s=1.0)
        request = parse_request(body)
        if isinstance(request, Recent):
            halves = await self._others.run(self.book.recent) if self._shows else []
            return encode_recent(tuple(halves))
        entry = await self._ledger.find(request.session, peer, limits.RECEIPT_WAIT_S)
        if entry is None or entry.account is None:
            return encode_given(Given("unknown", "no such session of yours is known here now"))
        if entry.half:
            return self._again(entry, request)
        entry.half = request.half
        try:
            given, row = await self._others.run(self._settle, peer, entry.account, request)
        except PeerMisbehaved as error:
            entry.half = b""
            return encode_given(Given("refused", error.message))
        except BaseException:
            entry.half = b""
            raise
        entry.answer = encode_given(given)
        self._tell([row])
        return entry.answer

    def _again(self, entry: Entry, give: Give) -> bytes:
        """Answer a half of a session that has one: the same gets the same answer."""
        if entry.half != give.half:
            return encode_given(Given("refused", "you gave another half of that session before"))
        if not entry.answer:
            raise Busy("your half is being looked at: wait", retry_after_s=1.0)
        return entry.answer

    def _settle(self, peer: PeerId, account: Account, give: Give) -> tuple[Given, ReceiptRow]:
        """Check a requester's half, sign this node's own, and keep both. Raises PeerMisbehaved."""
        now_s = self._clock()
        theirs = verify_half(give.half, issuer=peer, subject=account.peer, now_s=now_s)
        own = sign_half(receipt_of(account, give.cover), peer, self._secret, now_s)
        found = contradictions(account, own.receipt, theirs.receipt)
        state: State = "contradicted" if found else "agreed"
        row = _row(account, own, _Outcome(state, "; ".join(found), theirs))
        self.book.put([row])
        return Given("contradicted" if found else "agreed", row.detail, own.original), row

    async def _sweep(self) -> None:
        """Note the halves that did not come, and forget what is too old."""
        pruned_s = float("-inf")
        while True:
            self._ledger.expire()
            accounts = [self._unasked.popleft() for _ in range(len(self._unasked))]
            try:
                if accounts:
                    self._tell(await self._own.run(self._keep_unasked, accounts))
                if self._clock() - pruned_s > limits.RECEIPT_PRUNE_S:
                    pruned_s = self._clock()
                    await self._own.run(self.book.prune, pruned_s, self._keep_s)
                self._kept = await self._own.run(self.book.counts)
            except (KwaaiError, CredentialsError) as error:
                self.counters["unwritten"] += len(accounts)
                log.warning("receipts_unwritten", reason=str(error))
            await asyncio.sleep(limits.RECEIPT_SWEEP_S)

    def _keep_unasked(self, accounts: Sequence[Account]) -> list[ReceiptRow]:
        now_s = self._clock()
        nothing = _Outcome("missing", "the requester sent no half")
        everything = Cover(2**64 - 1)
        rows = [
            _row(account, sign_half(receipt, account.other, self._secret, now_s), nothing)
            for account in accounts
            for receipt in (receipt_of(account, everything),)
        ]
        self.book.put(rows)
        return rows

    # For trust.

    async def fetch(self, peer: PeerId) -> tuple[VerifiedCredential, ...]:
        """Return the receipts that others signed about `peer`, as it shows them, those that hold.

        To be counted by who signed them: anybody can sign one. Raises PeerError.
        """
        body = await self._network.request(
            peer, PROTOCOL, encode_request(Recent()), limits.RECEIPT_TIMEOUT_S
        )
        try:
            halves = parse_recent(body)
        except WireError as error:
            raise PeerMisbehaved(f"{peer} shows no receipts: {error.message}", peer=peer) from error
        return await self._own.run(partial(_holding, halves, peer, self._clock()))


def _holding(halves: Sequence[bytes], peer: PeerId, now_s: float) -> tuple[VerifiedCredential, ...]:
    held: dict[str, VerifiedCredential] = {}
    for half in halves:
        with contextlib.suppress(CredentialsError):  # it counts for nothing, and the others do
            verified = verify_receipt_of(half, peer, now_s)
            held.setdefault(verified.issuer, verified)
    return tuple(held.values())


def _disputed(outcomes: Sequence[_Outcome], accounts: Sequence[Account]) -> list[_Outcome]:
    """Compare the hops with one another. Of two neighbours that say different things, one that
    contradicts this node itself is the likelier liar, and the other is left alone.
    """
    found = list(outcomes)
    receipts = [None if each.half is None else each.half.receipt for each in outcomes]
    for hop in check_chain(receipts):
        pair = (hop, hop + 1)
        if any(outcomes[each].state == "contradicted" for each in pair):
            continue
        for each, other in (pair, pair[::-1]):
            what = f"what passed between it and {accounts[other].peer} was not the same for both"
            found[each] = replace(found[each], state="disputed", detail=what)
    return found


def _row(account: Account, own: Half, outcome: _Outcome) -> ReceiptRow:
    receipt = own.receipt
    return ReceiptRow(
        role=account.role,
        peer=account.other,
        session=account.session,
        nonce=receipt.nonce,
        model=account.handle,
        layers=LayerRange(receipt.block_start, receipt.block_stop),
        prompt_tokens=receipt.prompt_tokens,
        answer_tokens=receipt.answer_tokens,
        outcome=account.outcome,
        started_s=receipt.started_s,
        finished_s=receipt.finished_s,
        state=outcome.state,
        detail=outcome.detail,
        own=own.original,
        counterpart=None if outcome.half is None else outcome.half.original,
    )
