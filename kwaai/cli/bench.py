"""`kwaainet bench`: the whole model in stock llama.cpp against a chain of slices, in one run.

Parses the flags and prints the report; the measuring is `kwaai.node.bench`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from kwaai.cli.parser import Commands, UsageError, add_command, whole_number

_MORE = """\
Both are measured in turns in one run, so that their ratio means something on a busy machine.
--shape measures a model of a real model's shape with random weights: nothing is downloaded.

examples:
  kwaainet bench
  kwaainet bench --shape qwen2.5-0.5b --quant Q8_0 --slices 4
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "bench", run, help="measure a chain of slices against stock llama.cpp", more=_MORE
    )
    parser.add_argument("--model", metavar="NAME", help="a model of `kwaainet models list`")
    parser.add_argument("--shape", metavar="NAME", help="random weights of a real model's shape")
    parser.add_argument("--quant", metavar="TYPE", help="with --shape: Q8_0 (default), Q4_0, F16")
    parser.add_argument(
        "--slices",
        type=whole_number,
        default=4,
        metavar="K",
        help="slices of the chain (default: 4)",
    )
    parser.add_argument(
        "--prompt-tokens",
        type=whole_number,
        default=512,
        metavar="N",
        help="to prefill (default: 512)",
    )
    parser.add_argument(
        "--tokens", type=whole_number, default=64, metavar="N", help="to decode (default: 64)"
    )
    parser.add_argument(
        "--repeat", type=whole_number, default=3, metavar="N", help="rounds (default: 3)"
    )
    parser.add_argument("--no-api", action="store_true", help="leave the HTTP API out")


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json
    from kwaai.cli.session import open_home, run_async

    if arguments.model and arguments.shape:
        raise UsageError("--model and --shape exclude each other: one model is measured")
    from kwaai.api.bench import measure_api
    from kwaai.node.bench import BenchOptions, run_bench

    home, config = open_home(arguments)
    options = BenchOptions(
        model=None if arguments.shape else config.model,
        shape=arguments.shape,
        quantisation=arguments.quant or "Q8_0",
        slices=arguments.slices,
        prompt_tokens=arguments.prompt_tokens,
        tokens=arguments.tokens,
        repeat=arguments.repeat,
    )

    async def measure() -> int:
        with Spinner("measuring") as spinner:
            report = await run_bench(
                config, home, options, None if arguments.no_api else measure_api, spinner.update
            )
        if arguments.json:
            print_json(report.to_json())
        else:
            print_report(report.to_json())
        return 0

    return run_async(measure())


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
