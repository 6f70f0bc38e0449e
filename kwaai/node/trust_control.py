"""What a running node tells its owner about trust: types only, the control socket's other side.

No socket, no JSON, no scoring: `kwaai.api.control_trust` carries this, `kwaai.cli.trust` shows it,
`kwaai.trust` is where the numbers come from. Units: scores, points and shares are in [0, 1], times
are Unix seconds, principals are DIDs in canonical form. docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from credentials.keys import PeerId
from kwaai.types import LayerRange

if TYPE_CHECKING:
    from kwaai.node.control import RequestView

Counterpart: TypeAlias = Literal["held", "missing", "contradicts"]
"""Of a receipt: the other side's half is here, did not come, or says something else than ours."""


@dataclass(frozen=True, slots=True)
class PeerTrust:
    """What stands beside a peer in other tables."""

    score: float
    uncertainty: float
    """1: nothing is known. 0: nothing more would change it."""
    tier: str
    """Unknown, Known, Verified or Trusted."""


@dataclass(frozen=True, slots=True)
class TrustRow:
    """One principal that this node has a score for, or that is connected."""

    did: str
    peer: str
    """Its PeerId; empty where the DID is no node's key."""
    name: str
    """What it calls itself; empty where no record of it is known."""
    owner: str
    """The owner's DID, by a binding that the node itself presented; empty: none."""
    score: float
    uncertainty: float
    tier: str
    credentials: int
    """Verified ones that it presented and that hold now, counted or not."""
    observations: int
    """Outcomes of this node's own dealings with it, that are kept."""
    endorsements: int
    """Of it, by others, that hold now."""
    connected: bool
    is_root: bool = False
    """One of the node's trust roots."""


@dataclass(frozen=True, slots=True)
class TrustRows:
    """Principals, the best score first."""

    rows: tuple[TrustRow, ...]
    left_out: int = 0
    """How many more there are than TRUST_ROWS_MAX."""


@dataclass(frozen=True, slots=True)
class AttestationRow:
    """One credential about a peer that it presented itself."""

    id: str
    type: str
    issuer: str
    valid_from_s: float
    valid_until_s: float | None
    state: str
    """`counts`, or the code of why it counts zero: `self_issued`, `issuer_unknown`, `superseded`,
    `credential_revoked`...
    """
    points: float
    """What it adds to the score."""


@dataclass(frozen=True, slots=True)
class EndorsementRow:
    """One edge of the trust graph, seen from one of its ends."""

    other: str
    """The principal at the other end."""
    name: str
    weight: float
    """After decay and after what the endorser answers for."""
    at_s: float
    source: str
    """`PeerEndorsementVC`, `receipts`..."""


@dataclass(frozen=True, slots=True)
class BehaviourView:
    """What this node itself saw of a peer."""

    outcomes: Mapping[str, int]
    """How many of each outcome are kept, by its name: served, failed, stalled..."""
    value: float
    """The reputation that follows: the prior where nothing was seen."""
    prior: float
    confidence: float
    """How much the observations weigh against the prior, in [0, 1)."""
    parts: Mapping[str, float]
    """The same for each facet: availability, correctness, throughput, latency."""
    first_s: float | None
    last_s: float | None


@dataclass(frozen=True, slots=True)
class ActionRow:
    """What a peer may do here, and by which rule."""

    action: str
    """serve, early_layers, prefix, host or compute."""
    key: str
    """The config key of the floor: `tier_serve`."""
    floor: str
    is_allowed: bool
    detail: str
    """Why not, and what would change it; for `compute`, its share when there is a queue."""


@dataclass(frozen=True, slots=True)
class TrustDetail:
    """All that this node knows of one principal."""

    row: TrustRow
    attestations: tuple[AttestationRow, ...]
    behaviour: BehaviourView | None
    """None where nothing was seen of it."""
    endorsed_by: tuple[EndorsementRow, ...]
    endorses: tuple[EndorsementRow, ...]
    actions: tuple[ActionRow, ...]
    computed_s: float
    """When the score was computed last."""


@dataclass(frozen=True, slots=True)
class ReasonView:
    """One line of why a score is what it is. Points of siblings add up to their parent's."""

    kind: str
    """credential, behaviour, graph, owner, cap, penalty or ignored."""
    text: str
    points: float
    """What it adds to the score; below zero: what it takes."""
    share: float
    """Of all that is added; 0 for what takes, and for what counts nothing."""
    source: str
    """What it rests on: a credential's id, a principal, a config key; may be empty."""
    children: tuple[ReasonView, ...] = ()


@dataclass(frozen=True, slots=True)
class TrustPathView:
    """One way from a trust root to the principal."""

    steps: tuple[str, ...]
    """Principals, the root first."""
    names: tuple[str, ...]
    """What they call themselves, in the same order; `this node` for its own key, empty where not
    known.
    """
    weights: tuple[float, ...]
    """Of the edges between them: one less than steps."""
    share: float
    """Of the graph's part of the score."""


@dataclass(frozen=True, slots=True)
class ExplanationView:
    """A score as a tree of evidence."""

    row: TrustRow
    reasons: tuple[ReasonView, ...]
    """Their points add up to the score."""
    paths: tuple[TrustPathView, ...]
    """The strongest ones, at most three."""
    raises: tuple[str, ...]
    """What would raise it, in words that a person can act on."""
    next_tier: str
    """The tier above; empty for the highest."""
    missing: float
    """What the score lacks for that tier; 0 for the highest."""


@dataclass(frozen=True, slots=True)
class FloorRow:
    """The tier that an action needs."""

    action: str
    key: str
    tier: str


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    """A principal that the policy names."""

    did: str
    peer: str
    name: str
    trust: float
    """1 for a root; what the config says for an issuer."""


@dataclass(frozen=True, slots=True)
class PolicyView:
    """By what this node scores and gates: its config, with the defaults."""

    own: str
    """This node's principal."""
    owner: str
    """Its owner's; empty: none."""
    weights: Mapping[str, float]
    """By credential type: what a fresh one of a fully trusted issuer adds."""
    half_life_s: float
    """Of a credential's weight."""
    behaviour_half_life_s: float
    """Of an observation's."""
    behaviour_points: float
    """What the best behaviour adds."""
    graph_points: float
    """What the best place in the graph adds."""
    derived_issuer_cap: float
    """What all issuers together add that are neither roots nor listed."""
    same_owner_score: float
    """The least score of a node of the same owner."""
    thresholds: Mapping[str, float]
    """By tier: the score from which it holds."""
    floors: tuple[FloorRow, ...]
    roots: tuple[PrincipalRow, ...]
    issuers: tuple[PrincipalRow, ...]
    early_layers_share: float
    """Which part of a model's layers, from its first, counts as early."""
    owner_hops_max: int | None
    """Hops of one owner in a path; None: any number."""
    spot_check_share: float
    """Of answers after which a second peer repeats a part."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A principal in the trust graph."""

    did: str
    peer: str
    name: str
    tier: str
    score: float
    graph: float
    """The graph's own value of it, in [0, 1]."""
    depth: int
    """Edges from the nearest root."""
    is_root: bool
    is_own: bool


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """Somebody endorses somebody."""

    by: str
    of: str
    weight: float
    source: str


@dataclass(frozen=True, slots=True)
class GraphView:
    """The trust graph around the roots: the nearest principals, then those of the best score."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    """Between those nodes only."""
    nodes_left_out: int = 0
    edges_left_out: int = 0


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One inference for or by a peer, as both sides signed it."""

    nonce: str
    """`requestNonce` of both halves."""
    peer: str
    name: str
    role: str
    """What this node was: requester or hop."""
    model: str
    """A name where it is known, else the handle."""
    layers: LayerRange | None
    prompt_tokens: int
    completion_tokens: int
    outcome: str
    started_s: float
    elapsed_s: float
    counterpart: Counterpart
    detail: str
    """What contradicts, or why the other half is missing; empty where it is held."""


class TrustControl(Protocol):
    """What a running node's owner may ask of its trust in others.

    `peer` is a PeerId, its end, a name, or a DID. All methods belong to the node's event loop and
    raise KwaaiError: UserError for a peer that nobody knows, ResourceError while the evidence is
    not open.
    """

    def standing(self, peer: PeerId) -> PeerTrust:
        """Return what stands beside a PeerId in other tables; never raises for an unknown one."""

    def stats(self) -> Mapping[str, float]:
        """Return counters and gauges, by the names of `kwaai.api.metrics.TRUST_STATS`."""

    async def peers(self) -> TrustRows:
        """Return everybody with a score or a connection."""

    async def show(self, peer: str) -> TrustDetail:
        """Return what is known of a peer."""

    async def explain(self, peer: str) -> ExplanationView:
        """Return why its score is what it is."""

    async def policy(self) -> PolicyView:
        """Return by what this node scores and gates."""

    async def set_roots(self, roots: Sequence[str]) -> PolicyView:
        """Trust exactly these DIDs as roots from now on, and compute anew. Writes no config."""

    async def endorse(self, peer: str, statement: str, interactions: int | None) -> RequestView:
        """Issue a PeerEndorsementVC about a peer and offer it to the peer.

        `interactions`: how many the statement rests on; None: as many as this node has seen.
        Raises UserError for a peer of which nothing was seen.
        """

    async def graph(self, depth: int) -> GraphView:
        """Return the graph up to `depth` edges from the roots."""

    async def receipts(self, peer: str) -> tuple[ReceiptRow, ...]:
        """Return the newest receipts of a peer; of all peers for an empty one."""

    async def refresh(self, peer: str) -> int:
        """Ask a peer (empty: all that are connected) anew for what it holds, and compute anew.

        Returns how many credentials hold now.
        """
