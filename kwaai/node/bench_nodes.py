"""The nodes of `bench --swarm`: what they take while nobody asks, and how to put them far apart.

Measures no answers: `bench_swarm` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from kwaai.config.load import set_value
from kwaai.errors import NodeNotRunning
from kwaai.limits import STOP_TIMEOUT_S
from kwaai.net.delay import DelayRelay
from kwaai.node import daemon
from kwaai.node.bench import memory_bytes
from kwaai.node.swarm import SwarmNode, find_nodes, start_node
from kwaai.store.home import Home
from kwaai.types import LayerRange


@dataclass(slots=True)
class RunningSwarm:
    """The nodes of a home's swarm; the first asks."""

    home: Home
    reports: tuple[Mapping[str, Any], ...]
    """What each said when it was up."""
    ranges: tuple[LayerRange, ...]
    """Of the second node and those after it."""

    @property
    def api(self) -> str:
        """Where the first node is asked: `http://127.0.0.1:1234/v1`."""
        return str(self.reports[0]["api"])

    @property
    def nodes(self) -> tuple[SwarmNode, ...]:
        """The nodes, the first first."""
        return find_nodes(self.home)


async def idle_figures(swarm: RunningSwarm, seconds: float) -> list[dict[str, object]]:
    """Watch the processes for a while; return a row for each node."""
    before = [_seconds_of(node) for node in swarm.nodes]
    started = time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - started
    rows: list[dict[str, object]] = []
    for node, report, (own_s, workers_s) in zip(swarm.nodes, swarm.reports, before, strict=True):
        own, workers = _processes(node)
        own_now_s, workers_now_s = _seconds_of(node)
        rows.append(
            {
                "node": node.name,
                "ready_s": report["elapsed_s"],
                "core_percent": 100 * (own_now_s - own_s) / elapsed,
                "memory_mb": memory_bytes(own) / 1e6,
                "workers": len(workers),
                "workers_core_percent": 100 * (workers_now_s - workers_s) / elapsed,
                "workers_memory_mb": sum(memory_bytes(worker) for worker in workers) / 1e6,
            }
        )
    return rows


def _processes(node: SwarmNode) -> tuple[psutil.Process, list[psutil.Process]]:
    running = node.running
    if running is None:
        raise NodeNotRunning(f"{node.name} has ended; its log: {node.home.log_file}")
    process = psutil.Process(running.pid)
    return process, process.children(recursive=True)


def _seconds_of(node: SwarmNode) -> tuple[float, float]:
    """Return the CPU time of a node's process, and of its workers'."""
    own, workers = _processes(node)
    return _cpu_s(own), sum(map(_cpu_s, workers))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.asynccontextmanager
async def delayed_links(swarm: RunningSwarm) -> AsyncIterator[list[DelayRelay]]:
    """Start the nodes again, each reached only through a relay in front of its link port: its
    `delay_s` is 0, and may be changed. The relays run in this process.
    """
    relays: list[DelayRelay] = []
    try:
        await asyncio.gather(*(asyncio.to_thread(_stop, node) for node in swarm.nodes))
        for node, report in zip(swarm.nodes, swarm.reports, strict=True):
            relay = DelayRelay("127.0.0.1", int(report["link_port"]), 0.0)
            address = await relay.start()
            relays.append(relay)
            set_value(node.home.config_yaml, "announce_links", address)
        first, *others = swarm.nodes
        reports = [await asyncio.to_thread(start_node, first)]
        reports += await asyncio.gather(*(asyncio.to_thread(start_node, node) for node in others))
        swarm.reports = tuple(reports)
        yield relays
    finally:
        for relay in relays:
            await relay.stop()


def _stop(node: SwarmNode) -> None:
    running = node.running
    if running is None:
        return
    daemon.send_signal(running, signal.SIGTERM)
    if not daemon.wait_ended(running, STOP_TIMEOUT_S):
        daemon.send_signal(running, signal.SIGKILL)
        daemon.wait_ended(running, STOP_TIMEOUT_S)


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these environment variables set, for processes that are started."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
