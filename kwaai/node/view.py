"""What a node tells its owner: status, peers, who serves what. Reads; changes nothing.

The shapes are `control`'s.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

import kwaai
from credentials.keys import PeerId
from kwaai.errors import UserError
from kwaai.node.control import (
    ChainRow,
    ChainView,
    LinkKind,
    NodeStatus,
    P2pInfo,
    PeerRow,
    ServiceRow,
)
from kwaai.node.home import memory_blocks
from kwaai.node.trust_control import PeerTrust
from kwaai.placement.coverage import inner_gaps, missing_ranges
from kwaai.placement.paths import choose_range
from kwaai.wire.records import NodeRecord, Served

if TYPE_CHECKING:
    from kwaai.node.node import Node

PEER_END_CHARS_MIN = 6
"""Characters of a PeerId's end that may stand for all of it."""


class View:
    """The reading side of a node's NodeControl."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.standing: Callable[[PeerId], PeerTrust] | None = None
        """Says how far a peer is trusted. Set by whoever scores peers."""
        self._process = psutil.Process(os.getpid())
        self._process.cpu_percent()  # the first call only begins to count

    def status(self) -> NodeStatus:
        """See NodeControl."""
        node = self._node
        return NodeStatus(
            state=node.state,
            peer=node.network.peer_id,
            name=node.config.public_name,
            version=kwaai.__version__,
            pid=os.getpid(),
            uptime_s=round(time.time() - node.started_s, 3),
            cpu_share=self._process.cpu_percent() / 100,
            memory_bytes=int(self._process.memory_info().rss),
            api=node.api_address,
            peers=len(node.network.connections()),
            sessions_open=node.shards.sessions_open,
            answers=node.generator.under_way,
            services=tuple(
                ServiceRow(s.name, s.state, s.restarts, s.error) for s in node.services.statuses()
            ),
            served=node.serving.rows(),
        )

    def p2p_info(self) -> P2pInfo:
        """See NodeControl."""
        node = self._node
        connected = {connection.peer for connection in node.network.connections()}
        return P2pInfo(
            peer=node.network.peer_id,
            name=node.config.public_name,
            listen=node.network.addresses(),
            links=node.link_addresses(),
            bootstrap=node.config.bootstrap_peers,
            bootstrap_missing=tuple(
                address
                for address in node.config.bootstrap_peers
                if address.rpartition("/")[2] not in connected
            ),
            peers=len(connected),
            known=len(self._others()),
        )

    def peers(self) -> tuple[PeerRow, ...]:
        """See NodeControl."""
        node = self._node
        connections = {connection.peer: connection for connection in node.network.connections()}
        records = {record.peer: record for record in self._others()}
        avoided = {row.peer: row.left_s for row in node.avoided.explain()}
        rows = []
        for peer in dict.fromkeys([*connections, *records]):
            record, connection = records.get(peer), connections.get(peer)
            link = node.links.link(peer)
            kind: LinkKind = "none" if link is None else "direct" if link.is_direct else "relayed"
            rows.append(
                PeerRow(
                    peer=peer,
                    name="" if record is None else record.name,
                    version="" if record is None else record.version,
                    connected=connection is not None,
                    link=kind,
                    rtt_s=self._rtt_s(peer),
                    bandwidth_bytes_s=None if link is None else link.bandwidth_bytes_s,
                    served=() if record is None else tuple(map(_served_text, record.served)),
                    avoided_s=avoided.get(peer, 0.0),
                    trust=self._trust(peer),
                )
            )
        return tuple(sorted(rows, key=lambda row: (not row.connected, row.name, row.peer)))

    async def ping(self, peer: str, timeout_s: float) -> float:
        """See NodeControl."""
        return await self._node.network.ping(self.find_peer(peer), timeout_s)

    def find_peer(self, text: str) -> PeerId:
        """Return the peer that a person means: a PeerId or its end, or a name, of exactly one known
        peer.
        """
        records = self._others()
        known = {record.peer for record in records}
        known |= {connection.peer for connection in self._node.network.connections()}
        if text in known:
            return PeerId(text)
        named = [record.peer for record in records if record.name == text]
        if len(named) == 1:
            return named[0]
        if named:
            raise UserError(f"{len(named)} peers are called {text!r:.80}; give the peer id")
        end = text.removeprefix("…")
        ending = [peer for peer in known if len(end) >= PEER_END_CHARS_MIN and peer.endswith(end)]
        if len(ending) == 1:
            return PeerId(ending[0])
        names = [record.name for record in records if record.name]
        near = difflib.get_close_matches(text[:80], names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"no peer {text!r:.80} is known; {hint}`kwaainet p2p peers` lists those that are"
        )

    def name_of(self, peer: str) -> str:
        """Return what a peer calls itself; empty where no record of it is known."""
        return next((record.name for record in self._others() if record.peer == peer), "")

    async def chain(self, name: str, *, refresh: bool) -> ChainView:
        """See NodeControl."""
        node = self._node
        model = await node.slices.model(name)
        if refresh:
            await node.directory.refresh(model.handle)
        records = node.directory.records(model.handle)
        avoided = {row.peer: row.left_s for row in node.avoided.explain()}
        rows = [
            self._chain_row(record, served, avoided.get(record.peer, 0.0))
            for record in records
            for served in record.served
            if served.handle == model.handle
        ]
        rows.sort(key=lambda row: (row.layers, row.name, row.peer))
        online = [row.layers for row in rows if row.state == "online"]
        others = [row.layers for row in rows if row.state == "online" and not row.is_self]
        fitting = memory_blocks(node.config)(model)
        candidates = node.serving.candidates(records, model.handle)
        return ChainView(
            model=model.name,
            handle=model.handle,
            block_count=model.block_count,
            rows=tuple(rows),
            gaps=inner_gaps(model.block_count, online),
            missing=missing_ranges(
                model.block_count, others, fitting, keeps_tail=node.config.privacy == "private"
            ),
            suggestion=choose_range(model.block_count, candidates, fitting) if fitting else None,
        )

    def _chain_row(self, record: NodeRecord, served: Served, avoided_s: float) -> ChainRow:
        is_self = record.peer == self._node.network.peer_id
        return ChainRow(
            layers=served.layers,
            peer=record.peer,
            name=record.name,
            version=record.version,
            state=served.state,
            rtt_s=None if is_self else self._rtt_s(record.peer),
            is_self=is_self,
            sessions_free=served.sessions_free,
            decode_s=served.decode_us / 1e6,
            avoided_s=avoided_s,
            trust=None if is_self else self._trust(record.peer),
        )

    def _trust(self, peer: PeerId) -> PeerTrust | None:
        return None if self.standing is None else self.standing(peer)

    def _rtt_s(self, peer: PeerId) -> float | None:
        """The link's last measured round trip, else libp2p's."""
        link = self._node.links.link(peer)
        if link is not None and link.rtt_s is not None:
            return link.rtt_s
        found = (c.rtt_s for c in self._node.network.connections() if c.peer == peer)
        return next(found, None)

    def _others(self) -> tuple[NodeRecord, ...]:
        own = self._node.network.peer_id
        return tuple(record for record in self._node.directory.records() if record.peer != own)


def _served_text(served: Served) -> str:
    return f"{served.model} {served.layers} {served.state}"
