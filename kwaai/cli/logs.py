"""`kwaainet logs`: the end of the node's log, and what comes."""

from __future__ import annotations

import argparse
import sys

from kwaai.cli.parser import Commands, UsageError, add_command, whole_number

_LINES_DEFAULT = 50


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "logs",
        run,
        help="print the end of the node's log",
        more="A full log is begun anew and one older file is kept; -f goes on in the new one.",
        json=False,
    )
    parser.add_argument(
        *("-n", "--lines"),
        type=whole_number,
        default=_LINES_DEFAULT,
        metavar="N",
        help=f"how many lines (default: {_LINES_DEFAULT})",
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="print what comes, until Ctrl-C"
    )


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note
    from kwaai.errors import UserError
    from kwaai.limits import LOG_LINES_MAX
    from kwaai.node.logfile import follow, last_lines
    from kwaai.store.home import Home, kwaai_home

    if not 0 <= arguments.lines <= LOG_LINES_MAX:
        raise UsageError(f"--lines must be 0 to {LOG_LINES_MAX}, not {arguments.lines}")
    path = Home(kwaai_home()).log_file
    try:
        lines = last_lines(path, arguments.lines)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    for line in lines:
        print(_shown(line))
    if not lines and not path.exists():
        note(f"there is no log yet at {path}")
    if arguments.follow:
        sys.stdout.flush()
        for piece in follow(path):
            sys.stdout.write(_shown(piece))
            sys.stdout.flush()
    return 0


def _shown(text: str) -> str:
    from kwaai.cli.output import is_terminal, safe_for_terminal

    return safe_for_terminal(text) if is_terminal(sys.stdout) else text
