"""`kwaainet models list`, `models manifest` and `models prune`: what this disk holds, what it is by
content, and how to hold less of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kwaai.cli.parser import Commands, add_command, add_group

if TYPE_CHECKING:
    from kwaai.models.library import Library, ModelEntry, Part
    from kwaai.types import LayerRange

_HANDLE_SHOWN = 19
"""Characters of a handle in a table: `sha256:` and 12 digits."""
_PRUNE_MORE = """\
Slices are cut from a whole model when a chain first needs them, and are cut again when they are
needed again. Models, parts that were downloaded, and downloads that can be continued stay. Without
--all, slices that were used in the last 30 days stay too, and leftovers of the last 7 days.
"""
_HASHED_AT_ONCE_BYTES = 64 * 1024 * 1024
"""A model that was never hashed is, when listed, if that takes no time to speak of."""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "models", help="the models on this disk")
    add_command(
        group, "list", list_models, help="print the models and the ranges of them held here"
    )
    parser = add_command(
        group, "manifest", manifest, help="print a model's manifest: content ids and its handle"
    )
    parser.add_argument("name", metavar="NAME", help="a name, a handle, or the path of a GGUF file")
    parser = add_command(
        group,
        "prune",
        run_prune,
        help="remove slices that were cut here and long unused, and leftovers; never a model",
        more=_PRUNE_MORE,
    )
    parser.add_argument("--all", action="store_true", help="remove them however new they are")


def open_library(models: Path) -> Library:
    """Return the models below a home's directory and the packaged one."""
    from kwaai.models.library import Library

    return Library(models)


def list_models(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_table, show_bytes
    from kwaai.cli.session import open_home

    home, _ = open_home(arguments)
    library = open_library(home.models)
    shelf = library.look()
    models = [describe(library, entry) for entry in shelf.entries]
    if arguments.json:
        broken = [{"path": str(b.path), "problem": b.problem} for b in shelf.broken]
        print_json({"models": models, "broken": broken})
        return 0
    rows = [
        (
            one_line(str(entry.name)),
            show_bytes(entry.nbytes),
            str(model["quantisation"]),
            str(model["blocks"]),
            show_held(library, entry),
            show_handle(model["handle"]),
        )
        for entry, model in zip(shelf.entries, models, strict=True)
    ]
    columns = ("Name", "Size", "Quantisation", "Layers", "Held", "Handle")
    print_table(columns, rows, right=("Size", "Layers"))
    for item in shelf.broken:
        note(one_line(f"not usable: {item.path}: {item.problem}"))
    return 0


def manifest(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, note
    from kwaai.cli.session import open_home

    home, _ = open_home(arguments)
    library = open_library(home.models)
    entry = library.find(arguments.name)
    with Spinner(f"hashing {entry.path.name}"):
        found = library.manifest(entry)
    print(found.encoded.decode("utf-8"))
    if not arguments.json:
        note(f"handle: {found.handle}")
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, print_json, show_bytes
    from kwaai.cli.session import open_home
    from kwaai.cli.shard_status import ask_health
    from kwaai.errors import Busy, UserError
    from kwaai.models.prune import prune

    home, config = open_home(arguments)
    if arguments.all and ask_health(config):
        raise Busy(
            f"a server answers on {config.api_host}:{config.api_port} and may need its slices "
            "again: end it first, or leave out --all"
        )
    try:
        done = prune(home.models, everything=arguments.all)
    except OSError as error:
        raise UserError(f"cannot remove {error.filename}: {error.strerror}") from error
    if arguments.json:
        print_json(
            {
                "freed_bytes": done.freed_bytes,
                "slices": [str(path) for path in done.slices],
                "leftovers": [str(path) for path in done.leftovers],
                "kept": [str(path) for path in done.kept],
                "busy": [str(path) for path in done.busy],
            }
        )
        return 0
    print(
        f"freed {show_bytes(done.freed_bytes)}: {_count(len(done.slices), 'cut slice')}, "
        f"{_count(len(done.leftovers), 'leftover')}"
    )
    if done.kept:
        note(f"{_count(len(done.kept), 'cut slice')} used lately stay; --all removes them too")
    for path in done.busy:
        note(f"in use now, left as it is: {path}")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def describe(library: Library, entry: ModelEntry) -> dict[str, object]:
    """Return what `--json` prints of a model."""
    from kwaai.models.entries import quantisation

    return {
        "name": entry.name,
        "path": str(entry.path),
        "handle": entry.handle or _hash_small(library, entry),
        "architecture": entry.header.architecture,
        "blocks": entry.header.block_count if entry.whole else len(entry.layers),
        "whole": entry.whole,
        "parts": [_describe_part(part) for part in entry.parts],
        "size_bytes": entry.nbytes,
        "quantisation": quantisation(entry),
        "ranges": [[r.start, r.stop] for r in held_ranges(library, entry)],
    }


def held_ranges(library: Library, entry: ModelEntry) -> list[LayerRange]:
    """Return the ranges in files of their own: the whole model, parts, and what was cut here."""
    from kwaai.types import LayerRange

    ranges = {part.layers for part in entry.parts if part.layers}
    if entry.whole:
        ranges.add(entry.layers)
    if entry.whole and entry.handle:
        directory = library.directory / "slices" / entry.handle.removeprefix("sha256:")
        for path in directory.glob("*-*.gguf"):
            start, _, stop = path.stem.partition("-")
            if start.isdecimal() and stop.isdecimal() and int(start) < int(stop):
                ranges.add(LayerRange(int(start), int(stop)))
    return sorted(ranges, key=lambda r: (r.start, -r.stop))


def show_held(library: Library, entry: ModelEntry) -> str:
    """Return what is held of a model, for people: `[0,12) [12,24)+head embedding`, or all of it
    and how many slices of it were cut.
    """
    slices = len(held_ranges(library, entry)) - 1
    return f"{entry.held} and {slices} slices" if entry.whole and slices else entry.held


def _describe_part(part: Part) -> dict[str, object]:
    return {
        "path": str(part.path),
        "size_bytes": part.nbytes,
        "range": [part.layers.start, part.layers.stop] if part.layers else None,
        "head": part.head,
        "embedding": part.layers is None,
    }


def show_handle(handle: object) -> str:
    """Return the beginning of a handle, enough to tell models apart."""
    return str(handle)[:_HANDLE_SHOWN] if handle else "-"


def _hash_small(library: Library, entry: ModelEntry) -> str | None:
    if not entry.whole or entry.nbytes > _HASHED_AT_ONCE_BYTES:
        return None
    return library.manifest(entry).handle
