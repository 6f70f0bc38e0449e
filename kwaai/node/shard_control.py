"""The control messages of sessions along paths: parsed once, given to whoever they are for.

A node is hop for others and requester for itself over the same links. Does not answer messages.
docs/protocol/shard.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from credentials.keys import PeerId
from kwaai.errors import PeerLost, PeerMisbehaved
from kwaai.limits import SHARD_CONTROL_BURST, SHARD_CONTROL_PER_S
from kwaai.log import get_logger
from kwaai.net.links import Links
from kwaai.node.rates import Rates
from kwaai.wire.codec import WireError
from kwaai.wire.messages import (
    Cancel,
    Close,
    Control,
    Failed,
    Open,
    Opened,
    Probe,
    Progress,
    Refused,
)
from kwaai.wire.shard import encode, parse_control

log = get_logger(__name__)

ToHop: TypeAlias = Open | Close | Cancel | Probe
ToRequester: TypeAlias = Opened | Refused | Failed | Progress


class ShardControl:
    """Sends and receives the control messages of one node."""

    def __init__(self, links: Links) -> None:
        self.links = links
        self.messages_invalid = 0
        self._rates = Rates(SHARD_CONTROL_PER_S, SHARD_CONTROL_BURST)
        self._to_hop: Callable[[PeerId, ToHop], None] | None = None
        self._to_requester: Callable[[PeerId, ToRequester], None] | None = None
        links.on_control(self._receive)

    def serve(self, handler: Callable[[PeerId, ToHop], None]) -> None:
        """Give `handler` what requesters ask of this node."""
        self._to_hop = handler

    def request(self, handler: Callable[[PeerId, ToRequester], None]) -> None:
        """Give `handler` what hops answer."""
        self._to_requester = handler

    def send_now(self, peer: PeerId, message: Control) -> bool:
        """Send unless there is no link, or it must wait; whether it went."""
        link, data = self.links.link(peer), encode(message)
        return link is not None and link.send_now(link.control, (data,), len(data))

    async def send(self, peer: PeerId, message: Control) -> None:
        """Send over the link to `peer`, which must be there. Raises PeerLost, PeerStalled."""
        if self.links.link(peer) is None:
            raise PeerLost(f"there is no link to {peer} any more", peer=peer)
        await self.links.send_control(peer, encode(message))

    def _receive(self, peer: PeerId, data: bytes) -> None:
        if not self._rates.take(peer, asyncio.get_running_loop().time()):
            raise PeerMisbehaved("it sends control messages without end", peer=peer)
        try:
            message = parse_control(data)
        except WireError as error:
            self.messages_invalid += 1
            log.warning("control_message_invalid", peer=peer, problem=error.message)
            raise  # the link to such a peer ends
        if isinstance(message, Open | Close | Cancel | Probe):
            if self._to_hop is not None:
                self._to_hop(peer, message)
        elif self._to_requester is not None:
            self._to_requester(peer, message)
