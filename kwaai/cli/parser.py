"""argparse with one-line errors that name the closest thing there is.

Knows no command. Prints nothing but help: errors are raised as UsageError.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeAlias

from kwaai.errors import UserError

Run: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class UsageError(UserError):
    """A command line that means nothing. Exit code 2."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose options are never abbreviated and whose errors are raised."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')} (see: {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            message = f"there is no command {value!r}{hint(str(value), known, self.nested(value))}"
            raise UsageError(f"{message} (see: {self.prog} --help)")
        raise argparse.ArgumentError(
            action, f"{value!r} is not one of {', '.join(known)}{hint(str(value), known)}"
        )

    def nested(self, name: str) -> list[str]:
        """Return the commands one level down that are called `name`, as they are typed."""
        found = []
        for group, parser in self.commands().items():
            found += [f"{group} {name}"] if name in parser.commands() else []
        return found

    def commands(self) -> dict[str, Parser]:
        """Return the commands that this parser hands on to."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return dict(action.choices)
        return {}

    def options(self) -> list[str]:
        """Return every `--option` that this parser knows."""
        return [name for action in self._actions for name in action.option_strings]

    def public_actions(self) -> list[argparse.Action]:
        """Return what this parser accepts itself, in order, without hidden options and commands."""
        return [
            action
            for action in self._actions
            if action.help != argparse.SUPPRESS
            and not isinstance(action, argparse._SubParsersAction)
        ]


def hint(name: str, known: Iterable[str], exact: Sequence[str] = ()) -> str:
    """Return ` - did you mean ...?` for the closest of `known`, or nothing."""
    close = list(exact[:1]) or difflib.get_close_matches(name, list(known), n=1)
    return f" - did you mean {close[0]!r}?" if close else ""


def whole_number(text: str) -> int:
    """Read an option's value. Raises the error that argparse puts the option's name before."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r:.80}") from None


def number(text: str) -> float:
    """Read an option's value. Raises the error that argparse puts the option's name before."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r:.80}")
    return value


def whole_number_in(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number from `least` to `most`."""

    def read(text: str) -> int:
        value = whole_number(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {least} to {most}, not {text:.40}")
        return value

    return read


def positive_number(most: float) -> Callable[[str], float]:
    """Return what reads a number above 0 and up to `most`."""

    def read(text: str) -> float:
        value = number(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(
                f"must be more than 0 and at most {most:.0f}, not {text:.40}"
            )
        return value

    return read


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. Raises UsageError, for an unknown option before a missing one."""
    try:
        namespace, extra = parser.parse_known_args(arguments)
    except UsageError:
        chosen = _chosen(parser, arguments)
        _refuse_unknown_options(chosen, arguments)
        raise
    if extra:
        chosen = getattr(namespace, "parser", parser)
        _refuse_unknown_options(chosen, extra)
        raise UsageError(
            f"unexpected argument {extra[0]!r:.80}; quote an argument that has spaces "
            f"(see: {chosen.prog} --help)"
        )
    return namespace


def _chosen(parser: Parser, arguments: Sequence[str]) -> Parser:
    for argument in arguments:
        if argument.startswith("-"):
            continue
        following = parser.commands().get(argument)
        if following is None:
            break
        parser = following
    return parser


def _refuse_unknown_options(parser: Parser, arguments: Sequence[str]) -> None:
    known = parser.options()
    for argument in arguments:
        if argument == "--":
            return
        name = argument.split("=", 1)[0]
        if not _looks_like_an_option(name) or name in known:
            continue
        dash = "" if name.startswith("--") else "; put -- before text that begins with a dash"
        raise UsageError(
            f"unknown option {name!r:.80}{hint(name, known)}{dash} (see: {parser.prog} --help)"
        )


def _looks_like_an_option(argument: str) -> bool:
    """Say what argparse says: not a number below zero, and no text with spaces."""
    is_number = argument[1:2].isdecimal() and argument[1:].replace(".", "", 1).isdecimal()
    return argument[:1] == "-" and len(argument) > 1 and " " not in argument and not is_number


def add_group(commands: Commands, name: str, *, help: str) -> Commands:
    """Add a command that only has commands of its own; return the place to add those to."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=_needs_a_command, parser=parser)
    return parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)


def add_command(
    commands: Commands, name: str, run: Run, *, help: str, more: str = "", json: bool = True
) -> Parser:
    """Add a command. `help` is its one line; `more` follows it in its own --help."""
    parser = commands.add_parser(name, help=help, description=help, epilog=more or None)
    parser.set_defaults(run=run, parser=parser)
    if json:
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object instead of text"
        )
    add_common_options(parser)
    return parser


def add_common_options(parser: Parser) -> None:
    """Add what every command accepts, before or after its name."""
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        default=argparse.SUPPRESS,
        help="events to write to standard error: debug, info, warning or error",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="write every event, and the traceback of an unexpected error",
    )


def _needs_a_command(arguments: argparse.Namespace) -> int:
    parser: Parser = arguments.parser
    raise UsageError(
        f"{parser.prog} needs a command: {', '.join(parser.commands())} (see: {parser.prog} --help)"
    )
