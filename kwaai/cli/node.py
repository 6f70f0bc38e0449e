"""`kwaainet stop`, `restart` and `status`: the node that runs in this home, from outside.

Asks the node over its control socket and looks at its process; starts one only for `restart`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, UsageError, add_command

if TYPE_CHECKING:
    import psutil

    from kwaai.node.daemon import Running
    from kwaai.store.home import Home

_CPU_SAMPLE_S = 0.3
_SERVICES = "its services to end"
_SERVICES_SAID_AFTER_S = 3.0
_STOP_MORE = """\
The node takes no new work, lets answers under way end for a while, withdraws its records and ends.
A node that does not end in time is ended the hard way, and that is said.
"""
_STATUS_MORE = """\
Ends with 69 where no node runs. CPU is a share of one core, measured now; memory is what is
resident, the model's workers apart.
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "stop", stop, help="end the running node", more=_STOP_MORE, json=False
    )
    parser.add_argument("--now", action="store_true", help="do not wait for answers under way")
    from kwaai.cli.start import add_node_options

    parser = add_command(
        commands,
        "restart",
        restart,
        help="end the running node and start it again",
        more="The new one has the settings of config.yaml, the environment and the flags given "
        "here.",
    )
    add_node_options(parser)
    add_command(commands, "status", status, help="print how the running node is", more=_STATUS_MORE)


def stop(arguments: argparse.Namespace) -> int:
    from kwaai.node.daemon import find_running
    from kwaai.store.home import Home, kwaai_home

    home = Home(kwaai_home())
    running = find_running(home)
    if running is None:
        print(f"no node runs in {home.path}")
        return 0
    print(stop_running(home, running, now=arguments.now))
    return 0


def stop_running(home: Home, running: Running, *, now: bool = False) -> str:
    """End a node and wait until it has ended; say what it waits for. Return what came of it."""
    from kwaai.cli.output import note
    from kwaai.limits import DRAIN_GRACE_S, STOP_TIMEOUT_S
    from kwaai.node.daemon import send_signal, wait_ended

    started = time.monotonic()
    said: list[str] = []

    def say(elapsed_s: float) -> None:
        text = _waits_for(home)
        if text == _SERVICES and elapsed_s < _SERVICES_SAID_AFTER_S:
            return  # as long as it always takes
        if text and said[-1:] != [text]:
            said.append(text)
            bound = f" (at most {DRAIN_GRACE_S:.0f} s; --now does not wait)"
            note(f"waiting for {text}" + ("" if text == _SERVICES else bound))

    send_signal(running, signal.SIGTERM)
    if now:
        wait_ended(running, 0.2)
        send_signal(running, signal.SIGTERM)
    if not wait_ended(running, STOP_TIMEOUT_S + (0 if now else DRAIN_GRACE_S), say):
        note(f"the node did not end in {time.monotonic() - started:.0f} s: it is killed")
        send_signal(running, signal.SIGKILL)
        wait_ended(running, STOP_TIMEOUT_S)
    return f"stopped process {running.pid} after {time.monotonic() - started:.1f} s"


def _waits_for(home: Home) -> str:
    """Return what a draining node still has to do, as far as it says so."""
    from kwaai.errors import KwaaiError

    try:
        told = _ask(home)
    except KwaaiError:
        return _SERVICES
    answers, sessions = told.get("answers", 0), told.get("sessions_open", 0)
    parts = [_count(answers, "answer")] if answers else []
    parts += [_count(sessions, "session") + " of others"] if sessions else []
    return " and ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def restart(arguments: argparse.Namespace) -> int:
    from kwaai.cli.session import open_home
    from kwaai.cli.start import check_typed, node_arguments, show_started, start_daemon
    from kwaai.node import systemd
    from kwaai.node.daemon import find_running

    home, config = open_home(arguments)
    check_typed(arguments, home, config)  # what is wrong does not end the node that runs
    running = find_running(home)
    if running is not None and systemd.is_service(running.pid):
        return _restart_service(arguments)
    if running is not None:
        _note_forgotten(running, arguments)
        stopped = stop_running(home, running)
        print(stopped, file=sys.stderr if arguments.json else sys.stdout)
    show_started(start_daemon(home, node_arguments(arguments)), as_json=arguments.json)
    return 0


def _restart_service(arguments: argparse.Namespace) -> int:
    """Leave it to systemd, which would not keep a node that is started beside it."""
    from kwaai.cli.output import Spinner, print_json
    from kwaai.cli.start import node_arguments
    from kwaai.node import systemd

    if node_arguments(arguments):
        raise UsageError(
            "the node runs as a service, which takes no flags; use `kwaainet config set KEY VALUE`"
        )
    with Spinner("waiting for systemd"):
        systemd.restart()
    if arguments.json:
        print_json({"unit": systemd.UNIT, "restarted": True})
    else:
        print(f"systemd has restarted {systemd.UNIT}; `kwaainet status` says how the node is")
    return 0


def _note_forgotten(running: Running, arguments: argparse.Namespace) -> None:
    """Say which settings of the node that runs were its command line's, and are not given again."""
    import shlex

    import psutil

    from kwaai.cli.main import build_parser
    from kwaai.cli.output import note, one_line
    from kwaai.cli.parser import parse
    from kwaai.cli.start import node_arguments

    try:
        words = psutil.Process(running.pid).cmdline()
        began = parse(build_parser(), words[words.index("start") :])
    except (psutil.Error, ValueError, UsageError, SystemExit):
        return  # not a command line of this version
    given = {word.partition("=")[0] for word in node_arguments(arguments)}
    lost = [word for word in node_arguments(began) if word.partition("=")[0] not in given]
    if lost:
        note(
            one_line(
                f"note: the node ran with {shlex.join(lost)}, which is not kept; give it again, or "
                "set it: kwaainet config set KEY VALUE"
            )
        )


def status(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json
    from kwaai.errors import KwaaiError, NodeNotRunning
    from kwaai.node.daemon import find_running
    from kwaai.store.home import Home, kwaai_home

    home = Home(kwaai_home())
    running = find_running(home)
    if running is None:
        if arguments.json:
            print_json({"running": False, "home": str(home.path)})
        else:
            print(f"no node runs in {home.path}; start one with: kwaainet start --daemon")
        return NodeNotRunning.exit_code
    report: dict[str, Any] = {"running": True, "home": str(home.path), **_measure(running)}
    try:
        report["node"] = _ask(home)
    except KwaaiError as error:  # it is starting or ending, or hangs: the process is there
        report["node"], report["problem"] = None, error.message
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _ask(home: Home) -> dict[str, Any]:
    from kwaai.cli.control import ControlClient

    return ControlClient(home).status()


def _measure(running: Running) -> dict[str, Any]:
    """Look at the node's process and its workers from outside."""
    import psutil

    empty = {"pid": running.pid, "uptime_s": 0.0, "cpu_percent": 0.0, "memory_mb": 0.0}
    empty["workers_memory_mb"] = 0.0
    try:
        process = psutil.Process(running.pid)
        family = [process, *process.children(recursive=True)]
        before = sum(_cpu_s(one) for one in family)
        started = time.monotonic()
        time.sleep(_CPU_SAMPLE_S)
        spent = sum(_cpu_s(one) for one in family) - before
        memory = [_memory_bytes(one) / 1e6 for one in family]
        return {
            "pid": running.pid,
            "uptime_s": round(time.time() - process.create_time(), 1),
            "cpu_percent": round(max(0.0, 100 * spent / (time.monotonic() - started)), 1),
            "memory_mb": round(memory[0], 1),
            "workers_memory_mb": round(sum(memory[1:]), 1),
        }
    except psutil.NoSuchProcess:
        return empty


def _cpu_s(process: psutil.Process) -> float:
    import psutil

    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return 0.0


def _memory_bytes(process: psutil.Process) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _print(report: dict[str, Any]) -> None:
    from kwaai.cli.output import one_line, print_pairs, print_table, show_duration

    node = report["node"]
    memory = f"{report['memory_mb']:.0f} MB, workers {report['workers_memory_mb']:.0f} MB"
    pairs = [
        ("State", node["state"] if node else one_line(f"not answering: {report['problem']}")),
        ("Process", f"{report['pid']}, up {show_duration(report['uptime_s'])}"),
        ("CPU", f"{report['cpu_percent']:.1f} % of a core"),
        ("Memory", memory),
    ]
    if node:
        pairs += [
            ("Node", one_line(f"{node['name']} ({node['peer']})")),
            ("API", one_line(node["api"] or "not listening")),
            ("Peers", str(node["peers"])),
            ("Sessions of others", str(node["sessions_open"])),
        ]
    print_pairs(pairs)
    if not node:
        return
    if node["served"]:
        print()
        rows = [
            (
                one_line(row["model"]),
                f"[{row['layers']['start']},{row['layers']['stop']})",
                row["state"],
                f"{row['sessions_open']} of {row['sessions_max']}",
                f"{1000 * row['decode_s']:.2f}" if row["decode_s"] else "-",
            )
            for row in node["served"]
        ]
        names = ("Serves", "Layers", "State", "Sessions", "ms/token")
        print_table(names, rows, right=names[4:])
    print()
    services = [
        (row["name"], row["state"], str(row["restarts"]), one_line(row["problem"] or ""))
        for row in node["services"]
    ]
    columns = ("Service", "State", "Restarts", "Last problem")
    print_table(columns, services, right=columns[2:3])
