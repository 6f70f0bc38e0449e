"""`kwaainet vpk bench`: sealed search beside plain search, in one run; what reads leak; retrieval.

Parses the flags and prints the report; the measuring is `kwaai.node.bench_vpk`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, UsageError, add_command, number, whole_number

if TYPE_CHECKING:
    from kwaai.config import Config
    from kwaai.node.bench_vpk import VpkBenchOptions
    from kwaai.store.home import Home

_MORE = """\
Vectors are made up, unless --data gives a file: .npz with arrays `vectors` and `queries`, or .npy,
whose last rows are the queries. Plain search is faiss, and chroma where it is installed. Without
--eves three arrangements are measured: this machine's own store, one eve near, four at 25 ms.

--leakage also tells how many of the records that were read together are truly similar, as the host
that saw most could say. --million takes ten times as many vectors.

--collection measures how well hybrid search finds what a test collection calls relevant, plain and
sealed, with the embedder of this node: a folder with corpus.jsonl, queries.jsonl and qrels.tsv, the
form of BEIR's collections.

examples:
  kwaainet vpk bench
  kwaainet vpk bench --eves 4 --delay-ms 25 --leakage
  kwaainet vpk bench --data embeddings.npz --json
  kwaainet vpk bench --collection scifact
"""
_NUMBERS = (
    ("--vectors", "N", "how many (default: 100000)"),
    ("--dim", "D", "their dimension (default: 384)"),
    ("--queries", "N", "how many (default: 500)"),
    ("--eves", "K", "hosts, each a process of its own; 0: this machine's own store"),
    ("--replicas", "N", "hosts that have each record (default: 1)"),
    ("--candidates", "R", "records fetched for a query (default: 100)"),
)


def add_bench(group: Commands) -> None:
    """Add `bench` to the commands of `vpk`."""
    parser = add_command(
        group, "bench", _run, help="measure sealed search beside plain search", more=_MORE
    )
    for flag, metavar, text in _NUMBERS:
        parser.add_argument(flag, type=whole_number, metavar=metavar, help=text)
    parser.add_argument(
        "--delay-ms", type=number, metavar="D", help="with --eves: of a round trip (default: 0)"
    )
    parser.add_argument("--data", metavar="FILE", help="vectors and queries (default: made up)")
    parser.add_argument("--leakage", action="store_true", help="tell what reads leak")
    parser.add_argument("--million", action="store_true", help="ten times as many vectors")
    parser.add_argument("--no-plain", action="store_true", help="leave plain search out")
    parser.add_argument("--collection", metavar="DIR", help="measure retrieval with a collection")


def _run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.session import open_home, run_async

    _check(arguments)
    home, config = open_home(arguments)
    return run_async(_measure(arguments, home, config))


def _check(arguments: argparse.Namespace) -> None:
    if arguments.delay_ms is not None and not arguments.eves:
        raise UsageError("--delay-ms goes with --eves: how far away they are")
    if arguments.replicas is not None and not arguments.eves:
        raise UsageError("--replicas goes with --eves")
    if arguments.data and arguments.dim is not None:
        raise UsageError("--dim goes with vectors that are made up, not with --data")
    if arguments.collection:
        names = ("vectors", "dim", "queries", "eves", "replicas", "delay_ms", "data")
        given = [name for name in names if getattr(arguments, name) is not None]
        given += [name for name in ("leakage", "million", "no_plain") if getattr(arguments, name)]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} does not go with --collection")


async def _measure(arguments: argparse.Namespace, home: Home, config: Config) -> int:
    from kwaai.cli.bench import print_report
    from kwaai.cli.output import Spinner, print_json

    with Spinner("measuring") as spinner:
        if arguments.collection:
            from kwaai.node.bench_vpk_collection import run_collection_bench

            folder = Path(arguments.collection)
            report = await run_collection_bench(
                config, home, folder, arguments.candidates, spinner.update
            )
        else:
            from kwaai.node.bench_vpk import run_vpk_bench

            report = await run_vpk_bench(home, _options(arguments), spinner.update)
    if arguments.json:
        print_json(report)
    else:
        print_report(report)
    return 0


def _options(arguments: argparse.Namespace) -> VpkBenchOptions:
    from kwaai.node.bench_vpk import VpkBenchOptions

    given: dict[str, Any] = {
        "vectors": arguments.vectors,
        "dimension": arguments.dim,
        "queries": arguments.queries,
        "eves": arguments.eves,
        "delay_ms": arguments.delay_ms,
        "replicas": arguments.replicas,
        "candidates": arguments.candidates,
        "data": Path(arguments.data) if arguments.data else None,
    }
    return VpkBenchOptions(
        **{name: value for name, value in given.items() if value is not None},
        leakage=arguments.leakage,
        million=arguments.million,
        plain=not arguments.no_plain,
    )
