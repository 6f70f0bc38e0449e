"""`kwaainet start`: the node of this home, in this terminal or apart from it.

Puts the node's parts together with its faces (the API, the control socket): the one place where
`kwaai.node` and `kwaai.api` meet. Reads signals; decides nothing about the network.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, Parser, add_command

if TYPE_CHECKING:
    from kwaai.config import Config
    from kwaai.node.daemon import Reporter
    from kwaai.node.node import Node
    from kwaai.store.home import Home

_MORE = """\
Without --daemon the node runs in this terminal: Ctrl-C (or SIGTERM) lets answers under way end,
a second one ends at once. With --daemon it runs on after the terminal is closed; `kwaainet status`,
`kwaainet logs` and `kwaainet stop` are for it. Flags win over config.yaml; they are not kept.

examples:
  kwaainet start --daemon
  kwaainet start --serve auto --bootstrap /ip4/192.0.2.7/tcp/8080/p2p/12D3KooW...
  kwaainet start --daemon --serve 8:16 --model Qwen/Qwen2.5-0.5B-Instruct-GGUF
"""

# flag (the last one is how a child is told), key, metavar, help
_OPTIONS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("--model",), "model", "NAME", "a model of `kwaainet models list`"),
    (("--serve",), "serve", "RANGE", "layers to run for others: START:STOP, auto or none"),
    (("--port",), "port", "PORT", "the port on which others find this node; 0: a free one"),
    (("--link-port",), "link_port", "PORT", "the port for encrypted links; 0: a free one"),
    (("--listen-host",), "listen_host", "ADDRESS", "the address on which both listen"),
    (
        ("--bootstrap", "--bootstrap-peers"),
        "bootstrap_peers",
        "ADDRESSES",
        "nodes to connect to first, with commas between them",
    ),
    (("--route",), "route", "ROUTE", "who answers prompts here: auto, alone, peer or split"),
    (("--privacy",), "privacy", "MODE", "private: nobody else sees text; fast: the last peer may"),
    (("--name", "--public-name"), "public_name", "NAME", "what this node calls itself"),
    (("--api-host",), "api_host", "ADDRESS", "the address of the API"),
    (("--api-port",), "api_port", "PORT", "the port of the API; 0: a free one"),
    (("--api-key-file",), "api_key_file", "PATH", "the file with the key for API requests"),
    (("--max-sessions",), "max_sessions", "N", "answers that are made at the same time"),
    (("--context", "--context-tokens"), "context_tokens", "N", "tokens of prompt and answer"),
    (("--threads",), "threads", "N", "CPU threads for the model"),
)


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "start", run, help="run this node", more=_MORE)
    add_node_options(parser)
    parser.add_argument(
        "--daemon", action="store_true", help="run apart from this terminal; return when it is up"
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)


def add_node_options(parser: Parser) -> None:
    """Add the flags of a node's settings."""
    for names, key, metavar, text in _OPTIONS:
        parser.add_argument(*names, dest=key, metavar=metavar, help=text)
    parser.add_argument(
        "--no-mdns",
        dest="mdns",
        action="store_const",
        const="false",
        help="do not look for nodes on the local network",
    )


def node_arguments(arguments: argparse.Namespace) -> list[str]:
    """Return the flags that were given, as a child of this program reads them."""
    from pathlib import Path

    given = []
    for names, key, _, _ in _OPTIONS:
        value = getattr(arguments, key, None)
        if value is None:
            continue
        if key == "api_key_file" or (key == "model" and value.endswith(".gguf")):
            value = str(Path(value).expanduser().absolute())  # the child has another directory
        given.append(f"{names[-1]}={value}")
    if getattr(arguments, "mdns", None) is not None:
        given.append("--no-mdns")
    if getattr(arguments, "log_level", None) is not None:
        given.append(f"--log-level={arguments.log_level}")
    return [*given, "--debug"] if getattr(arguments, "debug", False) else given


def run(arguments: argparse.Namespace) -> int:
    from kwaai.api.auth import check_bind
    from kwaai.cli.session import open_home
    from kwaai.store.secret_file import read_api_key

    home, config = open_home(arguments)
    api_key = read_api_key(config.api_key_file) if config.api_key_file else None
    check_bind(config.api_host, api_key)
    check_typed(arguments, home, config)
    if arguments.daemon:
        show_started(start_daemon(home, node_arguments(arguments)), as_json=arguments.json)
        return 0
    return _run_here(arguments, home, config, api_key)


def check_typed(arguments: argparse.Namespace, home: Home, config: Config) -> None:
    """Refuse a model or layers of this command line that cannot be. What is in the settings is for
    the running node to say, which goes on without.

    Raises ModelNotFound, UserError, FileCorrupt, ModelUnsupported.
    """
    if getattr(arguments, "ready_fd", None) is not None:
        return  # whoever started us has looked
    if arguments.model is None and arguments.serve is None:
        return
    from kwaai.errors import UserError
    from kwaai.models.library import Library
    from kwaai.node.serving import check_range
    from kwaai.types import LayerRange

    entry = Library(home.models).find(config.model)
    start, _, stop = config.serve.partition(":")
    if stop and arguments.serve is not None:
        layers = LayerRange(int(start), int(stop))
        try:
            check_range(entry.name, entry.layers.stop, layers)
        except UserError as error:
            raise UserError(f"--serve {config.serve}: {error.message}", param="serve") from None


def start_daemon(home: Home, arguments: list[str]) -> dict[str, Any]:
    """Start the node apart from this terminal, saying what it does; return its report."""
    from kwaai.cli.output import Spinner
    from kwaai.node.daemon import spawn

    with Spinner("starting the node") as spinner:
        return spawn(home, arguments, say=spinner.update)


def show_started(report: dict[str, Any], *, as_json: bool) -> None:
    """Print what a node that is up reports."""
    from kwaai.cli.output import note, one_line, print_json, print_pairs

    if as_json:
        print_json(report)
    else:
        print_pairs(
            [
                ("Node", one_line(f"{report['name']} ({report['peer']})")),
                ("Process", str(report["pid"])),
                *(("Address", one_line(address)) for address in report["listen"]),
                *(("Links", one_line(address)) for address in report["links"]),
                ("API", str(report["api"])),
                ("Serves", one_line(str(report["serves"]))),
            ]
        )
        print(f"ready in {report['elapsed_s']:.1f} s")
        for problem in report.get("problems", ()):
            note(one_line(f"note: {problem['service']}: {problem['problem']}"))
    sys.stdout.flush()


def _run_here(
    arguments: argparse.Namespace, home: Home, config: Config, api_key: str | None
) -> int:
    import asyncio

    from kwaai.errors import KwaaiError
    from kwaai.node.daemon import Reporter, claim

    # Read by numpy's libraries when they are loaded: one thread is enough for what a node
    # multiplies, others would spin. Workers have their own (`kwaai.inference.environment`).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    reporter = Reporter(arguments.ready_fd)
    is_daemon = arguments.ready_fd is not None
    try:
        with claim(home):
            _log_to_file(arguments, home, config, is_daemon)
            return asyncio.run(_live(arguments, home, config, api_key, reporter))
    except KwaaiError as error:
        reporter.failed(error)
        raise
    finally:
        reporter.close()


def _log_to_file(
    arguments: argparse.Namespace, home: Home, config: Config, is_daemon: bool
) -> None:
    from kwaai.log import configure_logging
    from kwaai.node.logfile import LogFile

    file = LogFile(home.log_file, is_output=is_daemon)
    level = "debug" if getattr(arguments, "debug", False) else config.log_level
    if not is_daemon:
        configure_logging(level, file=file)
        return
    configure_logging(level if level in ("debug", "info") else "info", stream=file)


async def _live(
    arguments: argparse.Namespace,
    home: Home,
    config: Config,
    api_key: str | None,
    reporter: Reporter,
) -> int:
    """Run the node until a signal, or `kwaainet stop`, has ended it."""
    import asyncio
    import signal
    import time

    import psutil

    from kwaai.node.node import Node

    node = Node(config, home)
    _add_faces(node, home, config, api_key)
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: its terminal has gone
    for number in signals:
        loop.add_signal_handler(number, node.on_signal)
    try:
        reporter.say("starting the network")
        await node.start()
        elapsed_s = time.time() - psutil.Process().create_time()
        report = {**node.report(), "elapsed_s": round(elapsed_s, 3)}
        reporter.ready(report)
        if arguments.ready_fd is None:
            show_started(report, as_json=arguments.json)
        await node.wait_stopped()
    finally:
        await node.close()
        for number in signals:
            loop.remove_signal_handler(number)
    if arguments.ready_fd is None and not arguments.json:
        print("stopped", flush=True)
    return 0


def _add_faces(node: Node, home: Home, config: Config, api_key: str | None) -> None:
    """Add the two ways in: the API for clients, the control socket for the owner's programs."""
    import asyncio

    from kwaai.api.app import create_app
    from kwaai.api.control import control_listening
    from kwaai.api.server import listening
    from kwaai.node.services import Ready
    from kwaai.store.unix_socket import control_socket

    async def api(ready: Ready) -> None:
        app = create_app(
            node.generator,
            api_key=api_key,
            office=node.office,
            trust=lambda: node.trust,
            knowledge=lambda: node.knowledge,
            embedders=lambda: node.embedders,
        )
        async with listening(app, config.api_host, config.api_port) as (host, port):
            shown = f"[{host}]" if ":" in host else host
            node.api_address = f"http://{shown}:{port}/v1"
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                node.api_address = None

    async def control(ready: Ready) -> None:
        async with control_listening(node, control_socket(home)):
            ready()
            await asyncio.get_running_loop().create_future()

    node.services.add("api", api, required=True, stop_timeout_s=node.api_stop_timeout_s)
    node.services.add("control", control, required=True)
