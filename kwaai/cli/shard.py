"""`kwaainet shard`: run, serve, fetch, inspect layer ranges of a model; a file for each command."""

from __future__ import annotations

from kwaai.cli import (
    shard_chain,
    shard_circuit,
    shard_download,
    shard_run,
    shard_serve,
    shard_status,
)
from kwaai.cli.parser import Commands, add_group


def add_parser(commands: Commands) -> None:
    group = add_group(
        commands, "shard", help="run, serve, fetch and inspect layer ranges of a model"
    )
    for module in (
        *(shard_run, shard_circuit, shard_serve),
        *(shard_chain, shard_download, shard_status),
    ):
        module.add_parser(group)
