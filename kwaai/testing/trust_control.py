"""A `TrustControl` that says what it is told to: three peers around one root, as a node shows them.

Scores nothing. Edit the fields like data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from credentials.did import did_key
from credentials.keys import PeerId, SecretKey
from kwaai.errors import UserError
from kwaai.node.control import RequestView
from kwaai.node.trust_control import (
    ActionRow,
    AttestationRow,
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
    ReasonView,
    ReceiptRow,
    TrustDetail,
    TrustPathView,
    TrustRow,
    TrustRows,
)
from kwaai.types import LayerRange

NOW_S = 1_795_248_000.0
"""2026-11-21T08:00:00Z."""


def did_of(number: int) -> str:
    """Return the DID of a key that is made of a number."""
    return did_key(SecretKey(bytes([number]) * 32).public)


OWN, ROOT, AMBER, BIRCH, STRANGER = map(did_of, range(1, 6))


def trust_rows(peers: Sequence[str]) -> list[TrustRow]:
    """Return a root that is no node, two peers, and one of whom nothing is known."""
    return [
        TrustRow(ROOT, "", "", "", 1.0, 0.0, "Trusted", 0, 0, 0, False, is_root=True),
        TrustRow(AMBER, peers[0], "amber", ROOT, 0.522, 0.18, "Verified", 3, 412, 1, True),
        TrustRow(BIRCH, peers[1], "birch\x1b[2J", "", 0.13, 0.61, "Known", 1, 9, 1, False),
        TrustRow(STRANGER, peers[2], "", "", 0.0, 1.0, "Unknown", 0, 0, 0, True),
    ]


def explanation(row: TrustRow) -> ExplanationView:
    """Return why amber is Verified."""
    uptime = "urn:uuid:00000000-0000-4000-8000-000000000002"
    return ExplanationView(
        row,
        reasons=(
            ReasonView(
                "credential",
                "3 credentials, 2 of them count",
                0.341,
                0.618,
                "",
                (
                    ReasonView(
                        "credential",
                        f"VerifiedNodeVC by {ROOT}, a root: 0.20, 12 days old",
                        0.195,
                        0.353,
                        "urn:uuid:00000000-0000-4000-8000-000000000001",
                    ),
                    ReasonView(
                        "credential", "UptimeVC by birch: 0.20 x 0.73", 0.146, 0.265, uptime
                    ),
                    ReasonView(
                        "ignored",
                        "FiduciaryPledgeVC by itself: nobody vouches for oneself",
                        0.0,
                        0.0,
                        "urn:uuid:00000000-0000-4000-8000-000000000003",
                    ),
                ),
            ),
            ReasonView(
                "behaviour",
                "behaviour: 405 served, 7 stalled in this node's own dealings",
                0.151,
                0.273,
                "",
            ),
            ReasonView("graph", "endorsements: 0.300 of the best place", 0.06, 0.109, ""),
            ReasonView("penalty", "bad behaviour leaves 0.945 of the score", -0.03, 0.0, ""),
        ),
        paths=(
            TrustPathView((ROOT, AMBER), ("", "amber"), (0.8,), 0.71),
            TrustPathView((ROOT, BIRCH, AMBER), ("", "birch", "amber"), (0.6, 0.55), 0.29),
        ),
        raises=(
            "a ThroughputVC by a root or a listed issuer: up to 0.15",
            "a BindingVC that names its owner",
        ),
        next_tier="Trusted",
        missing=0.178,
    )


def detail(row: TrustRow) -> TrustDetail:
    """Return what is known of amber."""
    return TrustDetail(
        row,
        attestations=(
            AttestationRow(
                "urn:uuid:00000000-0000-4000-8000-000000000001",
                "VerifiedNodeVC",
                ROOT,
                NOW_S - 12 * 86_400,
                NOW_S + 353 * 86_400,
                "counts",
                0.195,
            ),
            AttestationRow(
                "urn:uuid:00000000-0000-4000-8000-000000000003",
                "FiduciaryPledgeVC",
                AMBER,
                NOW_S - 90 * 86_400,
                None,
                "self_issued",
                0.0,
            ),
        ),
        behaviour=BehaviourView(
            {"served": 405, "stalled": 5, "failed": 2},
            0.81,
            0.5,
            0.6,
            {"availability": 0.98, "correctness": 0.9, "throughput": 0.91, "latency": 0.7},
            NOW_S - 30 * 86_400,
            NOW_S - 60,
        ),
        endorsed_by=(EndorsementRow(ROOT, "", 0.8, NOW_S - 86_400, "PeerEndorsementVC"),),
        endorses=(EndorsementRow(BIRCH, "birch\x1b[2J", 0.4, NOW_S - 3600, "receipts"),),
        actions=(
            ActionRow("serve", "tier_serve", "Unknown", True, ""),
            ActionRow(
                "host",
                "tier_host",
                "Trusted",
                False,
                "tier_host asks for Trusted and it is Verified",
            ),
        ),
        computed_s=NOW_S,
    )


def policy(roots: Sequence[str]) -> PolicyView:
    """Return the defaults, with these roots."""
    return PolicyView(
        own=OWN,
        owner="",
        weights={
            "FiduciaryPledgeVC": 0.3,
            "VerifiedNodeVC": 0.2,
            "UptimeVC": 0.2,
            "ThroughputVC": 0.15,
            "EventAttendeeVC": 0.1,
            "PeerEndorsementVC": 0.05,
        },
        half_life_s=365 * 86_400.0,
        behaviour_half_life_s=30 * 86_400.0,
        behaviour_points=0.25,
        graph_points=0.2,
        derived_issuer_cap=0.08,
        same_owner_score=0.7,
        thresholds={"Known": 0.1, "Verified": 0.4, "Trusted": 0.7},
        floors=(
            FloorRow("serve", "tier_serve", "Unknown"),
            FloorRow("early_layers", "tier_early_layers", "Known"),
            FloorRow("prefix", "tier_prefix", "Verified"),
            FloorRow("host", "tier_host", "Verified"),
            FloorRow("compute", "tier_compute", "Unknown"),
        ),
        roots=tuple(PrincipalRow(root, "", "", 1.0) for root in roots),
        issuers=(PrincipalRow(BIRCH, "", "birch\x1b[2J", 0.5),),
        early_layers_share=0.1,
        owner_hops_max=None,
        spot_check_share=0.02,
    )


def graph(rows: Sequence[TrustRow]) -> GraphView:
    """Return the three of them that the root leads to, and itself."""
    depths = {ROOT: 0, AMBER: 1, BIRCH: 1}
    nodes = tuple(
        GraphNode(
            r.did, r.peer, r.name, r.tier, r.score, r.score / 2, depths[r.did], r.is_root, False
        )
        for r in rows
        if r.did in depths
    )
    edges = (
        GraphEdge(ROOT, AMBER, 0.8, "PeerEndorsementVC"),
        GraphEdge(ROOT, BIRCH, 0.6, "PeerEndorsementVC"),
        GraphEdge(BIRCH, AMBER, 0.55, "receipts"),
    )
    return GraphView(nodes, edges)


def receipt(peer: str, **changes: object) -> ReceiptRow:
    """Return a receipt whose both halves are here."""
    row = ReceiptRow(
        "AAECAwQFBgcICQoLDA0ODw",
        peer,
        "amber",
        "requester",
        "kwaai-demo",
        LayerRange(1, 4),
        12,
        34,
        "served",
        NOW_S - 600,
        2.5,
        "held",
        "",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


@dataclass
class FakeTrust:
    """A TrustControl over these fields."""

    called: Callable[..., None]
    peer_ids: Sequence[str]
    request: RequestView
    """What `endorse` answers with."""
    rows: list[TrustRow] = field(init=False)
    receipt_rows: list[ReceiptRow] = field(init=False)
    roots: list[str] = field(default_factory=lambda: [ROOT])
    left_out: int = 0

    def __post_init__(self) -> None:
        self.rows = trust_rows(self.peer_ids)
        self.receipt_rows = [receipt(self.peer_ids[0])]

    def _find(self, peer: str) -> TrustRow:
        for row in self.rows:
            if peer and peer in (row.did, row.peer, row.name):
                return row
        raise UserError(f"no peer {peer!r:.80} is known")

    def standing(self, peer: PeerId) -> PeerTrust:
        row = next((row for row in self.rows if row.peer == peer), None)
        return (
            PeerTrust(0.0, 1.0, "Unknown")
            if row is None
            else PeerTrust(row.score, row.uncertainty, row.tier)
        )

    def stats(self) -> Mapping[str, float]:
        return {"trust_roots": len(self.roots), "trust_peers_known": 1, "trust_peers_verified": 1}

    async def peers(self) -> TrustRows:
        self.called("trust_peers")
        return TrustRows(tuple(self.rows), self.left_out)

    async def show(self, peer: str) -> TrustDetail:
        self.called("trust_show", peer)
        return detail(self._find(peer))

    async def explain(self, peer: str) -> ExplanationView:
        self.called("trust_explain", peer)
        return explanation(self._find(peer))

    async def policy(self) -> PolicyView:
        self.called("trust_policy")
        return policy(self.roots)

    async def set_roots(self, roots: Sequence[str]) -> PolicyView:
        self.called("trust_set_roots", tuple(roots))
        self.roots = list(roots)
        return policy(self.roots)

    async def endorse(self, peer: str, statement: str, interactions: int | None) -> RequestView:
        self.called("trust_endorse", peer, statement, interactions)
        return self.request

    async def graph(self, depth: int) -> GraphView:
        self.called("trust_graph", depth)
        return graph(self.rows)

    async def receipts(self, peer: str) -> tuple[ReceiptRow, ...]:
        self.called("trust_receipts", peer)
        return tuple(self.receipt_rows)

    async def refresh(self, peer: str) -> int:
        self.called("trust_refresh", peer)
        return 4
