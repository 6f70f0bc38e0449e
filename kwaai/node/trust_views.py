"""What the owner asks of trust, as the control socket carries it: scores, reasons, rules as rows.

Turns names of peers into principals and values into views. Scores nothing: `kwaai.trust` does;
keeps nothing: `trust_service` does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from credentials.document import encode_time
from credentials.errors import CredentialsError
from credentials.keys import PeerId
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import UserError
from kwaai.intent.demand import parse_name
from kwaai.net.network import Network
from kwaai.node.control import RequestView
from kwaai.node.credential_service import CredentialService
from kwaai.node.trust_control import (
    ActionRow,
    BehaviourView,
    EndorsementRow,
    ExplanationView,
    FloorRow,
    GraphEdge,
    GraphNode,
    GraphView,
    PeerTrust,
    PolicyView,
    PrincipalRow,
    ReceiptRow,
    TrustDetail,
    TrustPathView,
    TrustRow,
    TrustRows,
)
from kwaai.node.trust_rows import (
    attestation_row,
    depths_of,
    endorsements_at,
    peer_of,
    reason_view,
)
from kwaai.node.trust_service import TrustService
from kwaai.node.view import PEER_END_CHARS_MIN, View
from kwaai.trust.evidence import Endorsement, Observation, Outcome, principal_of_peer
from kwaai.trust.graph import TrustPath
from kwaai.trust.score import Standing
from kwaai.trust.tiers import ACTIONS, Tier, compute_weight

ReceiptRows = Callable[[str], Sequence[ReceiptRow]]
"""The newest receipts of a PeerId, of all peers for an empty text. In a thread."""

_ENDORSEMENT: Final = "PeerEndorsementVC"


class TrustViews:
    """TrustControl over one node's trust."""

    def __init__(
        self,
        service: TrustService,
        config: Config,
        network: Network,
        credentials: CredentialService,
        view: View,
        receipts: ReceiptRows = lambda _: (),
    ) -> None:
        self._service, self._config, self._network = service, config, network
        self._credentials, self._view, self._receipts = credentials, view, receipts

    def standing(self, peer: str) -> PeerTrust:
        """See TrustControl."""
        standing = self._service.standing(peer)
        return PeerTrust(standing.score, standing.uncertainty, standing.tier.label)

    def stats(self) -> Mapping[str, float]:
        """See TrustControl."""
        return self._service.stats()

    async def peers(self) -> TrustRows:
        """See TrustControl."""
        state, here = self._service.opened.state, self._here()
        names = set(state.standings) | here
        standings = [state.standing(name) for name in names]
        standings.sort(key=lambda one: (-one.score, one.uncertainty, one.peer))
        shown = standings[: limits.TRUST_ROWS_MAX]
        endorsed = Counter(edge.of for edge in state.edges)
        rows = tuple(self._row(one, here, endorsed[one.peer]) for one in shown)
        return TrustRows(rows, len(standings) - len(shown))

    async def show(self, peer: str) -> TrustDetail:
        """See TrustControl."""
        opened, principal = self._service.opened, self._find(peer)
        state = opened.state
        parts = state.parts(principal)
        codes = {f.attestation.id: (f.code, f.points) for f in parts.credentials.findings}
        shown = opened.collector.shown(principal)[: limits.TRUST_DETAIL_ROWS_MAX]
        seen = await asyncio.to_thread(opened.evidence.of_peer, principal)
        near = await asyncio.to_thread(endorsements_at, state, principal)
        return TrustDetail(
            row=self._row(state.standing(principal)),
            attestations=tuple(attestation_row(one, codes) for one in shown),
            behaviour=self._behaviour(principal, seen),
            endorsed_by=self._endorsements(near, principal, is_target=True),
            endorses=self._endorsements(near, principal, is_target=False),
            actions=self._actions(state.standing(principal)),
            computed_s=opened.computed_s,
        )

    async def explain(self, peer: str) -> ExplanationView:
        """See TrustControl."""
        state = self._service.opened.state
        explanation = await asyncio.to_thread(state.explain, self._find(peer))
        return ExplanationView(
            row=self._row(explanation.standing),
            reasons=tuple(map(reason_view, explanation.reasons)),
            paths=tuple(map(self._path, explanation.paths)),
            raises=explanation.raises,
            next_tier="" if explanation.next_tier is None else explanation.next_tier.label,
            missing=explanation.missing,
        )

    async def policy(self) -> PolicyView:
        """See TrustControl."""
        policy, config = self._service.policy, self._config
        return PolicyView(
            own=policy.own,
            owner=policy.own_owner or "",
            weights=policy.weights,
            half_life_s=policy.half_life_s,
            behaviour_half_life_s=policy.behaviour_half_life_s,
            behaviour_points=policy.behaviour_points,
            graph_points=policy.graph_points,
            derived_issuer_cap=policy.derived_issuer_cap,
            same_owner_score=policy.same_owner_score,
            thresholds={tier.label: policy.threshold(tier) for tier in list(Tier)[1:]},
            floors=tuple(
                FloorRow(action, f"tier_{action}", self._service.floors.floor(action).label)
                for action in ACTIONS
            ),
            roots=tuple(self._principal_row(did, 1.0) for did in sorted(policy.roots)),
            issuers=tuple(
                self._principal_row(did, trust) for did, trust in sorted(policy.issuers.items())
            ),
            early_layers_share=config.early_layers_share,
            owner_hops_max=config.owner_hops_max,
            spot_check_share=config.spot_check_share,
        )

    async def set_roots(self, roots: Sequence[str]) -> PolicyView:
        """See TrustControl."""
        self._service.set_roots(roots)
        await self._service.recompute()
        return await self.policy()

    async def endorse(self, peer: str, statement: str, interactions: int | None) -> RequestView:
        """See TrustControl."""
        opened, principal = self._service.opened, self._find(peer)
        found = peer_of(principal)
        if not found:
            raise UserError(f"{peer!r:.80} is no node: only a node can be offered an endorsement")
        if found == self._network.peer_id:
            raise UserError("this node cannot endorse itself: nobody vouches for oneself")
        seen = await asyncio.to_thread(opened.evidence.of_peer, principal)
        done = [each for each in seen if each.outcome in _DEALINGS]
        good = sum(each.outcome in _GOOD for each in done)
        if interactions is None and not done:
            raise UserError(
                "this node has had nothing to do with it yet; say how many dealings your word "
                "rests on: --interactions N"
            )
        count = interactions if interactions is not None else len(done)
        end_s = self._service.now_s()
        start_s = min((each.at_s for each in done), default=end_s - 86_400.0)
        claims: dict[str, object] = {
            "interactionCount": count,
            "windowStart": encode_time(max(min(start_s, end_s - 1), end_s - 365 * 86_400.0)),
            "windowEnd": encode_time(end_s),
        }
        if done:
            claims["successCount"] = round(count * good / len(done))
        if statement:
            claims["endorsementStatement"] = statement
        office = self._credentials.office()
        issued = await asyncio.to_thread(office.issue, _ENDORSEMENT, principal, claims)
        view = await self._credentials.control().offer(found, issued.data.decode(), statement)
        await self._service.refresh([PeerId(found)])
        return view

    async def graph(self, depth: int) -> GraphView:
        """See TrustControl."""
        state, policy = self._service.opened.state, self._service.policy
        following: dict[str, list[str]] = {}
        for edge in state.edges:
            following.setdefault(edge.by, []).append(edge.of)
        depths = depths_of(policy.trusted, following, depth)
        order = sorted(depths, key=lambda did: (depths[did], -state.standing(did).score, did))
        kept = order[: limits.TRUST_GRAPH_NODES_MAX]
        names = set(kept)
        edges = [edge for edge in state.edges if edge.by in names and edge.of in names]
        shown = edges[: limits.TRUST_GRAPH_EDGES_MAX]
        sources = {(one.by, one.of): one.source for one in state.evidence.endorsements}
        return GraphView(
            nodes=tuple(
                GraphNode(
                    did=did,
                    peer=peer_of(did),
                    name=self._name(did),
                    tier=state.standing(did).tier.label,
                    score=state.standing(did).score,
                    graph=state.graph.value(did),
                    depth=depths[did],
                    is_root=did in policy.trusted,
                    is_own=did == policy.own,
                )
                for did in kept
            ),
            edges=tuple(
                GraphEdge(edge.by, edge.of, edge.weight, sources.get((edge.by, edge.of), ""))
                for edge in shown
            ),
            nodes_left_out=len(order) - len(kept),
            edges_left_out=len(edges) - len(shown),
        )

    async def receipts(self, peer: str) -> tuple[ReceiptRow, ...]:
        """See TrustControl."""
        found = peer_of(self._find(peer)) if peer else ""
        rows = await asyncio.to_thread(self._receipts, found)
        return tuple(rows[: limits.TRUST_RECEIPT_ROWS_MAX])

    async def refresh(self, peer: str) -> int:
        """See TrustControl."""
        connected = [connection.peer for connection in self._network.connections()]
        principals = [self._find(peer)] if peer else [principal_of_peer(p) for p in connected]
        await self._service.refresh([PeerId(peer_of(p)) for p in principals if peer_of(p)])
        collector = self._service.opened.collector
        return sum(not one.code for p in principals for one in collector.shown(p))

    # Rows.

    def _find(self, text: str) -> str:
        """Return the principal that a person means: a DID, a PeerId or its end, or a name."""
        if text.startswith("did:"):
            return parse_name(text)
        try:
            return principal_of_peer(text)
        except CredentialsError:
            pass
        own = self._network.peer_id
        try:
            return principal_of_peer(self._view.find_peer(text))
        except UserError:
            is_end = len(text) >= PEER_END_CHARS_MIN and own.endswith(text.removeprefix("…"))
            if text == self._config.public_name or is_end:
                return principal_of_peer(own)
            raise

    def _name(self, did: str) -> str:
        peer = peer_of(did)
        if peer == self._network.peer_id:
            return self._config.public_name
        return self._view.name_of(peer) if peer else ""

    def _here(self) -> set[str]:
        """Return whoever is connected."""
        return {principal_of_peer(c.peer) for c in self._network.connections()}

    def _row(
        self, standing: Standing, here: Collection[str] | None = None, endorsed: int | None = None
    ) -> TrustRow:
        """Return a principal's row. `here`, `endorsed`: known from a look at all of them."""
        opened, did = self._service.opened, standing.peer
        tally = opened.tallies.get(did)
        if endorsed is None:
            endorsed = sum(edge.of == did for edge in opened.state.edges)
        return TrustRow(
            did=did,
            peer=peer_of(did),
            name=self._name(did),
            owner=standing.owner or "",
            score=standing.score,
            uncertainty=standing.uncertainty,
            tier=standing.tier.label,
            credentials=sum(not one.code for one in opened.collector.shown(did)),
            observations=0 if tally is None else tally.observations,
            endorsements=endorsed,
            connected=did in (self._here() if here is None else here),
            is_root=did in self._service.policy.trusted,
        )

    def _behaviour(self, did: str, seen: Sequence[Observation]) -> BehaviourView | None:
        if not seen:
            return None
        policy, conduct = self._service.policy, self._service.opened.state.parts(did).conduct
        return BehaviourView(
            outcomes=Counter(str(each.outcome) for each in seen),
            value=conduct.value,
            prior=0.5,
            confidence=conduct.confidence(policy),
            parts=conduct.means,
            first_s=min(each.at_s for each in seen),
            last_s=max(each.at_s for each in seen),
        )

    def _endorsements(
        self, near: Sequence[tuple[Endorsement, float]], did: str, *, is_target: bool
    ) -> tuple[EndorsementRow, ...]:
        """Return the endorsements of a principal, or by it."""
        newest: dict[tuple[str, str], EndorsementRow] = {}
        for each, weight in sorted(near, key=lambda one: one[0].at_s):
            mine, other = (each.of, each.by) if is_target else (each.by, each.of)
            if mine == did:
                row = EndorsementRow(other, self._name(other), weight, each.at_s, each.source)
                newest[other, each.source] = row
        rows = list(newest.values())
        rows.sort(key=lambda row: (-row.weight, row.other))
        return tuple(rows[: limits.TRUST_DETAIL_ROWS_MAX])

    def _actions(self, standing: Standing) -> tuple[ActionRow, ...]:
        floors, who = self._service.floors, self._name(standing.peer) or standing.peer
        rows = []
        for action in ACTIONS:
            denial = floors.check(action, who, standing.tier, standing.integrity)
            detail = "" if denial is None else denial.message
            if action == "compute" and denial is None:
                share = compute_weight(standing.tier)
                detail = f"weighs {share} in the queue (Unknown: 1)"
            rows.append(
                ActionRow(
                    action,
                    f"tier_{action}" if denial is None else denial.rule,
                    floors.floor(action).label,
                    denial is None,
                    detail,
                )
            )
        return tuple(rows)

    def _path(self, path: TrustPath) -> TrustPathView:
        return TrustPathView(
            path.principals,
            tuple(map(self._name, path.principals)),
            tuple(edge.weight for edge in path.edges),
            path.share,
        )

    def _principal_row(self, did: str, trust: float) -> PrincipalRow:
        return PrincipalRow(did, peer_of(did), self._name(did), trust)


_DEALINGS: Final = frozenset(
    {Outcome.SERVED, Outcome.FAILED, Outcome.STALLED, Outcome.MISBEHAVED}
    | {Outcome.WRONG, Outcome.AGREED}
)
_GOOD: Final = frozenset({Outcome.SERVED, Outcome.AGREED})
