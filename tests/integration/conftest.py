"""What tests of the running engine share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest

from kwaai.inference.chain import Chain, Step
from kwaai.inference.engine import Engine, Generation

HoldPasses: TypeAlias = Callable[[Engine, Chain, int], None]


@pytest.fixture
def hold_passes(monkeypatch: pytest.MonkeyPatch) -> HoldPasses:
    """`hold_passes(engine, chain, n)`: no pass is computed until n more requests have come, so that
    whether they share passes does not depend on how fast they arrive.
    """

    def hold(engine: Engine, chain: Chain, count: int) -> None:
        come, all_here = 0, asyncio.Event()
        submit, step = engine.submit, chain.step

        def counted(*args: Any, **options: Any) -> Generation:
            nonlocal come
            generation = submit(*args, **options)
            come += 1
            if come == count:
                all_here.set()
            return generation

        async def held(steps: Sequence[Step], then: Callable[[Any], Any]) -> Any:
            await all_here.wait()
            return await step(steps, then)

        monkeypatch.setattr(engine, "submit", counted)
        monkeypatch.setattr(chain, "step", held)

    return hold
