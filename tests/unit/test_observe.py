"""The observer: what counts as evidence and what does not, and that nothing is written twice or
lost while the disk is full, the wallet locked or the node stopping.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai.errors import (
    Busy,
    DiskFull,
    FileCorrupt,
    KwaaiError,
    Locked,
    PathMissing,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    WorkerLost,
)
from kwaai.limits import (
    EVIDENCE_ACCUSED_S,
    EVIDENCE_BATCH_MAX,
    EVIDENCE_DISPUTE_S,
    EVIDENCE_MOMENT_S,
    EVIDENCE_OUTAGE_S,
    EVIDENCE_QUEUE_MAX,
    EVIDENCE_REMEMBERED_MAX,
)
from kwaai.node.hop_figures import HopFigures
from kwaai.node.observe import PATH_BROKEN, Observer
from kwaai.store.evidence import Change, EvidenceLog
from kwaai.store.home import Home
from kwaai.store.wallet import Wallet, open_wallet
from kwaai.trust.evidence import Observation, Outcome, principal_of_peer
from kwaai.trust.tally import Tallies

SECRET = SecretKey(b"S" * 32)
NOW_S = 1_795_000_000.0
HALF_LIFE_S = 86_400.0


def peer(number: int) -> PeerId:
    return peer_id(SecretKey(number.to_bytes(32, "big")).public)


AMBER, BERYL, CORAL, JADE = (peer(n) for n in range(1, 5))


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return NOW_S + self.s

    def monotonic(self) -> float:
        return self.s


class Troubled(EvidenceLog):
    """A log whose disk fails as a test says."""

    problem: KwaaiError | None = None
    tries = 0
    gate: threading.Event | None = None

    def append(self, observations: Any) -> Change:
        self.tries += 1
        if self.gate is not None:
            self.gate.wait(30)
        if self.problem is not None:
            raise self.problem
        return super().append(observations)


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[Wallet]:
    with open_wallet(Home(tmp_path), SECRET) as opened:
        yield opened


@pytest.fixture
def log(wallet: Wallet) -> Troubled:
    return Troubled(wallet.database)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def observer(log: Troubled, clock: Clock) -> Observer:
    return Observer(log, clock, monotonic=clock.monotonic, flush_s=0.0, look_s=0.01)


def noted(observer: Observer) -> list[tuple[str, Outcome, str]]:
    names = {principal_of_peer(p): p for p in (AMBER, BERYL, CORAL, JADE)}
    return [(names[o.peer], o.outcome, o.code) for o in observer._queue]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def running(observer: Observer) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(observer.run(lambda: None))
    yield task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, KwaaiError):
        await task


class TestWhatCounts:
    @pytest.mark.parametrize(
        ("error", "outcome", "code"),
        [
            (None, Outcome.SERVED, ""),
            (PeerUnreachable("", peer=AMBER), Outcome.UNREACHABLE, "peer_unreachable"),
            (PeerLost("", peer=AMBER), Outcome.FAILED, "peer_lost"),
            (PeerStalled("", peer=AMBER), Outcome.STALLED, "peer_stalled"),
            (PeerMisbehaved("", peer=AMBER), Outcome.MISBEHAVED, "peer_misbehaved"),
            (PeerRefused("", peer=AMBER), Outcome.REFUSED, "peer_refused"),
            (PeerRefused("", peer=AMBER, retry_after_s=1.0), Outcome.REFUSED, "busy"),
            (PeerError("", peer=AMBER), Outcome.FAILED, "peer_failed"),
        ],
    )
    def test_outcomes(
        self, error: KwaaiError | None, outcome: Outcome, code: str, observer: Observer
    ) -> None:
        observer.on_outcome(AMBER, error)
        assert noted(observer) == [(AMBER, outcome, code)]
        assert observer._queue[0].at_s == NOW_S

    @pytest.mark.parametrize(
        "error", [Busy(""), WorkerLost(""), DiskFull(""), PathMissing(""), KwaaiError("")]
    )
    def test_what_this_node_lacks_says_nothing_of_a_peer(
        self, error: KwaaiError, observer: Observer
    ) -> None:
        observer.on_outcome(AMBER, error)
        assert noted(observer) == []

    def test_what_a_hop_says_of_another_is_noted_of_both(
        self, observer: Observer, clock: Clock
    ) -> None:
        broken = [(AMBER, Outcome.FAILED, PATH_BROKEN), (BERYL, Outcome.FAILED, PATH_BROKEN)]
        for kind in (PeerLost, PeerMisbehaved, PeerStalled, PeerUnreachable):
            observer.on_outcome(AMBER, kind("", peer=AMBER, accuser=BERYL))
            observer.on_outcome(BERYL, kind("", peer=BERYL, accuser=AMBER))
        assert noted(observer) == broken  # once an hour, whoever says it
        clock.s = EVIDENCE_DISPUTE_S
        observer.on_outcome(AMBER, PeerLost("", peer=AMBER, accuser=BERYL))
        assert noted(observer) == broken * 2
        observer.on_outcome(AMBER, PeerLost("", peer=AMBER, accuser=CORAL))
        assert len(noted(observer)) == 5  # another neighbour: AMBER has had its share of words
        clock.s += EVIDENCE_ACCUSED_S
        observer.on_outcome(AMBER, PeerLost("", peer=AMBER, accuser=JADE))
        assert len(noted(observer)) == 7

    def test_slander_costs_the_slanderer_as_much(self, observer: Observer, clock: Clock) -> None:
        for number in range(100):
            clock.s = number
            observer.on_outcome(AMBER, PeerMisbehaved("", peer=AMBER, accuser=BERYL))
        assert [name for name, _, _ in noted(observer)] == [AMBER, BERYL]

    def test_one_moment_is_one_failure(self, observer: Observer, clock: Clock) -> None:
        for _ in range(16):
            observer.on_outcome(AMBER, PeerLost("", peer=AMBER))
            observer.on_outcome(AMBER, PeerMisbehaved("", peer=AMBER))
        assert [outcome for _, outcome, _ in noted(observer)] == ["failed", "misbehaved"]
        clock.s = EVIDENCE_MOMENT_S
        observer.on_outcome(AMBER, PeerLost("", peer=AMBER))
        assert len(noted(observer)) == 3

    def test_when_all_are_lost_it_is_this_nodes_network(
        self, observer: Observer, clock: Clock
    ) -> None:
        for number in range(1, 30):
            clock.s += EVIDENCE_MOMENT_S
            observer.on_outcome(peer(number), PeerUnreachable("", peer=peer(number)))
        assert [name for name, _, _ in noted(observer)] == [AMBER, BERYL]
        observer.on_outcome(JADE, None)
        for _ in range(5):  # one peer alone is no outage
            clock.s += EVIDENCE_MOMENT_S
            observer.on_outcome(AMBER, PeerLost("", peer=AMBER))
        assert [name for name, _, _ in noted(observer)] == [AMBER, BERYL, JADE, *[AMBER] * 5]
        observer.on_outcome(BERYL, PeerLost("", peer=BERYL))
        clock.s += EVIDENCE_OUTAGE_S + 1
        observer.on_outcome(CORAL, PeerLost("", peer=CORAL))
        assert noted(observer)[-1][0] == CORAL
        # What is no matter of the network counts at once.
        observer.on_outcome(AMBER, PeerUnreachable("", peer=AMBER))
        observer.on_outcome(BERYL, PeerUnreachable("", peer=BERYL))
        observer.on_outcome(JADE, PeerMisbehaved("", peer=JADE))
        assert noted(observer)[-1][0] == JADE

    def test_figures_of_an_answer(self, observer: Observer) -> None:
        hop = HopFigures(AMBER, 0.03, 0.025, 33.0, 40.0)
        observer.answered([hop], tokens=5)
        observer.answered([HopFigures(AMBER, math.inf, math.nan, -1.0, None)], tokens=-3)
        full, empty = observer._queue
        assert (full.latency_s, full.expected_s, full.tokens_s) == (0.03, 0.025, 33.0)
        assert (full.claimed_tokens_s, full.tokens, full.outcome) == (40.0, 5, Outcome.SERVED)
        assert (empty.latency_s, empty.expected_s, empty.tokens_s) == (None, None, None)
        assert (empty.claimed_tokens_s, empty.tokens) == (None, 0)

    def test_spot_checks(self, observer: Observer) -> None:
        for outcome in (Outcome.AGREED, Outcome.WRONG, Outcome.DISPUTED):
            observer.spot_check(AMBER, outcome)
        assert [o for _, o, _ in noted(observer)] == ["agreed", "wrong", "disputed"]
        with pytest.raises(ValueError, match="served"):
            observer.spot_check(AMBER, Outcome.SERVED)

    def test_all_names_of_a_peer_are_one(self, observer: Observer) -> None:
        for name in (AMBER, f"did:peer:{AMBER}", principal_of_peer(AMBER)):
            observer.note(name, Outcome.SERVED)
        assert {o.peer for o in observer._queue} == {principal_of_peer(AMBER)}

    def test_what_is_no_peer_and_no_time_is_dropped(self, observer: Observer, clock: Clock) -> None:
        observer.note("nobody", Outcome.SERVED)
        clock.s = -2 * NOW_S
        observer.note(AMBER, Outcome.SERVED)
        clock.s = math.inf
        observer.note(AMBER, Outcome.SERVED)
        assert noted(observer) == []
        assert observer.stats() == {"trust_observations_dropped": 3}

    def test_what_is_remembered_is_bounded(self, observer: Observer) -> None:
        for number in range(1, EVIDENCE_REMEMBERED_MAX + 100):
            observer.on_outcome(peer(number), PeerStalled("", peer=peer(number)))
        assert len(observer._recent._last_s) == EVIDENCE_REMEMBERED_MAX


class TestWriting:
    async def test_it_is_written_beside_the_loop(
        self, observer: Observer, log: Troubled, running: asyncio.Task[None]
    ) -> None:
        for _ in range(EVIDENCE_BATCH_MAX + 1):
            observer.note(AMBER, Outcome.SERVED)
        await until(lambda: observer.waiting == 0)
        assert len(log.load()) == observer.written == EVIDENCE_BATCH_MAX + 1

    @pytest.mark.parametrize("problem", [DiskFull("no room left"), Locked("in use")])
    async def test_a_full_disk_or_a_locked_wallet_loses_nothing(
        self, problem: KwaaiError, observer: Observer, log: Troubled, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("kwaai.node.observe.EVIDENCE_FLUSH_S", 0.001)
        log.problem = problem
        task = asyncio.create_task(observer.run(lambda: None))
        for number in range(1, 5):
            observer.note(peer(number), Outcome.SERVED)
        await until(lambda: log.tries >= 3)
        assert (observer.waiting, log.load()) == (4, ())
        log.problem = None
        await until(lambda: observer.waiting == 0)
        assert [o.peer for o in log.load()] == [principal_of_peer(peer(n)) for n in range(1, 5)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_what_waits_is_bounded_and_the_oldest_go(
        self, observer: Observer, log: Troubled
    ) -> None:
        log.problem = DiskFull("no room left")
        observer.note(BERYL, Outcome.SERVED)
        for _ in range(EVIDENCE_QUEUE_MAX):
            observer.note(AMBER, Outcome.SERVED)
        assert (observer.waiting, observer.dropped) == (EVIDENCE_QUEUE_MAX, 1)
        with pytest.raises(DiskFull):
            await observer.flush()
        assert (observer.waiting, observer.dropped) == (EVIDENCE_QUEUE_MAX, 1)
        assert principal_of_peer(BERYL) not in {o.peer for o in observer._queue}

    async def test_a_damaged_wallet_ends_the_service(
        self, observer: Observer, log: Troubled, running: asyncio.Task[None]
    ) -> None:
        log.problem = FileCorrupt("damaged")
        observer.note(AMBER, Outcome.SERVED)
        with pytest.raises(FileCorrupt):
            await asyncio.wait_for(running, 30)
        log.problem = None
        await observer.flush()  # as the next start does
        assert len(log.load()) == 1

    async def test_stopping_writes_what_is_left_once(
        self, observer: Observer, log: Troubled
    ) -> None:
        log.gate = threading.Event()
        task = asyncio.create_task(observer.run(lambda: None))
        observer.note(AMBER, Outcome.SERVED)
        await until(lambda: log.tries == 1)
        observer.note(BERYL, Outcome.FAILED)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        log.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [o.outcome for o in log.load()] == [Outcome.SERVED, Outcome.FAILED]

    async def test_who_counts_along_has_what_a_reader_has(
        self, log: Troubled, wallet: Wallet, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when rows make room, grow old, and when a command resets a peer meanwhile."""
        monkeypatch.setattr("kwaai.store.evidence_rows.EVIDENCE_PER_PEER_MAX", 5)
        monkeypatch.setattr("kwaai.store.evidence_rows.EVIDENCE_PEERS_MAX", 3)
        changes = list[None]()
        tallies = Tallies(HALF_LIFE_S)

        def add(made: Any) -> None:
            for one in made:
                tallies.add(one)

        def remove(gone: Any) -> None:
            for one in gone:
                tallies.remove(one)

        observer = Observer(
            log,
            clock,
            keep_s=100.0,
            on_written=add,
            on_removed=remove,
            on_changed=lambda: changes.append(None),
            monotonic=clock.monotonic,
        )

        def agrees() -> bool:
            return tallies.snapshot() == Tallies(HALF_LIFE_S, log.load()).snapshot()

        add(await observer.load())
        for number in (1, 1, 1, 2, 1, 1, 3, 1, 4, 1, 5, 2):
            clock.s += 9.0
            observer.note(peer(number), Outcome.SERVED)
            await observer.flush()
            assert agrees()
        await observer.prune()
        assert agrees()
        assert changes == []
        EvidenceLog(wallet.database).reset(principal_of_peer(AMBER))
        await observer.flush()
        assert len(changes) == 1
        tallies = Tallies(HALF_LIFE_S)
        add(await observer.load())
        assert agrees()
        observer.note(AMBER, Outcome.SERVED)
        await observer.flush()
        assert agrees()
        assert len(changes) == 1

    async def test_an_observation_is_written_as_it_was_noted(
        self, observer: Observer, log: Troubled
    ) -> None:
        observer.answered([HopFigures(AMBER, 0.02, 0.025, 33.0, 40.0)], tokens=5)
        await observer.flush()
        assert log.load() == (
            Observation(
                principal_of_peer(AMBER), NOW_S, Outcome.SERVED, 0.02, 0.025, 33.0, 40.0, 5
            ),
        )
