"""Run coroutines at once and leave none behind, with one error that a person can read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from kwaai.errors import KwaaiError


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. Raises the first error; the others are then cancelled, and waited for."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise _first_known(errors) from None


def _first_known(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    known = errors.subgroup(KwaaiError)
    group: BaseExceptionGroup[BaseException] = known or errors
    while isinstance(group.exceptions[0], BaseExceptionGroup):
        group = group.exceptions[0]
    return group.exceptions[0]
