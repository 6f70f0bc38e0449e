"""Run one random model whole and as chains of slices, and compare the logits bit by bit.

`python -m kwaai.testing.family_chain RECIPE DIRECTORY` prints one JSON line for each cut. A process
of its own, because ggml aborts the process on what it does not like. Used by the tests that prove
the table of families; see families.py here for the recipes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kwaai.errors import ModelUnsupported
from kwaai.inference import families
from kwaai.inference.families import Family
from kwaai.inference.spec import EmbeddingSpec, EngineSpec, SliceSpec
from kwaai.models.gguf import GGUFHeader, read_header
from kwaai.models.slice_rules import layer_count
from kwaai.models.slices import EMBEDDING, cut_slice
from kwaai.testing.families import write_family
from kwaai.testing.parts import VOCAB
from kwaai.types import LayerRange

if TYPE_CHECKING:
    from kwaai.inference.slice import Rows, Slice

PROMPT_TOKENS, DECODE_STEPS = 20, 8
SEED = 6  # of the weights; no recipe's model repeats one token with it, which would prove little
ENGINE = EngineSpec(context_tokens=256, sessions=1, threads=1, batch_tokens=32)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a chain compared with the whole model over a prompt and greedy decoding."""

    cut: tuple[int, ...]
    refused: str | None
    """Why the family's table refuses this cut; then nothing was computed."""
    is_equal: bool
    max_difference: float
    tokens: tuple[int, ...]
    """What the whole model wrote, greedily."""


def cuts_of(layers: int) -> tuple[tuple[int, ...], ...]:
    """Return the cuts that every family is tried at; in the last one each layer is alone."""
    return (0, 3, 5, layers), (0, 1, layers), (0, 4, layers), tuple(range(layers + 1))


def compare(recipe: str, directory: Path) -> list[Outcome]:
    """Write the model of `recipe` and its slices into `directory`, and compare at every cut."""
    path = directory / "whole.gguf"
    write_family(recipe, path, seed=SEED)
    header = read_header(path)
    family = families.supported(header.metadata)
    layers = layer_count(header)
    whole = _open(path, header, family, LayerRange(0, layers), whole=True)
    expected, tokens = _greedy(whole)
    outcomes = []
    for cut in cuts_of(layers):
        ranges = [LayerRange(start, stop) for start, stop in pairwise(cut)]
        try:
            families.check_cut(family, header.metadata, ranges)
        except ModelUnsupported as error:
            outcomes.append(Outcome(cut, error.message, False, 0.0, ()))
            continue
        got = _run_chain(path, header, family, ranges, tokens)
        worst = max(
            float(np.abs(mine - theirs).max()) for mine, theirs in zip(got, expected, strict=True)
        )
        equal = all(map(np.array_equal, got, expected))
        outcomes.append(Outcome(cut, None, equal, worst, tokens[PROMPT_TOKENS:]))
    return outcomes


def _open(
    path: Path, header: GGUFHeader, family: Family, layers: LayerRange, *, whole: bool = False
) -> Slice:
    from kwaai.inference.slice import Slice

    embedding = None
    if layers.start == 0 and not whole:
        table = header.tensor(EMBEDDING)
        assert table is not None
        embedding = EmbeddingSpec(
            path=str(path.with_name("whole.gguf")),
            offset=header.data_start + table.offset,
            ggml_type=table.ggml_type,
            vocab=table.dims[1],
            embd=table.dims[0],
            scale=family.embedding_scale(header.metadata),
        )
    spec = SliceSpec(
        path=str(path),
        layers=layers,
        block_count=layer_count(header),
        embd=header.arch_int("embedding_length"),
        vocab=VOCAB,
        head=layers.stop == layer_count(header),
        embedding=embedding,
        input_tensor=None if whole else family.input_tensor,
    )
    return Slice(spec, ENGINE)


def _greedy(whole: Slice) -> tuple[list[Rows], tuple[int, ...]]:
    """Return the logits of each pass, and the prompt with what was chosen from them."""
    from kwaai.inference.slice import Part

    rng = np.random.default_rng(1)
    tokens = [1, *rng.integers(3, VOCAB, PROMPT_TOKENS - 1).tolist()]
    logits, done = [], 0
    for _ in range(1 + DECODE_STEPS):
        part = Part(0, done, np.array(tokens[done:], np.int32), 1)
        done = len(tokens)
        logits.append(whole.decode([part]).copy())
        tokens.append(int(logits[-1].argmax()))
    whole.close()
    return logits, tuple(tokens)


def _run_chain(
    path: Path,
    header: GGUFHeader,
    family: Family,
    ranges: Sequence[LayerRange],
    tokens: Sequence[int],
) -> list[Rows]:
    from kwaai.inference.slice import Part

    chain = []
    for layers in ranges:
        part_path = path.with_name(f"{layers.start}-{layers.stop}.gguf")
        if not part_path.exists():
            cut_slice(path, part_path, layers, head=layers == ranges[-1])
        chain.append(_open(part_path, header, family, layers))
    logits, done = [], 0
    for step in range(1 + DECODE_STEPS):
        stop = PROMPT_TOKENS + step
        data: Rows = np.array(tokens[done:stop], np.int32)
        for piece in chain:
            data = piece.decode([Part(0, done, data, 1 if piece.spec.head else 0)]).copy()
        logits.append(data)
        done = stop
    for piece in chain:
        piece.close()
    return logits


def main() -> None:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    recipe, directory = sys.argv[1:]
    for outcome in compare(recipe, Path(directory)):
        print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
