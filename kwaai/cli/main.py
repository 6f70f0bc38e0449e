"""The entry of `kwaainet`: finds the command, runs it, turns errors into one line and an exit code.

Imports nothing heavy, so that `kwaainet --help` is instant: a command imports what it needs when
it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from kwaai import __version__
from kwaai.cli import (
    bench,
    config,
    credential,
    identity,
    intent,
    logs,
    models,
    node,
    p2p,
    rag,
    reputation,
    serve,
    service,
    setup,
    shard,
    start,
    storage,
    swarm,
    trust,
    vpk,
)
from kwaai.cli.parser import Parser, UsageError, add_command, add_common_options, hint, parse
from kwaai.errors import CredentialRefused, DiskFull, KwaaiError

EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_IMPORT_LOOK_S = 0.02

_COMMANDS = (
    *(setup, start, node, logs, service),
    *(shard, swarm, p2p, models, serve),
    *(rag, vpk, storage),
    *(config, identity, credential, trust, reputation, intent, bench),
)

_DESCRIPTION = "One node of a decentralised AI network: models cut into layer ranges, run by many."
_EPILOG = """\
first steps:
  kwaainet setup
  kwaainet shard run "What is the capital of France?"
  kwaainet start --daemon
  kwaainet status

environment:
  KWAAINET_HOME    the node's files (default: ~/.kwaainet)
  KWAAINET_<KEY>   any key of `kwaainet config show`, for example KWAAINET_MODEL
  NO_COLOR         no colours
  KWAAINET_PASSPHRASE, or KWAAINET_PASSPHRASE_FILE that names a file: of a sealed identity key
"""


def build_parser() -> Parser:
    """Return the parser of every command."""
    parser = Parser(prog="kwaainet", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"kwaainet {__version__}")
    add_common_options(parser)
    parser.set_defaults(run=_no_command, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)
    for module in _COMMANDS:
        module.add_parser(commands)
    helper = add_command(commands, "help", _help, help="show the help of a command", json=False)
    helper.add_argument("topic", nargs="*", metavar="COMMAND", help="such as: shard run")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (the process's own by default) and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with _imports_uninterrupted():
            code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # what was written so far is no prompt's line
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()  # whoever read it has gone
        return EXIT_BROKEN_PIPE
    except OSError as error:
        _discard_output()
        print(f"kwaainet: error: cannot write the output: {error.strerror}", file=sys.stderr)
        return DiskFull.exit_code
    return code


def _open_closed_streams() -> None:
    """Write to nowhere what would go to a standard output or error that the caller closed."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


@contextlib.contextmanager
def _imports_uninterrupted() -> Iterator[None]:
    """Have Ctrl-C wait for the end of an import: modules in other languages that are interrupted in
    theirs abort with a traceback of their own.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # not a program of its own, or one that ignores Ctrl-C
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        at = frame
        while at is not None:
            if at.f_code.co_filename == "<frozen importlib._bootstrap>":
                again = threading.Timer(_IMPORT_LOOK_S, os.kill, (os.getpid(), signal.SIGINT))
                again.daemon = True
                again.start()
                return
            at = at.f_back
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _discard_output() -> None:
    """Keep the interpreter from flushing again at exit what standard output did not take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    as_json = "--json" in arguments
    namespace = argparse.Namespace()
    try:
        namespace = parse(build_parser(), arguments)
        as_json = getattr(namespace, "json", False)
        code: int = namespace.run(namespace)
        return code
    except SystemExit as done:  # argparse, after --help and --version
        return done.code if isinstance(done.code, int) else EXIT_USAGE
    except CredentialRefused as error:
        finding = {"reason": error.reason, "problem": error.problem}
        return _fail(error.code, error.message, error.exit_code, as_json, **finding)
    except KwaaiError as error:
        return _fail(error.code, error.message, error.exit_code, as_json)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:  # the program's boundary: everything else is a defect of ours
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # standard output's: commands word what befalls their files themselves
        from kwaai.cli.crash import report_crash

        debug = bool(getattr(namespace, "debug", False))
        return _fail("internal_error", report_crash(error, debug=debug), EXIT_INTERNAL, as_json)


def _fail(code: str, message: str, exit_code: int, as_json: bool, **more: str) -> int:
    from kwaai.cli.output import one_line, print_json

    message = one_line(message)
    if as_json:
        print_json({"error": {"code": code, "message": message, **more}})
    sys.stdout.flush()
    print(f"kwaainet: error: {message}", file=sys.stderr)
    return exit_code


def _no_command(arguments: argparse.Namespace) -> int:
    arguments.parser.print_help(sys.stderr)
    return EXIT_USAGE


def _help(arguments: argparse.Namespace) -> int:
    parser = build_parser()
    for word in arguments.topic:
        following = parser.commands().get(word)
        if following is None:
            near = hint(word, parser.commands(), parser.nested(word))
            raise UsageError(f"there is no command {word!r:.80}{near} (see: kwaainet --help)")
        parser = following
    parser.print_help()
    return 0
