"""Addresses of a peer's link: which of them may be dialled, and several tried with a head start for
the first.

All of them are strangers' words, so they are IP addresses, never names: nobody makes this node look
one up. Does not shake hands. docs/protocol/link.md, "Whom to dial".
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import TypeVar

from kwaai import limits
from kwaai.errors import KwaaiError, UserError

_ADDRESS = re.compile(r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\]):(\d{1,5})")

Result = TypeVar("Result")


class Scope(IntEnum):
    """From where an address can be reached."""

    MACHINE = 0
    """Loopback and link-local: another machine's means nothing here."""
    SITE = 1
    """Private networks."""
    WORLD = 2


def parse_address(address: str) -> tuple[str, int]:
    """Return the IP address and port of `v4:port` or `[v6]:port`. Raises UserError."""
    match = _ADDRESS.fullmatch(address)
    try:
        if match is None or not 0 < int(match[3]) < 65536:
            raise ValueError
        ip = _parse_ip(match[1] or match[2])
        if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
            raise ValueError
    except ValueError:
        raise UserError(
            f"{address!r:.300} is no address of a link: give an IP address and a port, such as"
            " 203.0.113.7:8081 or [2001:db8::7]:8081"
        ) from None
    return str(ip), int(match[3])


def scope_of(host: str) -> Scope:
    """Return from where an IP address can be reached; anything else is everywhere's."""
    try:
        ip = _parse_ip(host.partition("%")[0])
    except ValueError:
        return Scope.WORLD
    if ip.is_loopback or ip.is_link_local:
        return Scope.MACHINE
    return Scope.WORLD if ip.is_global else Scope.SITE


@functools.lru_cache(1024)  # a flood of connections comes from few
def origin_of(remote: str) -> str:
    """Return whom to count connections from `remote` for: an IPv4 address, or the /64 of an IPv6
    one, which is what one household gets.
    """
    try:
        ip = _parse_ip(remote.partition("%")[0])
    except ValueError:
        return remote
    return str(ip) if ip.version == 4 else ip.exploded[:19]


def dialable(addresses: Sequence[str], least: Scope) -> tuple[str, ...]:
    """Keep what may be dialled of a stranger's addresses: IP addresses of scope `least` or wider,
    as many as are tried.
    """
    kept = []
    for address in addresses[: limits.LINK_ADDRESSES_MAX]:
        try:
            host, _ = parse_address(address)
        except UserError:
            continue
        if scope_of(host) >= least:
            kept.append(address)
    return tuple(kept)


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(host)
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


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
