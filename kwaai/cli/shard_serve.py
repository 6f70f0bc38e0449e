"""`kwaainet shard serve`: have the running node serve layers of a model to others.

Loads nothing itself: the node fetches or cuts the layers, loads them, and announces them.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, UsageError, add_command, whole_number

if TYPE_CHECKING:
    from kwaai.store.home import Home

_MORE = """\
The layers are served until `--off`, or until the node stops. `kwaainet config set serve auto`, or
START:STOP, serves from every start on.

examples:
  kwaainet shard serve --auto
  kwaainet shard serve --model kwaai-demo --start-block 2 --blocks 3
  kwaainet shard serve --off
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "serve", run, help="have the running node serve layers to others", more=_MORE
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a model of `kwaainet models list`; or the node's own"
    )
    parser.add_argument("--start-block", type=whole_number, metavar="N", help="the first layer")
    parser.add_argument("--blocks", type=whole_number, metavar="K", help="how many layers")
    parser.add_argument(
        "--auto",
        action="store_true",
        help="the layers that the swarm lacks most and this machine can hold",
    )
    parser.add_argument(
        "--off",
        action="store_true",
        help="serve these layers (all of the model without --start-block) no longer",
    )


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.output import Spinner, print_json
    from kwaai.cli.session import load_settings
    from kwaai.errors import NodeNotRunning

    start, stop = _range(arguments)
    home, _ = load_settings(arguments)
    client = ControlClient(home)
    model = arguments.model or ""
    with Spinner("asking the node") as spinner:
        try:
            stream = (client.unserve if arguments.off else client.serve)(model, start, stop)
            with contextlib.closing(stream) as events:
                result = _last(events, spinner)
        except NodeNotRunning as error:
            raise _not_running(error, arguments, home, start, stop) from None
    result.pop("event")
    if arguments.json:
        print_json(result)
    else:
        print(_said(result))
    return 0


def _range(arguments: argparse.Namespace) -> tuple[int | None, int | None]:
    start, blocks = arguments.start_block, arguments.blocks
    if arguments.auto and (start is not None or blocks is not None or arguments.off):
        raise UsageError("--auto chooses the layers itself; leave out the other options")
    if start is None and blocks is None:
        if not arguments.auto and not arguments.off:
            raise UsageError("say which layers: --start-block N --blocks K, or --auto")
        return None, None
    if start is None or blocks is None:
        raise UsageError("--start-block and --blocks belong together")
    if start < 0 or blocks < 1:
        raise UsageError("--start-block must be 0 or more, and --blocks 1 or more")
    return start, start + blocks


def _last(events: Iterator[dict[str, Any]], spinner: Any) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for last in events:
        if last["event"] == "note":
            spinner.update(last["text"])
    return last


def _not_running(
    error: Any, arguments: argparse.Namespace, home: Home, start: int | None, stop: int | None
) -> Exception:
    import shlex

    from kwaai.errors import NodeNotRunning

    if arguments.off:
        return NodeNotRunning(f"no node runs in {home.path}: nothing is served")
    model = f" --model {shlex.quote(arguments.model)}" if arguments.model else ""
    layers = "auto" if start is None else f"{start}:{stop}"
    return NodeNotRunning(
        f"no node runs in {home.path}; start one that serves these layers with: "
        f"kwaainet start --daemon{model} --serve {layers}"
    )


def _said(result: dict[str, Any]) -> str:
    from kwaai.cli.output import one_line
    from kwaai.cli.shard_chain import show_range

    if "ranges" in result:
        ranges = ", ".join(show_range(layers) for layers in result["ranges"])
        return f"no longer served: {ranges}" if ranges else "nothing was served"
    layers = show_range(result["layers"])
    text = f"serving {layers} of {result['model']}: {result['state']}, {result['backend']}"
    if result["decode_s"] > 0:
        text += f", {result['decode_s'] * 1000:.2f} ms a token"
    return one_line(text)
