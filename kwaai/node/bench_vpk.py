"""Measure sealed search beside plain search: the same vectors, queries and machine, one run.

Plain is faiss, flat and HNSW, and chroma where it is installed; sealed is a base with its objects
on this machine, and at eves: processes of their own, over real links, near or far. Every step runs
in a process of its own. Prints nothing; asserts nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kwaai.errors import UserError
from kwaai.inference.environment import THREAD_WAITING, measure_idle_share, worker_environment
from kwaai.limits import (
    BASE_CANDIDATES_MAX,
    VPK_BENCH_EVES_MAX,
    VPK_BENCH_QUERIES_MAX,
    VPK_BENCH_VECTORS_MAX,
    VPK_DIMENSION_MAX,
)
from kwaai.node.bench import Say, machine, scratch_directory
from kwaai.node.bench_vpk_bob import BobTask
from kwaai.node.bench_vpk_data import VpkData, load_vectors, make_clustered, multiply
from kwaai.node.bench_vpk_eve import running_eves
from kwaai.node.bench_vpk_plain import disk_mb, plain_methods
from kwaai.node.bench_vpk_worker import run_step
from kwaai.store.home import Home

_MILLION: Final = 10
_SETTINGS: Final = ((0, 0.0), (1, 0.0), (4, 25.0))
"""Eves and milliseconds of a round trip, where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class VpkBenchOptions:
    """On what, and how much."""

    vectors: int = 100_000
    dimension: int = 384
    queries: int = 500
    eves: int | None = None
    """None: this machine's own store, one eve near, four eves far away."""
    delay_ms: float = 0.0
    """Of a round trip to each eve."""
    replicas: int = 1
    candidates: int = 100
    data: Path | None = None
    """Vectors and queries of a file; None: made-up ones."""
    leakage: bool = False
    million: bool = False
    """Ten times as many vectors: each, and others near it."""
    plain: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("vectors", self.vectors, 100, VPK_BENCH_VECTORS_MAX),
            ("dim", self.dimension, 8, VPK_DIMENSION_MAX),
            ("queries", self.queries, 1, VPK_BENCH_QUERIES_MAX),
            ("eves", self.eves or 0, 0, VPK_BENCH_EVES_MAX),
            ("delay-ms", self.delay_ms, 0, 10_000),
            ("candidates", self.candidates, 10, BASE_CANDIDATES_MAX),
        ):
            if not least <= value <= most:
                raise UserError(f"--{name} is {least} to {most}, not {value}", param=name)

    @property
    def settings(self) -> tuple[tuple[int, float], ...]:
        """Eves and their round trip in milliseconds, of each row about sealed search."""
        return _SETTINGS if self.eves is None else ((self.eves, self.delay_ms),)


async def run_vpk_bench(home: Home, options: VpkBenchOptions, say: Say) -> dict[str, Any]:
    """Return the report. Works in a temporary directory of the home, which is removed. Raises
    KwaaiError.
    """
    environment = _environment()
    with scratch_directory(home) as directory:
        say("making vectors, and finding their neighbours exactly")
        data = _data(options)
        data.save(directory / "data")
        report: dict[str, Any] = {
            "data": data.source,
            "vectors": len(data.vectors),
            "dimension": data.vectors.shape[1],
            "queries": len(data.queries),
            "candidates": options.candidates,
            **machine(),
        }
        if options.plain:
            report["plain"] = []
            for method in plain_methods():
                say(f"plain: {method}")
                task = {"data": str(directory / "data"), "directory": str(directory)}
                row = await run_step(method, task, environment)
                report["plain"].append({k: v for k, v in row.items() if k != "process_s"})
        report["sealed"], seen = [], []
        for number, (eves, delay_ms) in enumerate(options.settings):
            say(f"sealed: {_title(eves, delay_ms)}")
            place = directory / f"sealed-{number}"
            row = await _sealed(place, directory / "data", options, eves, delay_ms, environment)
            seen += _leak_rows(row)
            report["sealed"].append(row)
        if seen:
            report["leakage"] = seen
        report["against_plain"] = _ratios(report)
    return report


def _data(options: VpkBenchOptions) -> VpkData:
    if options.data is not None:
        data = load_vectors(options.data, options.vectors, options.queries)
    else:
        data = make_clustered(options.vectors, options.dimension, options.queries, options.seed)
    return multiply(data, _MILLION, options.seed) if options.million else data


def _environment() -> dict[str, str]:
    chosen = os.environ | worker_environment(measure_idle_share())
    chosen |= {name: chosen[name] for name in THREAD_WAITING if name in chosen}
    return chosen | {"OMP_NUM_THREADS": chosen.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))}


def _title(eves: int, delay_ms: float) -> str:
    if not eves:
        return "here"
    return f"{eves} {'eve' if eves == 1 else 'eves'}" + (f" at {delay_ms:g} ms" if delay_ms else "")


async def _sealed(
    place: Path,
    data: Path,
    options: VpkBenchOptions,
    eves: int,
    delay_ms: float,
    environment: dict[str, str],
) -> dict[str, Any]:
    place.mkdir()
    async with running_eves(place, eves, delay_ms, environment) as running:
        task = BobTask(
            str(place),
            str(data),
            secrets.token_hex(32),
            running,
            options.replicas,
            options.candidates,
            leakage=options.leakage,
        )
        values = asdict(task)
        found = await run_step("ingest", values, environment)
        del found["process_s"]
        opened = await run_step("open", values, environment)
        stored = [Path(eve.directory) for eve in running] or [place / "host"]
        return {
            "objects": _title(eves, delay_ms),
            **found,
            "eve_disk_mb": sum(map(disk_mb, stored)),
            "open_ms": opened["open_ms"],
            "first_answer_ms": opened["first_answer_ms"],
            "open_process_s": opened["process_s"],
        }


def _leak_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Take what hosts saw out of a row, and return it as rows: the one that saw most."""
    leakage = row.pop("leakage", None)
    if leakage is None or not leakage["hosts"]:
        return []
    most = leakage["hosts"][0]
    return [
        {
            "objects": row["objects"],
            "records_read": leakage["records"],
            "pairs_at_one_host": most["pairs"],
            "similar_percent": 100 * most["similar_share"],
            "pairs_seen_twice": most["pairs_twice"],
            "of_these_similar_percent": 100 * most["similar_share_twice"],
        }
    ]


def _ratios(report: Mapping[str, Any]) -> dict[str, float]:
    """Return how sealed search here compares with the plain methods: above 1 is more."""
    first = report["sealed"][0]
    plain = report.get("plain", ())
    return {
        f"{figure}_of_{row['method'].replace(' ', '_')}": first[figure] / row[figure]
        for row in plain
        for figure in ("vectors_s", "p50_ms", "memory_mb")
        if row[figure] > 0
    }
