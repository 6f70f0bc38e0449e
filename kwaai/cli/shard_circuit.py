"""`kwaainet shard circuit create|list|show|close`: paths that meet a demand, kept open for reuse.

Asks the running node, which has them; `kwaainet shard run --circuit ID` answers on one.
docs/circuits.md.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from kwaai import limits
from kwaai.cli.intent import add_demand_options, add_path_options, demand_of
from kwaai.cli.parser import Commands, UsageError, add_command, add_group, number

if TYPE_CHECKING:
    from kwaai.cli.control import ControlClient

Json = dict[str, Any]

_TTL_MINUTES = limits.CIRCUIT_TTL_S_DEFAULT / 60
_MORE = """\
Prompts that begin with the prefix are answered without computing it again, and with the same words.
The prefix is a system message, as of `shard run --system`; with --prefix-text it is how a prompt of
/v1/completions begins.

examples:
  kwaainet shard circuit create --min-tier verified --prefix-file instructions.txt --name helper
  kwaainet shard run --circuit helper --system "$(cat instructions.txt)" "What is a node?"
"""
_LIST_MORE = """\
Reused: answers that found the prefix read. Rerouted: times that a hop failed, or did not meet the
demand any more, and the circuit took another path.
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "circuit", help="keep a path that meets a demand open for reuse")
    _add_create(group)
    add_command(group, "list", _list, help="list open circuits", more=_LIST_MORE)
    for name, run, help in (
        ("show", _show, "print one circuit, and how it has gone"),
        ("close", _close, "end a circuit and free what its hops hold for it"),
    ):
        parser = add_command(group, name, run, help=help)
        parser.add_argument("circuit", metavar="ID", help="its id, or its name")


def _add_create(group: Commands) -> None:
    create = add_command(group, "create", _create, help="choose a path and pin it", more=_MORE)
    create.add_argument(
        "--model",
        metavar="NAME",
        help="a model of `kwaainet models list`, or a handle; the node's own if left out",
    )
    create.add_argument("--name", default="", metavar="NAME", help="another name for its id")
    create.add_argument(
        "--ttl-minutes",
        type=number,
        default=_TTL_MINUTES,
        metavar="N",
        help=f"end it after N minutes (default: {_TTL_MINUTES:g})",
    )
    create.add_argument(
        "--prefix", metavar="TEXT", help="what prompts begin with, whose KV every hop keeps"
    )
    create.add_argument("--prefix-file", metavar="FILE", help="the same, out of a file")
    create.add_argument(
        "--prefix-text",
        action="store_true",
        help="the prefix is the beginning of a plain prompt, not a system message",
    )
    add_path_options(create)
    add_demand_options(create)


def _create(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json

    prefix = _prefix(arguments)
    if not 0 < arguments.ttl_minutes <= limits.CIRCUIT_TTL_S_MAX / 60:
        most = limits.CIRCUIT_TTL_S_MAX / 60
        raise UsageError(f"--ttl-minutes is above 0 and at most {most:g}")
    client = _client(arguments)
    asked = demand_of(arguments, client)
    chosen = {"route": arguments.route, "privacy": arguments.privacy}
    body = {
        "model": arguments.model or "",
        "kwaai": asked | {name: value for name, value in chosen.items() if value is not None},
        "ttl_s": 60 * arguments.ttl_minutes,
        "name": arguments.name,
        "prefix": prefix,
        "prefix_kind": "text" if arguments.prefix_text else "system",
    }
    with Spinner("choosing and opening a path"):
        view = client.circuit_create(body)
    if arguments.json:
        print_json(view)
    else:
        _print_circuit(view)
    return 0


def _prefix(arguments: argparse.Namespace) -> str:
    """Return the prefix. Raises UsageError, and UserError for a file that is not text."""
    from kwaai.errors import InputMissing, UserError

    if arguments.prefix is not None and arguments.prefix_file is not None:
        raise UsageError("--prefix and --prefix-file say the same thing; give one")
    if arguments.prefix_file is None:
        if arguments.prefix is None and arguments.prefix_text:
            raise UsageError("--prefix-text says what a prefix is; give --prefix or --prefix-file")
        return arguments.prefix or ""
    try:
        with open(arguments.prefix_file, "rb") as file:
            data = file.read(limits.PROMPT_BYTES_MAX + 1)
    except OSError as error:
        raise InputMissing(f"cannot read {arguments.prefix_file}: {error.strerror}") from None
    if len(data) > limits.PROMPT_BYTES_MAX:
        raise UserError(f"a prefix is longer than {limits.PROMPT_BYTES_MAX} bytes; shorten it")
    try:
        # As a shell's $(cat FILE), which is how it comes into a prompt.
        return data.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{arguments.prefix_file} is not UTF-8 text (byte {error.start})") from None


def _list(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json, print_table

    views = _client(arguments).circuits()
    if arguments.json:
        print_json({"circuits": views})
        return 0
    if not views:
        print("no circuit is open; make one with: kwaainet shard circuit create")
        return 0
    now_s = time.time()
    rows = [
        (
            view["id"],
            one_line(view["name"]) or "-",
            one_line(view["model"]),
            view["state"],
            show_left(view["expires_s"] - now_s),
            str(view["prefix_tokens"]),
            str(view["answers"]),
            str(view["reused"]),
            str(view["reroutes"]),
            one_line(_path_text(view)) or "-",
        )
        for view in views
    ]
    columns = (
        *("Circuit", "Name", "Model", "State", "Left", "Prefix"),
        *("Answers", "Reused", "Rerouted", "Path"),
    )
    print_table(columns, rows, right=columns[4:9])
    for view in views:
        if view["state"] == "broken":
            print(one_line(f"{view['id']} is broken: {view['problem']}"))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json

    view = _client(arguments).circuit_show(arguments.circuit)
    if arguments.json:
        print_json(view)
    else:
        _print_circuit(view)
    return 0


def _close(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json

    view = _client(arguments).circuit_close(arguments.circuit)
    if arguments.json:
        print_json(view)
    else:
        name = f" ({view['name']})" if view["name"] else ""
        print(one_line(f"closed circuit {view['id']}{name}, {_answers(view)}"))
    return 0


def _print_circuit(view: Json) -> None:
    from kwaai.cli.output import one_line, print_pairs

    check_ms = view["check_ms"]
    checked = "not yet" if check_ms is None else f"{view['checks']} times, {check_ms:.1f} ms"
    why = f": {view['problem']}" if view["problem"] else ""
    rerouted = f"{view['reroutes']} times" if view["reroutes"] else "never"
    pairs = [
        ("Circuit", view["id"] + (f" ({view['name']})" if view["name"] else "")),
        ("Model", view["model"]),
        ("State", f"broken{why}" if view["state"] == "broken" else view["state"]),
        ("Path", f"{_path_text(view) or '-'} ({view['route']}, {view['privacy']})"),
        ("Asks", "; ".join(view["asks"]) or "nothing of its peers"),
        ("Prefix", f"{view['prefix_tokens']} tokens" if view["prefix_tokens"] else "none"),
        ("Ends in", show_left(view["expires_s"] - time.time())),
        ("Answers", _answers(view)),
        ("Checked", checked),
        ("Rerouted", rerouted + ("" if view["state"] == "broken" else why)),
    ]
    print_pairs([(name, one_line(value)) for name, value in pairs])


def _answers(view: Json) -> str:
    return (
        f"{view['answers']} answers, {view['reused']} of them without computing "
        f"{view['reused_tokens']} tokens again"
        if view["reused"]
        else f"{view['answers']} answers"
    )


def _path_text(view: Json) -> str:
    return " -> ".join(
        f"{hop['name']} [{hop['layers']['start']},{hop['layers']['stop']})"
        + (f" ({hop['tier']})" if hop["tier"] else "")
        for hop in view["hops"]
    )


def show_left(seconds: float) -> str:
    """Return a span in minutes, or in seconds where it is short: `29 min`."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min"


def _client(arguments: argparse.Namespace) -> ControlClient:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.session import load_settings

    return ControlClient(load_settings(arguments)[0])
