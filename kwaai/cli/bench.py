"""`kwaainet bench`: the whole model in stock llama.cpp against a chain of slices, in one run; or
credentials; or the trust graph.

Parses the flags and prints the report; the measuring is `kwaai.node.bench`, `bench_swarm` for node
processes, `bench_credentials` for credentials, `bench_trust` for the trust graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, UsageError, add_command, number, whole_number

if TYPE_CHECKING:
    from kwaai.api.bench import HttpAnswer
    from kwaai.config import Config
    from kwaai.node.bench import BenchReport, Say
    from kwaai.store.home import Home

_MORE = """\
Both are measured in turns in one run, so that their ratio means something on a busy machine.
--shape measures a model of a real model's shape with random weights: nothing is downloaded.
--swarm measures node processes with links between them instead of a chain in one node: what a hop
costs, several requests at once, peers that are far away, and nodes that nobody asks.

`credentials` measures signing, verifying and searching, each beside one bare Ed25519 signature.
`trust` measures how long scores of the trust graph take, what attacks on it buy, and how well it
foretells ratings; --graph takes ratings of a real network, in lines of who,whom,how much,when.

examples:
  kwaainet bench
  kwaainet bench credentials
  kwaainet bench trust --graph soc-sign-bitcoinalpha.csv
  kwaainet bench --shape qwen2.5-0.5b --quant Q8_0 --slices 4
  kwaainet bench --swarm --shape qwen2.5-0.5b --nodes 4
"""
_SLICES, _NODES, _PROMPT_TOKENS, _TOKENS, _REPEAT = 4, 4, 512, 64, 3


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "bench",
        run,
        help="measure a chain of slices, or of nodes, against stock llama.cpp; credentials; trust",
        more=_MORE,
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("model", "credentials", "trust"),
        default="model",
        metavar="WHAT",
        help="model (default), credentials or trust",
    )
    parser.add_argument("--model", metavar="NAME", help="a model of `kwaainet models list`")
    parser.add_argument("--shape", metavar="NAME", help="random weights of a real model's shape")
    parser.add_argument("--quant", metavar="TYPE", help="with --shape: Q8_0 (default), Q4_0, F16")
    numbers = (
        ("--slices", "K", f"slices of the chain (default: {_SLICES})"),
        ("--nodes", "N", f"with --swarm: nodes (default: {_NODES})"),
        ("--prompt-tokens", "N", f"to prefill (default: {_PROMPT_TOKENS})"),
        ("--tokens", "N", f"to decode (default: {_TOKENS})"),
        ("--repeat", "N", f"rounds (default: {_REPEAT})"),
    )
    for flag, metavar, text in numbers:
        parser.add_argument(flag, type=whole_number, metavar=metavar, help=text)
    parser.add_argument(
        "--seconds", type=number, metavar="S", help="with credentials: for each figure (default: 2)"
    )
    parser.add_argument(
        "--wallet",
        type=whole_number,
        metavar="N",
        help="with credentials: how many to search (default: 100000)",
    )
    parser.add_argument("--graph", metavar="FILE", help="with trust: ratings (default: made up)")
    parser.add_argument(
        "--edges",
        type=whole_number,
        metavar="N",
        help="with trust: time a graph of so many (default: 100000 and 1000000)",
    )
    parser.add_argument("--no-api", action="store_true", help="leave the HTTP API out")
    parser.add_argument("--swarm", action="store_true", help="measure nodes with links")
    parser.add_argument(
        "--quick", action="store_true", help="with --swarm: a few tokens of everything"
    )


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.what == "credentials":
        return _measure_credentials(arguments)
    if arguments.what == "trust":
        return _measure_trust(arguments)
    from kwaai.cli.session import open_home, run_async

    home, config = open_home(arguments)
    return run_async(_measure(arguments, home, config))


def _measure_credentials(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json
    from kwaai.node.bench_credentials import CredentialBenchOptions, run_credential_bench

    given = {"seconds": arguments.seconds, "wallet": arguments.wallet}
    options = CredentialBenchOptions(**{k: v for k, v in given.items() if v is not None})
    with Spinner("measuring") as spinner:
        report = run_credential_bench(options, spinner.update)
    if arguments.json:
        print_json(report)
    else:
        print_report(report)
    return 0


def _measure_trust(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json
    from kwaai.node.bench_trust import TrustBenchOptions, run_trust_bench

    graph = None if arguments.graph is None else Path(arguments.graph)
    options = TrustBenchOptions(graph)
    if arguments.edges is not None:
        options = TrustBenchOptions(graph, edges=(arguments.edges,))
    with Spinner("measuring") as spinner:
        report = run_trust_bench(options, spinner.update)
    if arguments.json:
        print_json(report)
    else:
        print_report(report)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    of_models = ("model", "shape", "quant", "slices", "nodes", "prompt_tokens", "tokens", "repeat")
    what = arguments.what
    if what != "model":
        for name in of_models:
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} goes with models, not {what}")
        if arguments.swarm or arguments.no_api or arguments.quick:
            raise UsageError(f"--swarm, --no-api and --quick go with models, not {what}")
    if what != "credentials" and (arguments.seconds is not None or arguments.wallet is not None):
        raise UsageError("--seconds and --wallet go with: kwaainet bench credentials")
    if what != "trust" and (arguments.graph is not None or arguments.edges is not None):
        raise UsageError("--graph and --edges go with: kwaainet bench trust")
    if arguments.model and arguments.shape:
        raise UsageError("--model and --shape exclude each other: one model is measured")
    if arguments.swarm and (arguments.slices is not None or arguments.no_api):
        raise UsageError("--swarm takes --nodes, and always asks through the API")
    if not arguments.swarm and (arguments.nodes is not None or arguments.quick):
        raise UsageError("--nodes and --quick go with --swarm")
    sizes = (arguments.prompt_tokens, arguments.tokens, arguments.repeat)
    if arguments.quick and any(size is not None for size in sizes):
        raise UsageError("--quick chooses --prompt-tokens, --tokens and --repeat itself")


async def _measure(arguments: argparse.Namespace, home: Home, config: Config) -> int:
    from kwaai.cli.output import Spinner, print_json

    measure = _measure_swarm if arguments.swarm else _measure_chain
    with Spinner("measuring") as spinner:
        report = await measure(arguments, home, config, spinner.update)
    if arguments.json:
        print_json(report.to_json())
    else:
        print_report(report.to_json())
    return 0


async def _measure_chain(
    arguments: argparse.Namespace, home: Home, config: Config, say: Say
) -> BenchReport:
    from kwaai.api.bench import measure_api
    from kwaai.node.bench import BenchOptions, run_bench

    options = BenchOptions(
        model=None if arguments.shape else config.model,
        shape=arguments.shape,
        quantisation=arguments.quant or "Q8_0",
        slices=_or(arguments.slices, _SLICES),
        prompt_tokens=_or(arguments.prompt_tokens, _PROMPT_TOKENS),
        tokens=_or(arguments.tokens, _TOKENS),
        repeat=_or(arguments.repeat, _REPEAT),
    )
    return await run_bench(config, home, options, None if arguments.no_api else measure_api, say)


async def _measure_swarm(
    arguments: argparse.Namespace, home: Home, config: Config, say: Say
) -> BenchReport:
    from kwaai.node.bench_swarm import SwarmBenchOptions, quick, run_swarm_bench

    options = SwarmBenchOptions(
        model=None if arguments.shape else config.model,
        shape=arguments.shape,
        quantisation=arguments.quant or "Q8_0",
        nodes=_or(arguments.nodes, _NODES),
        prompt_tokens=_or(arguments.prompt_tokens, _PROMPT_TOKENS),
        tokens=_or(arguments.tokens, _TOKENS),
        repeat=_or(arguments.repeat, _REPEAT),
    )
    if arguments.quick:
        options = quick(options)
    return await run_swarm_bench(config, home, options, _Faces(), say)


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


class _Faces:
    """Asks nodes as other programs do: see `kwaai.node.bench_swarm`."""

    async def complete(
        self,
        url: str,
        model: str,
        prompt: tuple[int, ...],
        tokens: int,
        logit_bias: Mapping[str, float],
    ) -> HttpAnswer:
        from kwaai.api.bench import complete

        return await complete(url, model, prompt, tokens, logit_bias)

    def answer(self, home: Home, chat: Mapping[str, Any]) -> Mapping[str, Any]:
        from kwaai.cli.control import ControlClient

        *_, finished = ControlClient(home).answer(dict(chat), route="split", privacy=None)
        return finished


def print_report(report: Mapping[str, object], title: str = "") -> None:
    """Print a report's figures: single values as lines, lists of objects as tables."""
    from kwaai.cli.output import print_pairs, print_table

    if title:
        print(f"\n{label(title)}")
    single = {k: v for k, v in report.items() if not isinstance(v, (Mapping, list))}
    print_pairs([(label(name), figure(value)) for name, value in single.items()])
    for name, value in report.items():
        if isinstance(value, Mapping):
            print_report(value, name)
        elif isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
            columns = list(dict.fromkeys(key for row in value for key in row))
            rows = [[figure(row.get(key)) for key in columns] for row in value]
            print(f"\n{label(name)}")
            print_table([label(c) for c in columns], rows, right=[label(c) for c in columns[1:]])
        elif isinstance(value, list):
            print_pairs([(label(name), ", ".join(figure(item) for item in value))])


def label(name: str) -> str:
    """Return `decode_tokens_s` as `decode tokens/s`, `hop_ms_p50` as `hop ms p50`."""
    return name.replace("tokens_s", "tokens/s").replace("_", " ")


def figure(value: object) -> str:
    """Return a figure with as many digits as it is worth."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"
    return str(value)
