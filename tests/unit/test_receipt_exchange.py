"""Receipts between nodes: sessions over real links, halves over a network in memory; attackers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from credentials.keys import PeerId, SecretKey
from kwaai import limits
from kwaai.errors import PeerRefused
from kwaai.intent.receipt import Account, digest_of_intent, receipt_of, sign_half, verify_half
from kwaai.node.accounts import ServedLedger
from kwaai.node.answer_path import AnswerPath
from kwaai.node.receipts import EVIDENCE, Receipts
from kwaai.node.remote import RemotePlan
from kwaai.store.home import Home
from kwaai.store.receipts import ReceiptBook, ReceiptRow
from kwaai.store.wallet import open_wallet
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.testing.shards import HANDLE, FakePart, Node
from kwaai.trust.evidence import Outcome
from kwaai.types import LayerRange
from kwaai.wire.messages import CloseReason, Open
from kwaai.wire.receipt_messages import (
    PROTOCOL,
    Give,
    Recent,
    encode_recent,
    encode_request,
    parse_given,
    parse_recent,
)
from kwaai.wire.transcript import Cover, Mark, Tail

BLOCKS = 8
RANGES = (LayerRange(1, 3), LayerRange(3, 5), LayerRange(5, 7))


class Place:
    """A node with links, sessions and receipts."""

    def __init__(self, swarm: MemorySwarm, name: str, seed: int, home: Path) -> None:
        self.name, self.secret = name, SecretKey(bytes([seed]) * 32)
        self.node = Node(name, seed)
        self.network = MemoryNetwork(swarm, self.secret)
        self.home = Home(home / name)
        self.results: list[ReceiptRow] = []
        self.receipts: Receipts

    @property
    def peer(self) -> PeerId:
        return self.node.peer

    async def start(self, stack: AsyncExitStack) -> None:
        wallet = stack.enter_context(open_wallet(self.home, self.secret))
        self.book = ReceiptBook(wallet.database)
        await self.network.start()
        stack.push_async_callback(self.network.stop)
        await self.node.start()
        stack.push_async_callback(self.node.stop)
        self.receipts = Receipts(
            self.network,
            self.secret,
            self.node.ledger,
            self.book,
            on_result=self.results.append,
        )
        ready = asyncio.Event()
        running = asyncio.create_task(self.receipts.run(ready.set))
        stack.push_async_callback(end, running)
        await ready.wait()

    def rows(self, **wanted: Any) -> list[ReceiptRow]:
        return self.book.rows(**wanted)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class World:
    """`home` asks; amber, beryl and coral are the hops."""

    def __init__(self, home: Path) -> None:
        self.swarm = MemorySwarm()
        self.home, *self.hops = [
            Place(self.swarm, name, seed, home)
            for seed, name in enumerate(("home", "amber", "beryl", "coral"), 1)
        ]
        self.first = FakePart(LayerRange(0, 1), BLOCKS)
        self.last = FakePart(LayerRange(7, 8), BLOCKS)

    async def start(self, stack: AsyncExitStack) -> None:
        for place in (self.home, *self.hops):
            await place.start(stack)
        for place, layers in zip(self.hops, RANGES, strict=True):
            place.node.hold(FakePart(layers, BLOCKS))
        for place in self.hops:
            address = place.network.addresses()[0]
            await self.home.network.connect(address)

    def plan(self, count: int = 3, **changes: Any) -> RemotePlan:
        hops = self.hops[:count]
        fields: dict[str, Any] = {
            "handle": HANDLE,
            "block_count": BLOCKS,
            "hops": tuple(p.node.hop(r) for p, r in zip(hops, RANGES, strict=False)),
            "names": {place.peer: place.name for place in hops},
            "last": LayerRange(RANGES[count - 1].stop, BLOCKS),
            "context_tokens": 256,
            "embd": 8,
            "vocab": 32,
            "token_s": 0.0,
        }
        return RemotePlan(**{**fields, **changes})

    async def path(self, count: int = 3, **changes: Any) -> AnswerPath:
        last = FakePart(LayerRange(RANGES[count - 1].stop, BLOCKS), BLOCKS)
        path = AnswerPath(self.first, last if "sampling" not in changes else None)
        async with asyncio.timeout(20):
            await path.open(self.home.node.requesters, self.plan(count, **changes))
        return path

    async def answer(
        self, count: int = 3, reason: CloseReason = CloseReason.DONE, **changes: Any
    ) -> AnswerPath:
        """One answer of five tokens to three, and its receipts."""
        path = await self.path(count, **changes)
        await path.prefill((1, 2, 3))
        for token in range(4):
            await path.decode(token)
        await self.over(path, reason)
        return path

    async def over(self, path: AnswerPath, reason: CloseReason = CloseReason.DONE) -> None:
        await path.close(reason)
        assert path.remote is not None
        self.home.receipts.on_session(path.remote, reason)
        async with asyncio.timeout(20):
            await self.home.receipts.join()


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(limits, "RECEIPT_AGAIN_S", 0.01)
    monkeypatch.setattr(limits, "RECEIPT_WAIT_S", 0.5)
    async with AsyncExitStack() as stack:
        world = World(tmp_path)
        await world.start(stack)
        yield world


async def until(is_done: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_done():
            await asyncio.sleep(0.005)


def states(rows: list[ReceiptRow]) -> list[str]:
    return sorted(row.state for row in rows)


async def test_both_sides_keep_both_halves(world: World) -> None:
    await world.answer(intent=b"an intent")
    rows = {row.peer: row for row in world.home.rows()}
    assert set(rows) == {place.peer for place in world.hops}
    for place, layers in zip(world.hops, RANGES, strict=True):
        row = rows[place.peer]
        (theirs,) = place.rows()
        assert (row.state, theirs.state) == ("agreed", "agreed"), (row.detail, theirs.detail)
        assert (row.role, theirs.role) == ("requester", "hop")
        assert theirs.peer == world.home.peer
        assert (row.own, row.counterpart) == (theirs.counterpart, theirs.own)
        assert row.nonce == theirs.nonce
        assert row.layers == theirs.layers == layers
        assert (row.prompt_tokens, row.answer_tokens) == (3, 5)
        assert (theirs.prompt_tokens, theirs.answer_tokens) == (3, 5)
        assert place.results == [theirs]
        half = verify_half(
            row.own, issuer=world.home.peer, subject=place.peer, now_s=row.finished_s + 60
        )
        assert half.receipt.intent_sha256 == digest_of_intent(b"an intent")[7:]
        assert half.receipt.first_token_ms is not None
    assert states(world.home.results) == ["agreed"] * 3


async def test_prompts_in_pieces_guesses_and_rollbacks_agree(world: World) -> None:
    path = await world.path()
    await path.prefill([n % 20 for n in range(250)])
    await path.verify((5, 6, 7))
    await path.rollback(251)
    await path.decode(7)
    await path.verify((1, 2))
    await path.rollback(252)
    await path.decode(3)
    await world.over(path)
    rows = world.home.rows()
    assert states(rows) == ["agreed"] * 3, [row.detail for row in rows]
    assert rows[0].prompt_tokens == 250


async def test_a_fast_path_agrees(world: World) -> None:
    place = world.hops[0]
    place.node.hold(FakePart(LayerRange(1, 8), BLOCKS))
    path = await world.path(
        1,
        hops=(place.node.hop(LayerRange(1, 8)),),
        last=None,
        sampling={"temperature": 0.0, "seed": 1},
    )
    await path.prefill((1, 2, 3))
    await path.decode(4)
    await path.verify((5, 6))
    await path.rollback(5)
    await path.decode(6)
    await world.over(path)
    (row,) = world.home.rows()
    assert row.state == "agreed", row.detail
    assert b"parametersDigest" in row.own


@pytest.mark.parametrize("stuck", [0, 1, 2])
async def test_steps_under_way_at_the_end_are_no_contradiction(world: World, stuck: int) -> None:
    """A step that reached some hops and not others when the answer was given up."""
    path = await world.path()
    await path.prefill((1, 2, 3))
    await path.decode(4)
    part = world.hops[stuck].node.held.parts[HANDLE, RANGES[stuck]]
    part.is_stuck = True  # type: ignore[attr-defined]
    decoding = asyncio.ensure_future(path.decode(5))
    await until(lambda: len(part.steps) == 3)  # type: ignore[attr-defined]
    await world.over(path, CloseReason.CANCELLED)
    await asyncio.wait([decoding])
    decoding.exception()
    rows = world.home.rows()
    assert states(rows) == ["agreed"] * 3, [row.detail for row in rows]
    assert {(row.outcome, row.answer_tokens) for row in rows} == {("cancelled", 2)}
    assert {row.outcome for place in world.hops for row in place.rows()} == {"cancelled"}


async def test_a_rollback_under_way_at_the_end_is_no_contradiction(world: World) -> None:
    path = await world.path()
    await path.prefill((1, 2, 3))
    for token in range(6):
        await path.decode(token)
    part = world.hops[1].node.held.parts[HANDLE, RANGES[1]]
    halt = asyncio.Event()

    async def rollback(*_: Any) -> None:
        halt.set()
        await asyncio.get_running_loop().create_future()

    part.rollback = rollback  # type: ignore[method-assign]
    rolling = asyncio.ensure_future(path.rollback(5))
    await halt.wait()
    await world.over(path, CloseReason.CANCELLED)
    await asyncio.wait([rolling])
    rolling.exception()
    rows = world.home.rows()
    assert states(rows) == ["agreed"] * 3, [row.detail for row in rows]
    assert {row.answer_tokens for row in rows} == {3}


async def test_no_answer_no_receipt(world: World) -> None:
    path = await world.path()
    await world.over(path, CloseReason.CANCELLED)
    assert world.home.rows() == []
    await until(lambda: not any(len(place.node.ledger) for place in world.hops))


async def test_a_hop_that_does_not_answer_is_a_visible_gap(world: World) -> None:
    path = await world.path()
    await path.prefill((1, 2))
    await path.decode(3)
    await world.hops[1].network.stop()
    await world.over(path)
    rows = {row.peer: row for row in world.home.rows()}
    amber, beryl, coral = (place.peer for place in world.hops)
    assert [rows[peer].state for peer in (amber, beryl, coral)] == ["agreed", "missing", "agreed"]
    assert world.home.book.rows(state="missing") == [rows[beryl]]
    assert rows[beryl].counterpart is None
    assert rows[beryl].detail


async def test_a_requester_that_gives_nothing_is_a_visible_gap(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = world.hops[0].node.ledger
    path = await world.path(1)
    await path.prefill((1, 2))
    await path.close()
    await until(lambda: bool(ledger._over))
    monkeypatch.setattr(ledger, "_clock", lambda: float("inf"))
    ledger.expire()
    receipts = world.hops[0].receipts
    rows = receipts._keep_unasked([receipts._unasked.popleft()])
    assert world.hops[0].book.rows(state="missing") == rows
    assert (rows[0].peer, rows[0].counterpart) == (world.home.peer, None)
    half = verify_half(
        rows[0].own, issuer=world.hops[0].peer, subject=world.home.peer, now_s=rows[0].finished_s
    )
    assert half.receipt.role == "hop"


# Hops that lie.


def lying(place: Place, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have a hop sign another account than it knows."""
    find = place.node.ledger.find

    async def forged(*args: Any) -> Any:
        entry = await find(*args)
        if entry is not None and entry.account is not None:
            entry.account = replace(entry.account, **changes)
        return entry

    monkeypatch.setattr(place.node.ledger, "find", forged)


def another_tail() -> Tail:
    return Tail(bytes(32), (Mark(0, 0, 3, 5, b"\7" * 32),), True)


@pytest.mark.parametrize(("victim", "field"), [(0, "taken"), (2, "given")])
async def test_a_hop_that_signs_another_digest_contradicts_us(
    world: World, monkeypatch: pytest.MonkeyPatch, victim: int, field: str
) -> None:
    lying(world.hops[victim], monkeypatch, **{field: another_tail()})
    await world.answer()
    rows = {row.peer: row for row in world.home.rows()}
    assert [rows[place.peer].state for place in world.hops] == [
        "contradicted" if number == victim else "agreed" for number in range(3)
    ]
    assert EVIDENCE["contradicted"] is Outcome.MISBEHAVED
    assert rows[world.hops[victim].peer].counterpart is not None
    assert world.hops[victim].rows()[0].state == "contradicted"


@pytest.mark.parametrize(("victim", "field", "other"), [(0, "given", 1), (1, "taken", 0)])
async def test_neighbours_that_disagree_are_both_disputed(
    world: World, monkeypatch: pytest.MonkeyPatch, victim: int, field: str, other: int
) -> None:
    lying(world.hops[victim], monkeypatch, **{field: another_tail()})
    await world.answer()
    rows = {row.peer: row for row in world.home.rows()}
    got = [rows[place.peer].state for place in world.hops]
    assert got == ["disputed", "disputed", "agreed"]
    assert world.hops[other].peer in rows[world.hops[victim].peer].detail
    assert EVIDENCE["disputed"] is Outcome.FAILED


async def test_a_liar_does_not_take_its_neighbour_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(world.hops[2], monkeypatch, taken=another_tail(), given=another_tail())
    await world.answer()
    rows = {row.peer: row for row in world.home.rows()}
    got = [rows[place.peer].state for place in world.hops]
    assert got == ["agreed", "agreed", "contradicted"]


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": LayerRange(1, 2)},
        {"handle": "sha256:" + "00" * 32},
        {"session": bytes(16)},
        {"intent_digest": "sha256:" + "00" * 32},
    ],
)
async def test_a_hop_that_signs_something_else_contradicts_us(
    world: World, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    lying(world.hops[0], monkeypatch, **changes)
    await world.answer(1)
    assert states(world.home.rows()) == ["contradicted"]


@pytest.mark.parametrize("answer", [b"", b"\0", b"\0\0\0\0\3xyz", b"\0" + b"x" * 9000])
async def test_a_hop_that_answers_garbage_is_refused(world: World, answer: bytes) -> None:
    async def garbage(peer: PeerId, body: bytes) -> bytes:
        return answer

    world.hops[0].network.handle_requests(PROTOCOL, garbage)
    await world.answer(1)
    (row,) = world.home.rows()
    assert (row.state, row.counterpart) == ("refused", None)


async def test_a_hop_that_hands_on_another_ones_half_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bytes] = []
    answer = world.hops[0].receipts._answer

    async def spy(peer: PeerId, body: bytes) -> bytes:
        answers.append(await answer(peer, body))
        return answers[-1]

    async def thief(peer: PeerId, body: bytes) -> bytes:
        await until(lambda: bool(answers))
        return answers[0]

    world.hops[0].network.handle_requests(PROTOCOL, spy)
    world.hops[1].network.handle_requests(PROTOCOL, thief)
    await world.answer(2)
    rows = {row.peer: row.state for row in world.home.rows()}
    assert rows == {world.hops[0].peer: "agreed", world.hops[1].peer: "refused"}


# Requesters that lie.


async def served(world: World) -> tuple[Account, Cover]:
    """An answer by amber whose receipts were not exchanged yet."""
    path = await world.path(1)
    await path.prefill((1, 2, 3))
    await path.decode(4)
    await path.close()
    assert path.remote is not None
    (account,) = path.remote.accounts(CloseReason.DONE)
    return account, path.remote.cover


async def give(
    world: World,
    account: Account,
    cover: Cover,
    *,
    sender: Place | None = None,
    secret: SecretKey | None = None,
    about: PeerId | None = None,
    session: bytes | None = None,
) -> Any:
    sender = sender or world.home
    half = sign_half(
        receipt_of(account, cover),
        about or account.other,
        secret or sender.secret,
        account.finished_s + 1,
    )
    request = Give(session or account.session, cover, half.original)
    body = await sender.network.request(world.hops[0].peer, PROTOCOL, encode_request(request))
    return parse_given(body)


async def test_a_session_that_never_was_has_no_receipt(world: World) -> None:
    account, cover = await served(world)
    forged = replace(account, session=bytes(16))
    given = await give(world, forged, cover)
    assert (given.verdict, given.half) == ("unknown", b"")
    assert world.hops[0].rows() == []


async def test_a_session_of_another_has_no_receipt(world: World) -> None:
    account, cover = await served(world)
    await world.hops[1].network.connect(world.hops[0].network.addresses()[0])
    given = await give(world, account, cover, sender=world.hops[1])
    assert (given.verdict, given.half) == ("unknown", b"")
    assert (await give(world, account, cover)).verdict == "agreed"


async def test_a_session_id_taken_by_another_hop_frees_nothing(world: World) -> None:
    """The other hops of a path know its id: they cannot make the first one forget it."""
    account, cover = await served(world)
    ledger = world.hops[0].node.ledger
    await until(lambda: bool(ledger._over))
    ledger.begin(account.session, world.hops[1].peer)
    ledger.end(account.session, world.hops[1].peer, None)
    assert (await give(world, account, cover)).verdict == "agreed"


@pytest.mark.parametrize("who", ["another key", "about another", "its own hop"])
async def test_a_half_by_or_about_somebody_else_is_refused(world: World, who: str) -> None:
    account, cover = await served(world)
    changes: dict[str, dict[str, Any]] = {
        "another key": {"secret": world.hops[2].secret},
        "about another": {"about": world.hops[2].peer},
        "its own hop": {"about": world.home.peer},
    }
    given = await give(world, account, cover, **changes[who])
    assert (given.verdict, given.half) == ("refused", b"")
    assert world.hops[0].rows() == []
    assert (await give(world, account, cover)).verdict == "agreed"  # the honest one still counts


@pytest.mark.parametrize(
    "changes",
    [
        {"taken": another_tail()},
        {"given": another_tail()},
        {"outcome": "failed"},
        {"layers": LayerRange(1, 2)},
        {"intent_digest": digest_of_intent(b"another")},
        {"role": "hop"},
        {"started_s": -1000.0, "finished_s": -1000.0},
    ],
)
async def test_the_hop_signs_what_it_knows_and_not_what_it_is_told(
    world: World, changes: dict[str, Any]
) -> None:
    account, cover = await served(world)
    if "started_s" in changes:
        changes = {name: shift_s + account.started_s for name, shift_s in changes.items()}
    about = world.hops[0].peer
    given = await give(world, replace(account, **changes), cover, about=about)
    assert given.verdict == "contradicted"
    (row,) = world.hops[0].rows()
    assert row.state == "contradicted"
    half = verify_half(
        given.half, issuer=about, subject=world.home.peer, now_s=account.finished_s + 5
    )
    mine = receipt_of(account, cover)
    assert (half.receipt.input_sha256, half.receipt.output_sha256) == (
        mine.input_sha256,
        mine.output_sha256,
    )
    assert half.receipt.outcome == "completed"


async def test_a_half_is_given_once(world: World) -> None:
    account, cover = await served(world)
    first = await give(world, account, cover)
    assert await give(world, account, cover) == first  # the same again: the same answer
    other = await give(world, replace(account, outcome="cancelled"), cover)
    assert (other.verdict, other.half) == ("refused", b"")
    assert len(world.hops[0].rows()) == 1
    assert len(world.hops[0].results) == 1


async def test_a_session_that_is_not_over_has_no_receipt(world: World) -> None:
    path = await world.path(1)
    await path.prefill((1, 2))
    assert path.remote is not None
    (account,) = path.remote.accounts(CloseReason.DONE)
    assert (await give(world, account, path.remote.cover)).verdict == "unknown"
    waiting = asyncio.ensure_future(give(world, account, path.remote.cover))
    await path.close()  # and the close may come after the half
    assert (await waiting).verdict == "agreed"


@pytest.mark.parametrize("body", [b"", b"\1", b"\7" * 40, b"\1" + bytes(28) + b"\xff\xff"])
async def test_garbage_is_refused(world: World, body: bytes) -> None:
    with pytest.raises(PeerRefused):
        await world.home.network.request(world.hops[0].peer, PROTOCOL, body)


async def test_a_flood_is_refused_before_it_costs_anything(world: World) -> None:
    account, cover = await served(world)
    refused = 0
    for _ in range(int(limits.RECEIPT_ASKS_BURST) + 20):
        try:
            await give(world, account, cover, session=bytes(16))
        except PeerRefused:
            refused += 1
    assert refused >= 15
    assert world.hops[0].receipts.counters["rate"] == refused


async def test_too_many_answers_at_once_are_dropped_and_counted(world: World) -> None:
    path = await world.path(1)
    await path.prefill((1,))
    await path.close()
    assert path.remote is not None
    for _ in range(limits.RECEIPT_QUEUE_MAX + 5):
        world.home.receipts.on_session(path.remote, CloseReason.DONE)
    assert world.home.receipts.counters["dropped"] == 5
    assert world.home.receipts._ended.qsize() == limits.RECEIPT_QUEUE_MAX
    while not world.home.receipts._ended.empty():
        world.home.receipts._ended.get_nowait()


# The ledger.


def ledger_account(n: int, requester: str) -> Account:
    return Account(
        session=n.to_bytes(16, "big"),
        requester=PeerId(requester),
        peer=PeerId("hop"),
        role="hop",
        handle=HANDLE,
        layers=LayerRange(1, 3),
        hop=0,
        hops=1,
        taken=another_tail(),
        given=another_tail(),
        started_s=0.0,
        finished_s=1.0,
        first_s=None,
        outcome="completed",
    )


def test_the_ledger_is_bounded_for_each_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kwaai.node.accounts.RECEIPT_LEDGER_MAX", 8)
    monkeypatch.setattr("kwaai.node.accounts.RECEIPT_LEDGER_PER_PEER_MAX", 6)
    missed: list[Account] = []
    now_s = 0.0
    ledger = ServedLedger(missed.append, clock=lambda: now_s)

    def add(n: int, requester: str) -> None:
        account = ledger_account(n, requester)
        ledger.begin(account.session, account.requester)
        ledger.end(account.session, account.requester, account)

    for n in range(2):
        add(n, "honest")
    for n in range(20):
        add(n, "flood")
    assert len(ledger) == 8
    assert {account.requester for account in missed} == {"flood"}
    assert [int.from_bytes(a.session, "big") for a in missed] == list(range(14))
    for n in range(20):
        add(n, f"sybil {n % 4}")
    assert len(ledger) == 8
    now_s = limits.RECEIPT_LEDGER_S + 1
    ledger.expire()
    assert len(ledger) == 0
    assert len(missed) == 42


# For trust.


async def test_receipts_of_others_are_shown_and_checked(world: World) -> None:
    await world.answer(1)
    amber = world.hops[0]
    await world.hops[1].network.connect(amber.network.addresses()[0])
    (shown,) = await world.hops[1].receipts.fetch(amber.peer)
    assert shown.document["credentialSubject"]["receiptRole"] == "requester"
    assert await world.hops[1].receipts.fetch(world.home.peer) == ()  # none was a hop
    body = await world.home.network.request(amber.peer, PROTOCOL, encode_request(Recent()))
    (half,) = parse_recent(body)

    async def forged(peer: PeerId, body: bytes) -> bytes:
        return encode_recent((half, half, half[:-1], b"x", b""))

    amber.network.handle_requests(PROTOCOL, forged)
    assert len(await world.hops[1].receipts.fetch(amber.peer)) == 1
    world.hops[2].network.handle_requests(PROTOCOL, forged)  # about somebody else
    assert await world.home.receipts.fetch(world.hops[2].peer) == ()


async def test_a_node_that_shows_nothing_shows_nothing(world: World) -> None:
    await world.answer(1)
    world.hops[0].receipts._shows = False
    assert await world.home.receipts.fetch(world.hops[0].peer) == ()


# Intents and offers.


async def test_an_open_carries_an_intent_and_an_opened_its_answer(world: World) -> None:
    seen: list[tuple[PeerId, bytes]] = []

    def admit(peer: PeerId, wanted: Open) -> bytes:
        seen.append((peer, wanted.intent))
        return b"offer %d" % wanted.hop

    for place in world.hops[:2]:
        place.node.server.admit = admit
    path = await world.answer(intent=b"please")
    assert seen == [(world.home.peer, b"please")] * 2
    assert path.remote is not None
    assert path.remote.offers == {0: b"offer 0", 1: b"offer 1"}


async def test_a_rule_that_forbids_a_session_is_told(world: World) -> None:
    def admit(peer: PeerId, wanted: Open) -> bytes:
        raise PeerRefused("compute is for Known peers (tier_compute), you are Unknown")

    world.hops[1].node.server.admit = admit
    with pytest.raises(PeerRefused, match=r"not allowed.*tier_compute"):
        await world.path()
