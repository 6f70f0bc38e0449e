"""`kwaainet models list` and `models manifest`: what this disk holds, and what it is by content."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kwaai.cli.parser import Commands, add_command, add_group

if TYPE_CHECKING:
    from kwaai.models.library import Library, ModelEntry
    from kwaai.types import LayerRange

_HANDLE_SHOWN = 19
"""Characters of a handle in a table: `sha256:` and 12 digits."""
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
            " ".join(str(r) for r in held_ranges(library, entry)),
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


def describe(library: Library, entry: ModelEntry) -> dict[str, object]:
    """Return what `--json` prints of one file of a model."""
    return {
        "name": entry.name,
        "path": str(entry.path),
        "handle": entry.handle or _hash_small(library, entry),
        "architecture": entry.header.architecture,
        "blocks": entry.header.block_count if entry.whole else len(entry.layers),
        "head": entry.head,
        "whole": entry.whole,
        "size_bytes": entry.nbytes,
        "quantisation": quantisation(entry),
        "ranges": [[r.start, r.stop] for r in held_ranges(library, entry)],
    }


def quantisation(entry: ModelEntry) -> str:
    """Return the tensor type that most of the file's bytes have."""
    from collections import Counter

    from kwaai.models.gguf_types import GGMLType

    sizes: Counter[int] = Counter()
    for tensor in entry.header.tensors:
        sizes[tensor.ggml_type] += tensor.nbytes
    return GGMLType(max(sizes, key=lambda kind: sizes[kind])).name if sizes else "-"


def held_ranges(library: Library, entry: ModelEntry) -> list[LayerRange]:
    """Return the file's own layers, and the slices of it that were cut here."""
    from kwaai.types import LayerRange

    ranges = {entry.layers}
    if entry.whole and entry.handle:
        directory = library.directory / "slices" / entry.handle.removeprefix("sha256:")
        for path in directory.glob("*-*.gguf"):
            start, _, stop = path.stem.partition("-")
            if start.isdecimal() and stop.isdecimal() and int(start) < int(stop):
                ranges.add(LayerRange(int(start), int(stop)))
    return sorted(ranges, key=lambda r: (r.start, -r.stop))


def show_handle(handle: object) -> str:
    """Return the beginning of a handle, enough to tell models apart."""
    return str(handle)[:_HANDLE_SHOWN] if handle else "-"


def _hash_small(library: Library, entry: ModelEntry) -> str | None:
    if not entry.whole or entry.nbytes > _HASHED_AT_ONCE_BYTES:
        return None
    return library.manifest(entry).handle
