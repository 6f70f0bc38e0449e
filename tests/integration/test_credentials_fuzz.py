"""A million mutated credentials and presentations: no crash, no hang, and none is accepted.

A failure names its seed and number: `judge(*case(seed, number))` does it again.
KWAAINET_FUZZ_SEED chooses another seed, for those who want to look further.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from credential_mutations import case
from credential_targets import CREDENTIALS_NS, Target, judge, targets

SEED = int(os.environ.get("KWAAINET_FUZZ_SEED", "20261121"))
CASES = 1_000_000
CASES_FAST = 4_000
CHUNK = 5_000
HANG_S = 20.0
"""Of one case, on a machine with much else to do; one takes 0.3 ms."""
FAILURES_MAX = 5


@dataclass
class Outcome:
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Hang(BaseException):
    """Not an Exception: no handler on the way may take it."""


@contextmanager
def alarm() -> Iterator[None]:
    """Raise Hang when the timer, which each case sets anew, runs out."""

    def ring(signum: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(seed: int, start: int, stop: int) -> Outcome:
    outcome = Outcome()
    with alarm():
        for number in range(start, stop):
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            target, data = case(seed, number)
            try:
                told = judge(target, data)
            except (Exception, Hang) as error:
                told = f"FAILED: {type(error).__name__}: {error!s:.200}"
            if told.startswith(("FORGED", "FAILED")):
                outcome.failures.append(f"seed {seed}, number {number} ({target.name}): {told}")
                told = told.partition(":")[0]
                if len(outcome.failures) >= FAILURES_MAX:
                    break
            outcome.counts[told] += 1
    return outcome


def check(outcome: Outcome, cases: int) -> None:
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.counts.total() == cases
    # The mutations reach every part of verification, and some change nothing.
    assert len(outcome.counts) >= 15, outcome.counts
    assert 0 < outcome.counts["same"] < cases // 5, outcome.counts


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_what_is_mutated_holds(target: Target) -> None:
    assert judge(target, target.data) == "same"


def test_cases_are_the_same_every_time() -> None:
    assert [case(SEED, number)[1] for number in range(50)] == [
        case(SEED, number)[1] for number in range(50)
    ]


def test_a_forgery_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With signatures that always hold, hundreds of cases must be called forged."""
    monkeypatch.setattr("credentials.keys.PublicKey.verify", lambda *_: None)
    told = Counter(judge(*case(SEED, number)).partition(":")[0] for number in range(2_000))
    assert told["FORGED"] > 100, told


def test_a_reader_who_is_deceived_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison of JSON and graph, the same graph under other names is accepted."""
    monkeypatch.setattr("credentials.verify.check_meaning", lambda view: None)
    told = {judge(*case(SEED, number)) for number in range(20_000) if is_renamed(number)}
    assert "FORGED: what is read" in told


def is_renamed(number: int) -> bool:
    return CREDENTIALS_NS.encode() in case(SEED, number)[1]


def test_some_thousand_mutations() -> None:
    check(run(SEED, 0, CASES_FAST), CASES_FAST)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_mutations() -> None:
    workers = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    whole = Outcome()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        starts = range(0, CASES, CHUNK)
        stops = [start + CHUNK for start in starts]
        for outcome in pool.map(run, [SEED] * len(starts), starts, stops):
            whole.counts += outcome.counts
            whole.failures += outcome.failures
    check(whole, CASES)
