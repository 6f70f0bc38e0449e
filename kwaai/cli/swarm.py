"""`kwaainet swarm`: several nodes on this machine that answer one prompt together.

Asks the first node over its control socket; starting and ending them is `kwaai.node.swarm`.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, Parser, add_command, add_group, number, whole_number

if TYPE_CHECKING:
    from kwaai.node.swarm import SwarmNode, SwarmPlan
    from kwaai.store.home import Home

_NODES_DEFAULT = 4
_MAX_TOKENS_DEFAULT = 200
_POLL_S = 0.1
_UP_MORE = """\
Each node is a process with a home, an identity and ports of its own; they find each other through
the first one, over loopback. The first holds the model's first and last layer and asks; the others
serve what is between. Their homes are in run/swarm of this home, until `swarm down`.

examples:
  kwaainet swarm up --nodes 4
  kwaainet swarm run "What is the capital of France?"
  kwaainet swarm down
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "swarm", help="several nodes on this machine, as an example")
    parser = add_command(group, "up", up, help="start the nodes", more=_UP_MORE)
    parser.add_argument(
        "--nodes",
        type=whole_number,
        default=_NODES_DEFAULT,
        metavar="N",
        help=f"how many (default: {_NODES_DEFAULT})",
    )
    parser.add_argument("--model", metavar="NAME", help="a model of `kwaainet models list`")
    _add_answer_options(
        add_command(group, "run", run, help="have the nodes answer a prompt together")
    )
    add_command(group, "status", status, help="print the nodes and what they serve")
    add_command(group, "down", down, help="end the nodes and remove their homes", json=False)


def _add_answer_options(parser: Parser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; `-` reads standard input")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    parser.add_argument(
        "--max-tokens",
        type=whole_number,
        default=_MAX_TOKENS_DEFAULT,
        metavar="N",
        help=f"end the answer after N tokens (default: {_MAX_TOKENS_DEFAULT})",
    )
    numbers = (
        ("--temperature", number, "T", "0: always the most likely token, the default"),
        ("--top-p", number, "P", "draw from the likeliest tokens that hold P of 1"),
        ("--top-k", whole_number, "K", "draw from the K likeliest tokens"),
        ("--seed", whole_number, "N", "same seed, same answer"),
    )
    for name, kind, metavar, text in numbers:
        parser.add_argument(name, type=kind, metavar=metavar, help=text)
    parser.add_argument(
        "--route",
        choices=("auto", "alone", "peer", "split"),
        help="who answers (default: all nodes together)",
    )
    parser.add_argument(
        "--privacy", choices=("private", "fast"), help="fast: the last node picks the tokens"
    )
    parser.add_argument("--stats", action="store_true", help="print where the time went")


def up(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json
    from kwaai.cli.session import open_home
    from kwaai.node.swarm import plan_swarm, start_swarm, stop_swarm

    started = time.monotonic()
    home, config = open_home(arguments)
    plan = plan_swarm(home, config.model, arguments.nodes)
    with Spinner("starting the nodes", plain=True) as spinner:
        try:
            reports = start_swarm(home, config, plan, spinner.update)
            try:
                _await_coverage(home, plan, spinner.update)
                if config.privacy == "fast":
                    _serve_tail(home, spinner.update)
                spinner.update("trying the path")
                _try(home)
            except BaseException:
                spinner.update("ending the nodes")
                stop_swarm(home)
                raise
        except KeyboardInterrupt:
            spinner.note("interrupted: no node is left running")
            raise
    elapsed_s = time.monotonic() - started
    if arguments.json:
        print_json({"nodes": reports, "block_count": plan.block_count, "elapsed_s": elapsed_s})
        return 0
    _print_nodes(reports, plan)
    print(f"all {plan.block_count} layers are served after {elapsed_s:.1f} s; now try:")
    print('  kwaainet swarm run "What is the capital of France?"')
    return 0


def _await_coverage(home: Home, plan: SwarmPlan, say: Callable[[str], None]) -> None:
    """Wait until the first node knows who serves every layer. Raises ResourceError, naming what is
    missing and whose log says why.
    """
    from kwaai import limits
    from kwaai.cli.control import ControlClient
    from kwaai.errors import ResourceError
    from kwaai.node.swarm import find_nodes, first_node

    deadline = time.monotonic() + limits.SWARM_COVERAGE_TIMEOUT_S
    client = ControlClient(first_node(home).home)
    while True:
        # What the node has been told: it is told of every change at once.
        online = {
            (row["layers"]["start"], row["layers"]["stop"])
            for row in client.chain(refresh=False)["rows"]
            if row["state"] == "online"
        }
        missing = [layers for layers in plan.ranges if (layers.start, layers.stop) not in online]
        if not missing:
            return
        ready = len(plan.ranges) - len(missing)
        say(f"loading the layers: {ready} of {len(plan.ranges)} ranges are served")
        dead = [node.name for node in find_nodes(home) if node.running is None]
        if dead or time.monotonic() >= deadline:
            what = f"{', '.join(dead)} ended" if dead else f"{missing[0]} is not served in time"
            problem = _problem(home, find_nodes(home)[1 + plan.ranges.index(missing[0])])
            raise ResourceError(f"the swarm is not complete: {what}: {problem}")
        time.sleep(_POLL_S)


def _serve_tail(home: Home, say: Callable[[str], None]) -> None:
    """Have the last node serve the model's end too, which a path in fast mode needs."""
    from kwaai import limits
    from kwaai.cli.control import ControlClient
    from kwaai.errors import ResourceError
    from kwaai.node.swarm import find_nodes, first_node

    last = find_nodes(home)[-1]
    client = ControlClient(last.home)
    served = client.status()["served"]
    if not served or any(row["layers"]["stop"] == row["block_count"] for row in served):
        return
    start, stop = served[0]["layers"]["start"], served[0]["block_count"]
    say(f"loading layers [{start},{stop}) on {last.name}, for fast mode")
    for _ in client.serve("", start, stop):
        pass
    asker, deadline = ControlClient(first_node(home).home), time.monotonic() + limits.P2P_TIMEOUT_S
    wanted = {"start": start, "stop": stop}
    while not any(
        row["layers"] == wanted and row["state"] == "online"
        for row in asker.chain(refresh=False)["rows"]
    ):
        if time.monotonic() >= deadline:
            raise ResourceError(f"{last.name} serves [{start},{stop}), and node-1 does not know it")
        time.sleep(_POLL_S)


def _try(home: Home) -> None:
    """Have the nodes make one token together: what loads at the first question is loaded then."""
    from kwaai.cli.control import ControlClient
    from kwaai.node.swarm import first_node

    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    for _ in ControlClient(first_node(home).home).answer(chat, route=None, privacy=None):
        pass


def _problem(home: Home, node: SwarmNode) -> str:
    """Return what a node says is wrong with it, or the last line of its log."""
    from kwaai.cli.control import ControlClient
    from kwaai.errors import KwaaiError
    from kwaai.node.logfile import last_lines

    with contextlib.suppress(KwaaiError):
        for service in ControlClient(node.home).status()["services"]:
            if service["problem"]:
                return f"{node.name}: {service['problem']}"
    return f"{node.name}: {' '.join(last_lines(node.home.log_file, 1)) or 'no log'}"


def _print_nodes(reports: list[dict[str, Any]], plan: SwarmPlan) -> None:
    from kwaai.cli.output import print_table

    last = plan.block_count - 1
    rows = []
    for report in reports:
        asks = report["serves"] == "none"
        layers = f"[{report['serves'].replace(':', ',')})"
        if asks:
            layers = f"[0,1) and [{last},{last + 1}), and asks"
        rows.append((report["name"], layers, str(report["pid"]), report["api"]))
    print_table(("Node", "Layers", "Process", "API"), rows)


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.control import ControlClient, Json
    from kwaai.cli.output import Spinner
    from kwaai.cli.session import load_settings
    from kwaai.cli.shard_run import check_max_tokens, read_prompt, sampling
    from kwaai.cli.shard_run_node import answer_by_node
    from kwaai.node.swarm import first_node

    prompt = read_prompt(arguments.prompt)
    check_max_tokens(arguments.max_tokens)
    home, _ = load_settings(arguments)
    messages = [{"role": "user", "content": prompt}]
    if arguments.system:
        messages.insert(0, {"role": "system", "content": arguments.system})
    arguments.model = None
    first = first_node(home)
    _note_ended(home)
    if arguments.privacy == "fast":
        with Spinner("looking at the last node") as spinner:
            _serve_tail(home, spinner.update)

    class Client(ControlClient):
        """Calls the node that answers by its name, as the others are."""

        def answer(
            self, chat: Json, *, route: str | None, privacy: str | None
        ) -> Generator[Json, None, None]:
            for event in super().answer(chat, route=route, privacy=privacy):
                yield _named(event, first.name)

    return answer_by_node(arguments, Client(first.home), messages, sampling(arguments))


def _note_ended(home: Home) -> None:
    """Say which nodes are gone: an answer that needs their layers will fail."""
    from kwaai.cli.output import note
    from kwaai.node.swarm import find_nodes

    if ended := [node.name for node in find_nodes(home) if node.running is None]:
        note(
            f"note: {', '.join(ended)} ended; to have all of them again: kwaainet swarm down, "
            "kwaainet swarm up"
        )


def _named(event: dict[str, Any], name: str) -> dict[str, Any]:
    """Put a name in place of `here` in a path."""
    if event.get("event") == "path":
        hops = [{**hop, "name": name if not hop["peer"] else hop["name"]} for hop in event["hops"]]
        return {**event, "hops": hops, "text": " -> ".join(map(_hop_text, hops))}
    if event.get("event") == "finished" and event["path"] is not None:
        return {**event, "path": _named({**event["path"], "event": "path"}, name)}
    return event


def _hop_text(hop: dict[str, Any]) -> str:
    return f"{hop['name']} [{hop['layers']['start']},{hop['layers']['stop']})"


def status(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json, print_table
    from kwaai.cli.session import load_settings
    from kwaai.errors import NodeNotRunning
    from kwaai.node.swarm import find_nodes

    home, _ = load_settings(arguments)
    rows = [_node_status(node) for node in find_nodes(home)]
    if arguments.json:
        print_json({"nodes": rows})
    elif not rows:
        print("no swarm runs here; start one with: kwaainet swarm up --nodes 4")
    else:
        columns = ("Node", "State", "Process", "Serves", "Peers", "API")
        print_table(columns, [tuple(str(row[name.lower()] or "-") for name in columns)
                              for row in rows])  # fmt: skip
    return 0 if rows and all(row["process"] for row in rows) else NodeNotRunning.exit_code


def _node_status(node: SwarmNode) -> dict[str, Any]:
    from kwaai.cli.control import ControlClient
    from kwaai.errors import KwaaiError

    running = node.running
    row: dict[str, Any] = {
        "node": node.name,
        "state": "ended" if running is None else "not answering",
        "process": None if running is None else running.pid,
        "serves": None,
        "peers": None,
        "api": None,
        "home": str(node.home.path),
    }
    with contextlib.suppress(KwaaiError):
        told = ControlClient(node.home).status()
        served = (
            f"[{s['layers']['start']},{s['layers']['stop']}) {s['state']}" for s in told["served"]
        )
        row |= {"state": told["state"], "peers": told["peers"], "api": told["api"]}
        row["serves"] = ", ".join(served)
    return row


def down(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner
    from kwaai.cli.session import open_home
    from kwaai.node.swarm import stop_swarm

    home, _ = open_home(arguments)
    with Spinner("ending the nodes"):
        ended = stop_swarm(home)
    print(f"ended {ended} node{'' if ended == 1 else 's'}" if ended else "no swarm ran here")
    return 0
