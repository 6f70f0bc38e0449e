"""A part of a range that a peer asks for: refused until it is loaded, then as good as the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kwaai.config import Config
from kwaai.errors import PeerRefused
from kwaai.inference.host import SliceHost
from kwaai.limits import SERVING_PART_WAIT_S
from kwaai.models.library import DEMO_NAME, Library
from kwaai.node.answer_path import AnswerPath
from kwaai.node.local_slices import LocalSlices
from kwaai.node.serving import Serving
from kwaai.node.serving_parts import ServingParts
from kwaai.node.shards import ShardServer
from kwaai.testing.shards import Node, plan_of
from kwaai.types import LayerRange
from kwaai.wire.records import Served


async def read(path: AnswerPath, prompt: Sequence[int]) -> Any:
    async with asyncio.timeout(60):
        return np.asarray(await path.prefill(prompt))


async def test_a_part_is_loaded_when_a_hop_asks_for_it(tmp_path: Path) -> None:
    announced: list[tuple[Served, ...]] = []
    directory: Any = SimpleNamespace(set_served=lambda served, links: announced.append(served))
    slices = LocalSlices(Config(context_tokens=256, threads=1, max_sessions=2), Library(tmp_path))
    home, amber = Node("home", 1), Node("amber", 2)
    serving = Serving(slices, directory, lambda: (), lambda model: 8, ServingParts(1))
    amber.server = ShardServer(amber.control, serving)
    serving.attach(amber.server)
    await home.start()
    await amber.start()
    try:
        model = await slices.model(DEMO_NAME)
        count = model.block_count
        await serving.serve(DEMO_NAME, LayerRange(1, count - 1), lambda text: None)
        assert [served.divisible for served in announced[-1]] == [True]
        asked = LayerRange(2, count - 2)
        ends = LayerRange(0, 2), LayerRange(count - 2, count)
        parts: list[SliceHost] = [await slices.acquire(DEMO_NAME, layers) for layers in ends]
        whole = await slices.acquire(DEMO_NAME, LayerRange(0, count))

        async def opened() -> AnswerPath:
            path = AnswerPath(parts[0], parts[1])
            try:
                plan = plan_of(model, [(amber, asked)], ends[1], vocab=whole.vocab)
                await path.open(home.requesters, plan)
            except BaseException:
                await path.close()
                raise
            return path

        with pytest.raises(PeerRefused, match="it loads layers") as caught:
            await opened()
        assert caught.value.retry_after_s == SERVING_PART_WAIT_S
        async with asyncio.timeout(60):
            while asked not in serving.held(model.handle):
                await asyncio.sleep(0.02)
        assert [str(served.layers) for served in announced[-1]][1:] == [str(asked)]
        path, alone = await opened(), AnswerPath(whole, None)
        await alone.open(home.requesters, None)
        try:
            prompt = range(5, 45)
            assert np.array_equal(await read(path, prompt), await read(alone, prompt))
        finally:
            await path.close()
            await alone.close()
    finally:
        await home.stop()
        await amber.stop()
        await slices.close()
