"""The evidence log: what comes back, who makes room for whom, what is refused, backups with it."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import PublicKey, SecretKey, peer_id
from credentials.sealed import seal
from kwaai.errors import BodyTooLarge, FileCorrupt, KwaaiError, UserError
from kwaai.limits import (
    EVIDENCE_BATCH_MAX,
    EVIDENCE_CODE_CHARS_MAX,
    EVIDENCE_KNOWN_MIN,
    EVIDENCE_KNOWN_S,
    PRESENTED_BYTES_PER_PEER_MAX,
    WALLET_NAME_CHARS_MAX,
)
from kwaai.store import database, evidence_rows, presented_rows
from kwaai.store.backup import PURPOSE, Restored, export_wallet, read_backup, restore_wallet
from kwaai.store.evidence import EvidenceLog, Mark
from kwaai.store.home import Home
from kwaai.store.migrations import MIGRATIONS
from kwaai.store.wallet import Wallet, open_wallet
from kwaai.trust.evidence import Observation, Outcome, principal_of_peer

SECRET = SecretKey(b"S" * 32)
PASSPHRASE = b"correct horse battery"
NOW_S = 1_795_000_000.0


def principal(number: int) -> str:
    return principal_of_peer(str(peer_id(PublicKey(number.to_bytes(32, "big")))))


AMBER, BERYL, CORAL = principal(1), principal(2), principal(3)


def seen(
    peer: str = AMBER, at_s: float = NOW_S, outcome: Outcome = Outcome.SERVED, **more: Any
) -> Observation:
    return Observation(peer, at_s, outcome, **more)


FULL = seen(
    latency_s=0.025, expected_s=0.02, tokens_s=40.0, claimed_tokens_s=50.0, tokens=17, code="x"
)


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[Wallet]:
    with open_wallet(Home(tmp_path / "one"), SECRET) as opened:
        yield opened


@pytest.fixture
def log(wallet: Wallet) -> EvidenceLog:
    return EvidenceLog(wallet.database)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room."""
    monkeypatch.setattr(evidence_rows, "EVIDENCE_PER_PEER_MAX", 20)
    monkeypatch.setattr(evidence_rows, "EVIDENCE_OBSERVATIONS_MAX", 60)
    monkeypatch.setattr(evidence_rows, "EVIDENCE_PEERS_MAX", 8)
    monkeypatch.setattr(presented_rows, "PRESENTED_PER_PEER_MAX", 4)
    monkeypatch.setattr(presented_rows, "PRESENTED_BYTES_PER_PEER_MAX", 4_000)
    monkeypatch.setattr(presented_rows, "PRESENTED_PEERS_MAX", 5)
    monkeypatch.setattr(presented_rows, "PRESENTED_BYTES_MAX", 10_000)


class TestObservations:
    def test_what_was_seen_comes_back(self, log: EvidenceLog) -> None:
        noted = (FULL, seen(BERYL, outcome=Outcome.STALLED, code="peer_stalled"), seen(at_s=0.0))
        assert log.append(noted).kept == noted
        assert log.load() == noted
        assert log.of_peer(AMBER) == (noted[2], noted[0])
        assert log.of_peer(CORAL) == ()
        assert log.load(since_s=NOW_S) == noted[:2]
        row = log.peer(AMBER)
        assert row is not None
        assert (row.first_s, row.last_s, row.seen, row.kept) == (0.0, NOW_S, 2, 2)
        assert [row.principal for row in log.peers()] == [AMBER, BERYL]
        assert log.peer(CORAL) is None

    def test_it_is_there_when_the_wallet_is_opened_again(self, tmp_path: Path) -> None:
        with open_wallet(Home(tmp_path), SECRET) as wallet:
            EvidenceLog(wallet.database).append([FULL])
        with open_wallet(Home(tmp_path), SECRET) as wallet:
            assert EvidenceLog(wallet.database).load() == (FULL,)
            wallet.check()
        data = (Home(tmp_path).credentials / "wallet.db").read_bytes()
        assert AMBER.encode() not in data

    def test_more_than_a_page_is_read_in_order(self, log: EvidenceLog) -> None:
        noted = [seen(at_s=float(n)) for n in range(EVIDENCE_BATCH_MAX + 3)]
        log.append(noted[:EVIDENCE_BATCH_MAX])
        log.append(noted[EVIDENCE_BATCH_MAX:])
        assert log.load() == tuple(noted)
        with pytest.raises(ValueError, match="at a time"):
            log.append(noted)

    @pytest.mark.parametrize(
        "bad",
        [
            {"latency_s": math.nan},
            {"expected_s": math.inf},
            {"tokens_s": -1.0},
            {"claimed_tokens_s": -math.inf},
            {"tokens": -1},
            {"tokens": 1 << 60},
            {"tokens": 1.5},
            {"code": "x" * (EVIDENCE_CODE_CHARS_MAX + 1)},
            {"code": "\ud800"},
            {"peer": ""},
            {"peer": "d" * (WALLET_NAME_CHARS_MAX + 1)},
            {"peer": "\ud800"},
            {"outcome": "praised"},
        ],
    )
    def test_what_cannot_be_is_refused_with_all_that_came_with_it(
        self, bad: dict[str, Any], log: EvidenceLog
    ) -> None:
        with pytest.raises(ValueError, match=r"\S"):
            log.append([FULL, replace(FULL, **bad)])
        assert log.load() == ()

    @given(
        values=st.tuples(*[st.none() | st.floats(0, allow_infinity=False, allow_nan=False)] * 4),
        at_s=st.floats(0, 4e9),
        outcome=st.sampled_from(Outcome),
        code=st.text(st.characters(exclude_categories=["Cs"]), max_size=EVIDENCE_CODE_CHARS_MAX),
    )
    def test_round_trip(self, values: Any, at_s: float, outcome: Outcome, code: str) -> None:
        latency_s, expected_s, tokens_s, claimed = values
        observation = Observation(
            AMBER, at_s, outcome, latency_s, expected_s, tokens_s, claimed, 3, code
        )
        evidence_rows.check(observation)
        assert evidence_rows.observation(AMBER, *evidence_rows._values(observation)) == observation

    def test_an_outcome_of_a_newer_version_is_told(self, log: EvidenceLog, wallet: Wallet) -> None:
        log.append([FULL])
        with wallet.database.write() as connection:
            connection.execute("UPDATE observations SET outcome = 'adored'")
        with pytest.raises(FileCorrupt, match="adored"):
            log.load()

    def test_the_mark_tells_every_change(self, log: EvidenceLog) -> None:
        marks = [log.mark()]
        assert marks[0] == Mark(0, 0, 0)
        change = log.append([seen(), seen(), seen(BERYL, at_s=NOW_S - 100)])
        assert (change.before, change.after) == (marks[0], log.mark())
        marks.append(log.mark())
        log.reset(AMBER)
        marks.append(log.mark())
        assert (marks[2].newest, marks[2].kept) == (3, 1)
        log.prune(NOW_S, 50.0)
        marks.append(log.mark())
        assert (marks[3].newest, marks[3].kept) == (3, 0)
        log.append([seen()])
        marks.append(log.mark())
        assert marks[4].newest == 4  # no number is given twice
        assert len(set(marks)) == len(marks)
        assert log.snapshot() == (marks[4], (seen(),))
        log.put_presented(AMBER, b"a", NOW_S)
        assert log.append([]).before == marks[4]

    def test_reset_forgets_one_peer_and_no_other(self, log: EvidenceLog) -> None:
        log.append([seen(), seen(BERYL), seen()])
        log.put_presented(AMBER, b"credential", NOW_S)
        assert log.reset(AMBER) == 2
        assert log.reset(AMBER) == 0
        assert log.load() == (seen(BERYL),)
        assert len(log.presented(AMBER)) == 1

    def test_what_is_old_expires(self, log: EvidenceLog) -> None:
        log.append([seen(at_s=NOW_S - 11), seen(BERYL, at_s=NOW_S - 11), seen(at_s=NOW_S - 9)])
        gone = log.prune(NOW_S, 10.0).removed
        assert {o.peer for o in gone} == {AMBER, BERYL}
        assert log.load() == (seen(at_s=NOW_S - 9),)
        assert [row.principal for row in log.peers()] == [AMBER]
        assert log.prune(NOW_S, 10.0).removed == ()


@pytest.mark.usefixtures("small")
class TestRoom:
    def test_a_peer_has_so_many_and_the_oldest_go(self, log: EvidenceLog) -> None:
        log.append([seen(at_s=float(n)) for n in range(30)])
        assert [o.at_s for o in log.load()] == [float(n) for n in range(10, 30)]
        row = log.peer(AMBER)
        assert row is not None
        assert (row.seen, row.kept, row.first_s) == (30, 20, 0.0)

    @pytest.mark.parametrize("easy", [Outcome.SERVED, Outcome.REFUSED, Outcome.UNREACHABLE])
    def test_wrong_answers_are_not_buried_under_easy_ones(
        self, log: EvidenceLog, easy: Outcome
    ) -> None:
        log.append([seen(outcome=Outcome.WRONG)] * 3 + [seen(outcome=easy)] * 100)
        found = [o.outcome for o in log.load()]
        assert (found.count(Outcome.WRONG), len(found)) == (3, 20)

    def test_in_all_whoever_has_the_most_gives(self, log: EvidenceLog) -> None:
        for number in range(2, 5):
            log.append([seen(principal(number))] * 20)
        for _ in range(10):
            log.append([seen(AMBER)])
        kept = {row.principal: row.kept for row in log.peers()}
        assert sum(kept.values()) == 60
        assert kept[AMBER] == 10
        assert min(kept.values()) >= 10

    def make_known(self, log: EvidenceLog, numbers: range, at_s: float = NOW_S) -> None:
        for number in numbers:
            log.append([seen(principal(number), at_s)] * EVIDENCE_KNOWN_MIN)

    @given(
        dealings=st.lists(
            st.lists(
                st.tuples(st.integers(1, 30), st.sampled_from(Outcome), st.integers(0, 99)),
                max_size=40,
            ),
            max_size=8,
        )
    )
    def test_what_changes_tell_adds_up(self, dealings: Any, tmp_path_factory: Any) -> None:
        """Whoever counts along by what each write tells has what a reader has."""
        with open_wallet(Home(tmp_path_factory.mktemp("log")), SECRET) as wallet:
            log, counted = EvidenceLog(wallet.database), Counter[Observation]()
            mark = log.mark()
            for batch in dealings:
                made = [seen(principal(n), float(at_s), outcome) for n, outcome, at_s in batch]
                for change in (log.append(made), log.prune(100.0, 90.0)):
                    assert change.before == mark
                    mark = change.after
                    counted.update(change.kept)
                    counted.subtract(change.removed)
                assert +counted == Counter(log.load())
                assert min(counted.values(), default=0) >= 0
                rows = log.peers()
                assert sum(row.kept for row in rows) == mark.kept <= 60
                assert len(rows) <= 8

    def test_strangers_make_room_longest_ago_first(
        self, log: EvidenceLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evidence_rows, "EVIDENCE_OBSERVATIONS_MAX", 1000)
        self.make_known(log, range(1, 4), at_s=NOW_S - 1000)
        for number in range(4, 9):
            log.append([seen(principal(number))])
        log.append([seen(principal(4))])
        for number in range(100, 103):
            log.append([seen(principal(number))])
        kept = {row.principal for row in log.peers()}
        assert kept == {principal(n) for n in (1, 2, 3, 4, 8, 100, 101, 102)}

    def test_a_thousand_strangers_push_no_known_peer_out(
        self, log: EvidenceLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evidence_rows, "EVIDENCE_OBSERVATIONS_MAX", 1000)
        self.make_known(log, range(1, 9))
        before = log.load()
        later_s = NOW_S + EVIDENCE_KNOWN_S - 1
        for start in range(1000, 2000, 100):
            assert log.append([seen(principal(start + n), later_s) for n in range(100)]).kept == ()
        assert log.load() == before
        # Whoever was not dealt with for long makes room all the same, longest ago first.
        log.append([seen(principal(n), later_s) for n in range(2, 9)])
        change = log.append([seen(principal(99), NOW_S + EVIDENCE_KNOWN_S)])
        assert len(change.kept) == 1
        assert {o.peer for o in change.removed} == {AMBER}
        assert log.peer(AMBER) is None

    def test_failing_makes_nobody_known(self, log: EvidenceLog) -> None:
        log.append([seen(outcome=Outcome.FAILED)] * 19)
        log.append([seen(BERYL, outcome=Outcome.AGREED)] * EVIDENCE_KNOWN_MIN)
        assert [row.is_known for row in log.peers()] == [True, False]

    def test_a_clock_that_was_far_ahead_protects_nobody(
        self, log: EvidenceLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evidence_rows, "EVIDENCE_OBSERVATIONS_MAX", 1000)
        self.make_known(log, range(1, 9), at_s=NOW_S + 10 * EVIDENCE_KNOWN_S)
        assert log.append([seen(principal(99))]).kept


@pytest.mark.usefixtures("small")
class TestPresented:
    def test_what_was_presented_comes_back(self, log: EvidenceLog) -> None:
        assert log.put_presented(AMBER, b"one \xff", 1.0)
        assert log.put_presented(AMBER, b"two", 1.0)
        assert log.put_presented(BERYL, b"one \xff", 2.0)
        assert log.put_presented(AMBER, b"one \xff", 3.0)
        found = [(p.original, p.fetched_s) for p in log.presented(AMBER)]
        assert found == [(b"one \xff", 3.0), (b"two", 1.0)]
        assert {p.principal for p in log.all_presented()} == {AMBER, BERYL}
        assert log.forget_presented(AMBER, before_s=2.0) == 1
        assert [p.original for p in log.presented(AMBER)] == [b"one \xff"]
        assert log.forget_presented(AMBER) == 1
        assert log.presented(AMBER) == ()

    def test_a_peer_has_so_many_and_so_much(self, log: EvidenceLog) -> None:
        for n in range(6):
            assert log.put_presented(AMBER, b"%d" % n, float(n))
        assert [p.original for p in log.presented(AMBER)] == [b"2", b"3", b"4", b"5"]
        assert log.put_presented(AMBER, b"x" * 3_999, 9.0)
        assert [len(p.original) for p in log.presented(AMBER)] == [1, 3_999]

    def test_strangers_move_strangers_only(self, log: EvidenceLog) -> None:
        log.append([seen()] * EVIDENCE_KNOWN_MIN)
        log.put_presented(AMBER, b"known", 0.0)
        for number in range(10, 20):
            assert log.put_presented(principal(number), b"x" * 2_000, float(number))
        assert len(log.presented(AMBER)) == 1
        assert len({p.principal for p in log.all_presented()}) == 5  # 8,005 of 10,000 bytes
        assert log.put_presented(AMBER, b"y" * 3_000, 30.0)
        known = [principal(n) for n in range(1, 6)]
        for peer in known[1:]:
            log.append([seen(peer)] * EVIDENCE_KNOWN_MIN)
            log.put_presented(peer, b"x" * 20, 40.0)
        for peer in known:
            log.put_presented(peer, b"z" * 1_500, 41.0)
        assert {p.principal for p in log.all_presented()} == set(known)
        assert not log.put_presented(principal(50), b"x" * 2_000, 50.0)
        assert log.presented(principal(50)) == ()

    @pytest.mark.parametrize(
        ("peer", "original", "fetched_s", "error"),
        [
            (AMBER, b"x" * (PRESENTED_BYTES_PER_PEER_MAX + 1), 0.0, BodyTooLarge),
            ("", b"x", 0.0, UserError),
            ("d" * (WALLET_NAME_CHARS_MAX + 1), b"x", 0.0, UserError),
            ("\ud800", b"x", 0.0, UserError),
            (AMBER, b"x", math.nan, UserError),
        ],
    )
    def test_out_of_bounds(
        self, peer: str, original: bytes, fetched_s: float, error: type[KwaaiError], log: Any
    ) -> None:
        with pytest.raises(error):
            log.put_presented(peer, original, fetched_s)


def test_an_older_wallet_gets_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    with monkeypatch.context() as older:
        older.setattr(database, "MIGRATIONS", MIGRATIONS[:1])
        with open_wallet(home, SECRET) as wallet:
            wallet.put_long_form("short", "long")
    with open_wallet(home, SECRET) as wallet:
        log = EvidenceLog(wallet.database)
        assert log.append([FULL]).kept
        assert wallet.long_forms() == {"short": "long"}


class TestBackup:
    def backup(self, wallet: Wallet) -> Any:
        data = export_wallet(wallet, PASSPHRASE, now_s=4.0, cost="interactive")
        return read_backup(data, PASSPHRASE)

    def test_what_was_seen_is_in_it_and_joined_once(
        self, wallet: Wallet, log: EvidenceLog, tmp_path: Path
    ) -> None:
        noted = (FULL, seen(BERYL), seen(at_s=NOW_S - 5, outcome=Outcome.WRONG))
        log.append(noted)
        log.put_presented(AMBER, b"credential", NOW_S)
        backup = self.backup(wallet)
        with open_wallet(Home(tmp_path / "two"), SECRET) as other:
            there = EvidenceLog(other.database)
            there.append([FULL, seen(CORAL)])
            for _ in range(2):
                restore_wallet(other, backup)
                assert sorted(there.load(), key=repr) == sorted((*noted, seen(CORAL)), key=repr)
            assert there.all_presented() == ()  # peers present it anew
            other.check()

    @pytest.mark.usefixtures("small")
    def test_it_pushes_nothing_out(self, wallet: Wallet, log: EvidenceLog, tmp_path: Path) -> None:
        log.append([seen(at_s=float(n)) for n in range(20)])
        for number in range(2, 9):
            log.append([seen(principal(number))])
        backup = self.backup(wallet)
        with open_wallet(Home(tmp_path / "two"), SECRET) as other:
            there = EvidenceLog(other.database)
            here = [seen(at_s=NOW_S + n) for n in range(15)] + [seen(principal(99))]
            there.append(here)
            restore_wallet(other, backup)
            assert set(here) <= set(there.load())
            assert len(there.of_peer(AMBER)) == 20
            assert len(there.peers()) == 8

    def test_one_without_it_is_restored(self, tmp_path: Path) -> None:
        head: dict[str, Any] = {"kwaainet_backup": 1, "made_s": 1.0, "identity": None, "former": []}
        lines = [head, ["long_form", "short", "long"]]
        with open_wallet(Home(tmp_path), SECRET) as wallet:
            assert restore_wallet(wallet, self.sealed(lines)) == Restored(0, 0, 0)
            assert wallet.long_forms() == {"short": "long"}

    def sealed(self, lines: list[Any]) -> Any:
        packed = zlib.compress("".join(json.dumps(line) + "\n" for line in lines).encode())
        data = seal(
            packed,
            PASSPHRASE,
            salt=b"s" * 16,
            nonce=b"n" * 24,
            purpose=PURPOSE,
            cost="interactive",
        )
        return read_backup(data, PASSPHRASE)

    @pytest.mark.parametrize(
        "row",
        [
            [AMBER, 1.0, "adored", None, None, None, None, 0, ""],
            [AMBER, -1.0, "served", None, None, None, None, 0, ""],
            [AMBER, 1e300, "served", None, None, None, None, 0, ""],
            [AMBER, 1.0, "served", -1.0, None, None, None, 0, ""],
            [AMBER, 1.0, "served", "1", None, None, None, 0, ""],
            [AMBER, 1.0, "served", None, None, None, None, -1, ""],
            [AMBER, 1.0, "served", None, None, None, None, True, ""],
            [AMBER, 1.0, "served", None, None, None, None, 0, "x" * 65],
            ["", 1.0, "served", None, None, None, None, 0, ""],
            [1, 1.0, "served", None, None, None, None, 0, ""],
            [AMBER, 1.0, "served", None, None, None, None, 0],
            [AMBER, 1.0, "served", None, None, None, None, 0, "", 1],
        ],
    )
    def test_rows_that_no_log_has_are_refused(self, row: list[Any], tmp_path: Path) -> None:
        head: dict[str, Any] = {"kwaainet_backup": 2, "made_s": 1.0, "identity": None, "former": []}
        good = ["observation", AMBER, 1.0, "served", None, None, None, None, 0, ""]
        with open_wallet(Home(tmp_path), SECRET) as wallet:
            restore_wallet(wallet, self.sealed([head, good]))
            before = EvidenceLog(wallet.database).load()
            with pytest.raises(FileCorrupt):
                restore_wallet(wallet, self.sealed([head, good, ["observation", *row]]))
            assert EvidenceLog(wallet.database).load() == before
