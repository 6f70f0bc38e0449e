"""The environment variables that worker processes are started with, and why.

They must be set before the libraries that read them are loaded. What the user has set wins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import psutil

THREAD_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SPIN_SHARED = 100
SPIN_QUIET = 1000
QUIET_IDLE_SHARE = 0.75

WORKER_ENVIRONMENT: Mapping[str, str] = {
    # Spinning OpenMP threads of one slice starve the next: measured 29 s against 0.5 s on busy
    # cores. A few microseconds of spinning bridge most barriers inside a pass all the same.
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": str(SPIN_SHARED),
    # NumPy does nothing in a worker that is worth a thread.
    "OPENBLAS_NUM_THREADS": "1",
    # A process that ggml ends shall end at once, its reason last: no debugger, no backtrace.
    "GGML_NO_BACKTRACE": "1",
    # Weights in huge pages: measured 5 % faster decoding. Ignored where there is no glibc.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def worker_environment(idle_share: float) -> dict[str, str]:
    """Choose for a machine whose cores are idle for `idle_share` of the time (0 to 1).

    Measured with a 0.5 B model on 2 cores, ms a token for spin counts 0, 100 and 1000: 33, 22 and
    19 on a quiet machine; 31, 32 and 44 beside one busy program.
    """
    chosen = dict(WORKER_ENVIRONMENT)
    if idle_share > QUIET_IDLE_SHARE:
        chosen["GOMP_SPINCOUNT"] = str(SPIN_QUIET)
    return {name: value for name, value in chosen.items() if name not in os.environ}


def measure_idle_share(seconds: float = 0.05, looks: int = 3) -> float:
    """Look at the cores for a moment; blocks. 1 means nothing else runs.

    Up to `looks` times, for the best: what this program itself has just done is not yet over.
    """
    best = 0.0
    for _ in range(looks):
        before = psutil.cpu_times()
        time.sleep(seconds)
        after = psutil.cpu_times()
        total = sum(after) - sum(before)
        best = max(best, (_waiting(after) - _waiting(before)) / total if total > 0 else 1.0)
        if best > QUIET_IDLE_SHARE:
            break
    return min(1.0, best)


def _waiting(times: Any) -> float:
    """Seconds without work: idle, or with nothing to do until the disk answers (Linux only)."""
    return float(times.idle) + float(getattr(times, "iowait", 0.0))
