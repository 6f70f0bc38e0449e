"""Addresses of a peer: parse them, and try several with a head start for the first.

Does not shake hands.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from kwaai import limits
from kwaai.errors import KwaaiError, UserError

_V6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45}(?:%[\w.-]{1,32})?)\]:(\d{1,5})")
_NAME = re.compile(r"([A-Za-z0-9._-]{1,253}):(\d{1,5})")

Result = TypeVar("Result")


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`. Raises UserError."""
    match = _V6.fullmatch(address) or _NAME.fullmatch(address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise UserError(f"{address!r:.300} is no address of a link: give host:port, or [v6]:port")
    return match[1], int(match[2])


async def first_of(
    addresses: Sequence[str], attempt: Callable[[str], Awaitable[Result]]
) -> tuple[Result | None, list[tuple[str, KwaaiError]]]:
    """Return what the first attempt that succeeds returns, and how the others failed.

    The next attempt begins when the last one failed, or has not succeeded for a moment.
    """

    async def run(address: str) -> Result:
        return await attempt(address)

    left = list(addresses[: limits.LINK_ADDRESSES_MAX])
    tasks: dict[asyncio.Task[Result], str] = {}
    failed: list[tuple[str, KwaaiError]] = []
    try:
        while left or tasks:
            if left:
                address = left.pop(0)
                tasks[asyncio.create_task(run(address))] = address
            timeout_s = limits.LINK_CONNECT_STAGGER_S if left else None
            done, _ = await asyncio.wait(
                tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                address = tasks.pop(task)
                try:
                    return task.result(), failed
                except KwaaiError as error:
                    failed.append((address, error))
        return None, failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
