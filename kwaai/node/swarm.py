"""A swarm on one machine: nodes as processes of their own, in homes of their own, over loopback.

Everything is under `run/swarm` in the home: each node's home, and nothing of the user's but a link
to the models. What runs is known by those homes' locks, so a swarm is found and ended after a crash
too, and nothing else is. Asks no node anything (`kwaai.cli.swarm` does). Issue 3, section 5.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwaai import limits
from kwaai.atomic import exclusive_lock, write_atomic
from kwaai.config import Config
from kwaai.config.load import ENVIRONMENT_PREFIX, set_value
from kwaai.config.model import show_value
from kwaai.errors import KwaaiError, NodeNotRunning, NodeRunning, UserError
from kwaai.models import footprint
from kwaai.models.library import Library
from kwaai.node import daemon
from kwaai.node.daemon import Running, Starting
from kwaai.placement.ranges import split_layers
from kwaai.store.home import HOME_VARIABLE, Home, ensure_home
from kwaai.types import LayerRange

_CARRIED = ("context_tokens", "max_sessions", "threads", "use_gpu", "memory_limit_mb", "privacy")
"""The user's settings that the nodes have too; every other one is the swarm's own."""


@dataclass(frozen=True, slots=True)
class SwarmNode:
    """One node of the swarm. The first asks, and serves nothing."""

    name: str
    home: Home

    @property
    def running(self) -> Running | None:
        """Its process, if it lives."""
        return daemon.find_running(self.home)


@dataclass(frozen=True, slots=True)
class SwarmPlan:
    """Who serves what: the asking node holds the first block and the last."""

    model: str
    block_count: int
    ranges: tuple[LayerRange, ...]
    """Of the second node and those after it."""


def swarm_directory(home: Home) -> Path:
    """Return where the swarm of this home is."""
    return home.run / "swarm"


def plan_swarm(home: Home, model: str, nodes: int) -> SwarmPlan:
    """Cut the middle of a model for `nodes` - 1 of the nodes. Raises UserError, ModelNotFound."""
    if not 2 <= nodes <= limits.SWARM_NODES_MAX:
        raise UserError(
            f"a swarm has 2 to {limits.SWARM_NODES_MAX} nodes, not {nodes}", param="nodes"
        )
    entry = Library(home.models).find(model)
    entry.check_whole()
    count = entry.layers.stop
    if count - 2 < nodes - 1:
        raise UserError(
            f"{entry.name} has {count} layers: the first and the last stay with the node that "
            f"asks, so at most {count - 1} nodes can have a part", param="nodes",
        )  # fmt: skip
    sizes = footprint.block_bytes(entry.header)[1 : count - 1]
    middle = split_layers(count - 2, nodes - 1, block_bytes=sizes)
    ranges = tuple(LayerRange(layers.start + 1, layers.stop + 1) for layers in middle)
    # By its path: the name may be a home's own.
    return SwarmPlan(str(entry.path), count, ranges)


def find_nodes(home: Home) -> tuple[SwarmNode, ...]:
    """Return the nodes of the swarm of this home, whether they live or not, the first first."""
    directory = swarm_directory(home)
    found = []
    for number in range(1, limits.SWARM_NODES_MAX + 1):
        path = directory / f"node-{number}"
        if path.is_dir():
            found.append(SwarmNode(path.name, Home(path)))
    return tuple(found)


def first_node(home: Home) -> SwarmNode:
    """Return the node that asks. Raises NodeNotRunning."""
    nodes = find_nodes(home)
    if not nodes or nodes[0].running is None:
        raise NodeNotRunning("no swarm runs here; start one with: kwaainet swarm up --nodes 4")
    return nodes[0]


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One `up` or `down` at a time."""
    with exclusive_lock(home.run / "swarm.lock", limits.STOP_TIMEOUT_S):
        yield


def start_swarm(
    home: Home, config: Config, plan: SwarmPlan, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Start the nodes; return their reports, the asking one's first. What fails ends them all;
    their homes, with their logs, stay unless it was Ctrl-C.

    Raises NodeRunning where a swarm runs already, and what a node could not do.
    """
    with _alone(home):
        if any(node.running for node in find_nodes(home)):
            raise NodeRunning("a swarm runs here already; end it first: kwaainet swarm down")
        _remove(home)
        started: list[Starting] = []
        try:
            return _start_all(home, config, plan, started, say)
        except BaseException as error:
            with ThreadPoolExecutor(max(1, len(started))) as pool:
                list(pool.map(Starting.end, started))
            if isinstance(error, KeyboardInterrupt):
                _remove(home)
            raise


def _start_all(
    home: Home,
    config: Config,
    plan: SwarmPlan,
    started: list[Starting],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Start them, and put each into `started` as soon as it is a process."""
    count = 1 + len(plan.ranges)
    say(f"starting node-1 of {count}")
    # The others find the swarm through the first, which is why that one comes first.
    first = _prepare(home, config, plan, 1, None, ())
    started.append(Starting(first.home, environment=_environment()))
    reports = [_reported(first, started[0])]
    address = next(a for a in reports[0]["listen"] if "/127.0.0.1/" in a)
    nodes = [
        _prepare(home, config, plan, number, layers, (address,))
        for number, layers in enumerate(plan.ranges, start=2)
    ]
    for node in nodes:
        started.append(Starting(node.home, environment=_environment()))
    for node, starting in zip(nodes, started[1:], strict=True):
        say(f"starting the nodes: {len(reports)} of {count} are up")
        reports.append(_reported(node, starting))
    return reports


def _prepare(
    home: Home,
    config: Config,
    plan: SwarmPlan,
    number: int,
    layers: LayerRange | None,
    bootstrap: Sequence[str],
) -> SwarmNode:
    """Make one node's home, with settings that need nothing from outside it."""
    node = SwarmNode(f"node-{number}", Home(swarm_directory(home) / f"node-{number}"))
    node.home.path.mkdir(mode=0o700, parents=True)
    node.home.models.symlink_to(home.models)  # cut once, for all of them
    ensure_home(node.home.path)
    settings = {key: show_value(key, getattr(config, key)) for key in _CARRIED} | {
        "model": plan.model,
        "public_name": node.name,
        "listen_host": "127.0.0.1",
        "port": "0",
        "link_port": "0",
        "api_host": "127.0.0.1",
        "api_port": "0",
        "mdns": "false",
        "route": "split" if len(plan.ranges) > 1 else "peer",
        "home_blocks": "2",  # or the asking node would rather run more itself
        "tier_early_layers": "unknown",  # they are all on this machine, and one person's
        "spot_check_share": "0",
        "serve": "none" if layers is None else f"{layers.start}:{layers.stop}",
        "bootstrap_peers": ",".join(bootstrap) or "none",
    }
    write_atomic(node.home.config_yaml, b"")
    for key, value in settings.items():
        set_value(node.home.config_yaml, key, value)
    return node


def start_node(node: SwarmNode) -> dict[str, Any]:
    """Start one node whose home is there; return its report. Raises what it could not do."""
    return _reported(node, Starting(node.home, environment=_environment()))


def _reported(node: SwarmNode, starting: Starting) -> dict[str, Any]:
    """Wait until the node is up. Raises what it could not do, with the place of its log."""
    try:
        report = starting.report()
    except KwaaiError as error:
        log = f"{HOME_VARIABLE}={node.home.path} kwaainet logs"
        text = error.message.replace("`kwaainet logs`", f"`{log}`")
        raise type(error)(f"{node.name}: {text}") from error
    # A node that is started again is found at the same places.
    for key in ("port", "link_port", "api_port"):
        if report.get(key):
            set_value(node.home.config_yaml, key, str(report[key]))
    return report


def _environment() -> dict[str, str]:
    """This process's, without the settings in it: they are for the user's own node."""
    kept = (HOME_VARIABLE, f"{ENVIRONMENT_PREFIX}LOG_JSON", f"{ENVIRONMENT_PREFIX}DEBUG")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ENVIRONMENT_PREFIX) or name in kept
    }


def stop_swarm(home: Home) -> int:
    """End the nodes that live, all at once, and remove their homes; return how many lived."""
    with _alone(home):
        ended = _end(find_nodes(home))
        _remove(home)
    return ended


def _end(nodes: Sequence[SwarmNode]) -> int:
    alive = [running for node in nodes if (running := node.running) is not None]
    for running in alive:
        daemon.send_signal(running, signal.SIGTERM)
    for running in alive:
        if not daemon.wait_ended(running, limits.SWARM_STOP_TIMEOUT_S):
            daemon.send_signal(running, signal.SIGKILL)
            daemon.wait_ended(running, limits.STOP_TIMEOUT_S)
    return len(alive)


def _remove(home: Home) -> None:
    """Remove the homes of nodes that have ended. The models behind the links stay."""
    for node in find_nodes(home):
        if node.running is None:
            shutil.rmtree(node.home.path)
