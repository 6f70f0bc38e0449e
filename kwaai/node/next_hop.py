"""A hop's link to the hop after it, whom the requester names: dialled, but not wherever it says.

What the next hop says of itself comes first; what the requester says counts only where there is no
record, and only for addresses that the requester could reach itself. Else whoever asks could make
this node knock on every door of its network, and hear which of them open. docs/protocol/shard.md,
"OPEN".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from credentials.keys import PeerId
from kwaai.errors import Busy, PeerError, PeerLost, PeerUnreachable
from kwaai.limits import (
    SHARD_DIALS_BURST,
    SHARD_DIALS_MAX,
    SHARD_DIALS_PER_S,
    SHARD_NEXT_ADDRESSES_MAX,
)
from kwaai.log import get_logger
from kwaai.net.dial import Scope, dialable, scope_of
from kwaai.net.link import Link
from kwaai.net.links import Links
from kwaai.node.rates import Rates
from kwaai.wire.messages import Open

log = get_logger(__name__)

Addresses = Callable[[PeerId], Sequence[str]]
"""Where a peer's links are, by its own record; nothing where there is none."""


class NextHops:
    """Dials for the sessions of one node's hops."""

    def __init__(self, links: Links, addresses: Addresses) -> None:
        self._links, self._addresses = links, addresses
        self._rates = Rates(SHARD_DIALS_PER_S, SHARD_DIALS_BURST)
        self._under_way = 0

    async def link(self, requester: PeerId, wanted: Open) -> Link:
        """Return the link to the hop after this one. Raises PeerError, which says nothing of what
        was found where; Busy for a requester that wants too many dialled.
        """
        link = self._links.link(wanted.next)
        if link is not None:
            return link
        if wanted.next == requester:
            raise PeerLost("its link to the requester is gone", peer=requester)
        if self._under_way >= SHARD_DIALS_MAX or not self._rates.take(
            requester, asyncio.get_running_loop().time()
        ):
            raise Busy("it dials too many peers for others already", retry_after_s=1.0)
        self._under_way += 1
        try:
            return await self._links.get(wanted.next, self._where(requester, wanted))
        except PeerError as error:
            log.info("next_hop_unreachable", peer=wanted.next, problem=error.message)
            raise PeerUnreachable("there is no link to it", peer=wanted.next) from None
        finally:
            self._under_way -= 1

    def _where(self, requester: PeerId, wanted: Open) -> tuple[str, ...]:
        own = tuple(self._addresses(wanted.next))
        given = wanted.next_addresses[:SHARD_NEXT_ADDRESSES_MAX]
        return own or dialable(given, self._scope(requester))

    def _scope(self, requester: PeerId) -> Scope:
        """From where the requester comes: it may name what is at least as public as that."""
        link = self._links.link(requester)
        return scope_of(link.remote) if link is not None and link.is_direct else Scope.WORLD
