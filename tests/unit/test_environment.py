"""What worker processes are started with."""

from __future__ import annotations

import pytest

from kwaai.inference import environment as env


def test_threads_spin_longer_on_a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    quiet, busy = env.worker_environment(0.9), env.worker_environment(0.5)
    assert quiet["GOMP_SPINCOUNT"] == str(env.SPIN_QUIET)
    assert busy["GOMP_SPINCOUNT"] == str(env.SPIN_SHARED)
    assert quiet["OMP_WAIT_POLICY"] == busy["OMP_WAIT_POLICY"] == "passive"


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert "GOMP_SPINCOUNT" not in env.worker_environment(1.0)


def test_the_idle_share_is_a_share() -> None:
    assert 0.0 <= env.measure_idle_share(0.001) <= 1.0
