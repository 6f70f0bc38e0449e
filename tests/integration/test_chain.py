"""The chain against the whole model, over passes of changing size: graphs are built anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kwaai.config import Config
from kwaai.inference.chain import Chain, Step
from kwaai.models.library import DEMO_NAME, Library
from kwaai.node.plan import plan_run, slice_specs

# Decode steps between pieces of all sizes, past 256 positions, where llama.cpp widens its masks.
SIZES = (5, 1, 1, 32, 1, 200, 1, 1, 17, 1, 64, 1, 1)


async def _logits(directory: Path, slices: int) -> list[npt.NDArray[np.float32]]:
    library = Library(directory)
    entry = library.find(DEMO_NAME)
    plan = plan_run(entry, Config(), slices=slices, local=False, sessions=2)
    chain = Chain(slice_specs(plan, library, None), plan.engine)
    rows, position = [], 0
    tokens = np.random.default_rng(7).integers(3, chain.vocab, sum(SIZES)).tolist()
    await chain.start()
    try:
        for session in (1, 2):
            await chain.open(session)
        for size in SIZES:
            piece = tuple(tokens[position : position + size])
            rows.append(await chain.step([Step(1, position, piece, 1)], np.copy))
            position += size
        # Back to the middle, then on with other tokens: what was forgotten must not be seen.
        await chain.rollback(1, 40)
        rows.append(await chain.step([Step(1, 40, (9, 10, 11), 1)], np.copy))
        both = [Step(2, 0, (4, 5), 1), Step(1, 43, (12,), 1)]
        rows.append(await chain.step(both, np.copy))
        await chain.rollback(1, 43)  # the same pass by itself, to be told apart from the shared one
        rows.append(await chain.step([Step(1, 43, (12,), 1)], np.copy))
    finally:
        await chain.stop()
    return rows


async def test_logits_are_equal_to_the_bit_over_passes_of_every_size(tmp_path: Path) -> None:
    whole = await _logits(tmp_path, 1)
    for slices in (2, 5):
        chain = await _logits(tmp_path, slices)
        for number, (expected, found) in enumerate(zip(whole, chain, strict=True)):
            assert np.array_equal(expected, found), f"pass {number} with {slices} slices"
