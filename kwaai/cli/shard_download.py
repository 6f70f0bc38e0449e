"""`kwaainet shard download MODEL`: fetch a model, or some of its layers, from a hub.

Draws the progress; the transfer is `kwaai.models.download`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kwaai.cli.parser import Commands, UsageError, add_command, whole_number

if TYPE_CHECKING:
    from kwaai.types import LayerRange

_MORE = """\
MODEL is owner/model, owner/model:QUANTISATION or owner/model/file.gguf, each with @revision
if you like. An interrupted download is continued by the same command.

environment: HF_ENDPOINT, HF_TOKEN, HF_HOME, as other programs of the hub use them.

examples:
  kwaainet shard download Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0
  kwaainet shard download Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 --start-block 8 --blocks 4
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "download", run, help="fetch a model, or some of its layers", more=_MORE
    )
    parser.add_argument("model", metavar="MODEL", help="the model on the hub")
    parser.add_argument(
        "--start-block", type=whole_number, metavar="N", help="the first layer (default: 0)"
    )
    parser.add_argument("--blocks", type=whole_number, metavar="M", help="fetch only M layers")
    parser.add_argument(
        "--head", action="store_true", help="with the last layers: the model's output head too"
    )
    parser.add_argument(
        "--embedding", action="store_true", help="the embedding, alone or beside the layers"
    )


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import download_report, note, print_json, show_bytes
    from kwaai.cli.session import open_home
    from kwaai.models.download import download_model

    layers = _layers(arguments.start_block, arguments.blocks)
    spec = arguments.model
    del arguments.model  # of the hub: not the setting of that name
    home, _ = open_home(arguments)
    try:
        with download_report() as report:
            done = download_model(
                spec,
                home.models,
                layers=layers,
                head=arguments.head,
                embedding=arguments.embedding,
                progress=report,
            )
    except KeyboardInterrupt:
        note("interrupted; the same command continues where this one ended")
        raise
    if arguments.json:
        print_json(
            {
                "paths": [str(path) for path in done.paths],
                "fetched_bytes": done.fetched_bytes,
                "resumed_bytes": done.resumed_bytes,
                "verified": done.verified,
                "handle": done.handle,
            }
        )
        return 0
    for path in done.paths:
        print(path)
    before = f", {show_bytes(done.resumed_bytes)} were here" if done.resumed_bytes else ""
    note(f"fetched {show_bytes(done.fetched_bytes)}{before}; verified: {done.verified}")
    if layers is None and not arguments.embedding:
        path = done.paths[0]
        repository = path.parent.name.replace("--", "/", 1)
        note(f"use it: kwaainet config set model {repository}/{path.name}")
    else:
        note("`kwaainet models list` shows which ranges are held")
    return 0


def _layers(start: int | None, count: int | None) -> LayerRange | None:
    from kwaai.types import LayerRange

    if count is None:
        if start is not None:
            raise UsageError("--start-block needs --blocks: how many layers to fetch")
        return None
    if count < 1 or (start or 0) < 0:
        raise UsageError("--blocks must be at least 1, and --start-block at least 0")
    return LayerRange(start or 0, (start or 0) + count)
