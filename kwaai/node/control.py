"""What a running node lets its owner's programs see and do: types only, the control socket's other
side.

No socket, no JSON: `kwaai.api.control` carries this over `run/kwaai.sock`, `kwaai.cli.control` asks
for it. `kwaai.node.node` implements it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from kwaai.node.circuit_control import CircuitControl
from kwaai.node.generate import Generator
from kwaai.node.intent_control import IntentControl
from kwaai.node.knowledge_control import KnowledgeControl
from kwaai.node.trust_control import PeerTrust, TrustControl
from kwaai.placement.paths import Candidate, choose_range, inner_gaps, missing_ranges
from kwaai.types import LayerRange, ModelHandle

Say: TypeAlias = Callable[[str], None]
"""Told what is being done now, in a few words. May be called from any thread."""
LinkKind: TypeAlias = Literal["direct", "relayed", "none"]
"""direct: an encrypted link of its own. relayed: link frames inside a libp2p stream."""


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One supervised service of the node."""

    name: str
    state: str
    """starting, running, backoff, failed or stopped."""
    restarts: int = 0
    problem: str | None = None
    """What it failed with last."""


@dataclass(frozen=True, slots=True)
class ServedRow:
    """One range that this node serves to others."""

    model: str
    handle: ModelHandle
    block_count: int
    layers: LayerRange
    head: bool
    state: str
    """joining, online, draining or offline."""
    sessions_open: int
    sessions_max: int
    decode_s: float
    """One token through the whole range, measured; 0: not yet."""
    backend: str = "CPU"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How the node is."""

    state: str
    """starting, online, draining or stopping."""
    peer: str
    name: str
    version: str
    pid: int
    uptime_s: float
    cpu_share: float
    """Of one core, since the last time somebody asked; workers not included."""
    memory_bytes: int
    """Resident, of the node's own process."""
    api: str | None
    """`http://127.0.0.1:11435/v1`, or None while the API does not listen."""
    peers: int
    """Connected now."""
    sessions_open: int
    """Sessions of others that a hop of this node holds."""
    services: tuple[ServiceRow, ...] = ()
    served: tuple[ServedRow, ...] = ()
    answers: int = 0
    """Answers to this node's own clients that are under way."""


@dataclass(frozen=True, slots=True)
class P2pInfo:
    """Who this node is to others, and where it is reached."""

    peer: str
    name: str
    listen: tuple[str, ...]
    """Multiaddresses with /p2p/<peer id>: what another node's `--bootstrap` takes."""
    links: tuple[str, ...]
    """host:port of the encrypted links."""
    bootstrap: tuple[str, ...]
    bootstrap_missing: tuple[str, ...]
    """Those of them that are not connected now."""
    peers: int
    """Connected now."""
    known: int
    """Peers with a fresh record, connected or not."""


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One peer that is connected, or that has a fresh record."""

    peer: str
    name: str
    version: str
    connected: bool
    """Over libp2p."""
    link: LinkKind
    rtt_s: float | None
    bandwidth_bytes_s: float | None
    served: tuple[str, ...]
    """`kwaai-demo [2,4) online`"""
    avoided_s: float = 0.0
    """For how much longer paths leave it out, after a failure."""
    trust: PeerTrust | None = None
    """None: nobody has scored it yet."""


@dataclass(frozen=True, slots=True)
class ChainRow:
    """One range of a model that somebody serves."""

    layers: LayerRange
    peer: str
    name: str
    version: str
    state: str
    rtt_s: float | None
    """None: not measured, or this node itself."""
    is_self: bool
    sessions_free: int
    decode_s: float
    avoided_s: float = 0.0
    """For how much longer paths leave the peer out, after a failure."""
    trust: PeerTrust | None = None
    """None: this node itself, or nobody has scored it yet."""


@dataclass(frozen=True, slots=True)
class ChainView:
    """Who serves what of a model, in the order of layers, and what nobody serves."""

    model: str
    handle: ModelHandle
    block_count: int
    rows: tuple[ChainRow, ...]
    gaps: tuple[LayerRange, ...]
    """Blocks that no online peer holds, the first and the last left out."""
    missing: tuple[LayerRange, ...]
    """What must be served before this node has a path (with its own first and last part)."""
    suggestion: LayerRange | None
    """What `shard serve --auto` would take here; None where nothing fits in memory."""


def chain_view(
    model: str, handle: ModelHandle, block_count: int, rows: Sequence[ChainRow], blocks_max: int
) -> ChainView:
    """Make the view of what `rows` serve. `blocks_max`: how many blocks fit in memory here."""
    rows = sorted(rows, key=lambda row: (row.layers, row.name, row.peer))
    online = [row.layers for row in rows if row.state == "online"]
    coming = [row for row in rows if row.state in ("joining", "online") and not row.is_self]
    suggestion = None
    if blocks_max > 0:
        suggestion = choose_range(
            block_count,
            [Candidate(r.peer, r.name, r.layers, r.decode_s, -1.0, 1) for r in coming],
            blocks_max,
        )
    return ChainView(
        model,
        handle,
        block_count,
        tuple(rows),
        inner_gaps(block_count, online),
        missing_ranges(block_count, online, blocks_max, keeps_tail=True),
        suggestion,
    )


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """Serve a range: `layers`, or None for what the swarm lacks most (--auto)."""

    model: str
    """A name of `models list` or a handle; empty: the node's own."""
    layers: LayerRange | None


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request for a credential or an offer of one, ours or a peer's."""

    id: str
    direction: str
    """in: of a peer, this node's owner decides. out: ours."""
    kind: str
    """request or offer."""
    peer: str
    name: str
    """What the peer calls itself; empty where that is not known."""
    type: str
    state: str
    """pending, approved (issued, not delivered yet), delivered, refused or failed."""
    detail: str
    """Why refused or failed; the credential's id where it was issued or delivered."""
    claims: Mapping[str, Any]
    """What is asked for, or what an offered credential says of its subject."""
    note: str
    created_s: float
    changed_s: float


@dataclass(frozen=True, slots=True)
class ShownCredential:
    """A credential that a peer presented, and whether it counts; its signature held."""

    types: tuple[str, ...]
    issuer: str
    subject: str
    valid_until_s: float | None
    contexts_trusted: bool
    state: str
    """valid, or the code of why it does not count: `credential_revoked`, `status_unknown`."""
    detail: str
    """Why it does not count, for people."""
    text: str
    """The credential as it came."""


@dataclass(frozen=True, slots=True)
class ShownCredentials:
    """What a peer holds about itself; empty where it shows nothing."""

    peer: str
    holder: str
    credentials: tuple[ShownCredential, ...]
    kept: int
    """How many of them were new and are in the wallet now."""


class CredentialControl(Protocol):
    """A running node's dealings in credentials with peers, to its owner. `peer` is a PeerId, its
    end, or a name. All methods raise KwaaiError.
    """

    async def request(
        self, peer: str, kind: str, claims: Mapping[str, Any], note: str
    ) -> RequestView:
        """Ask a peer to issue a credential of type `kind` about this node."""

    async def offer(self, peer: str, credential: str, note: str) -> RequestView:
        """Offer a peer a credential, given as its JSON text."""

    async def approve(self, request_id: str, claims: Mapping[str, Any] | None) -> RequestView:
        """Issue what a peer asked for, or keep what it offered."""

    async def refuse(self, request_id: str, reason: str) -> RequestView:
        """Refuse a peer's request or offer."""

    async def requests(self) -> tuple[RequestView, ...]:
        """Requests and offers, both ways, newest first."""

    async def fetch(self, peer: str, kinds: Sequence[str], *, keep: bool) -> ShownCredentials:
        """Ask a peer what it holds about itself, and verify that."""

    async def status_list(self, url: str) -> str:
        """Return a status list as JSON text: this home's, a kept one, or that of a peer. Raises
        CredentialUnknown.
        """


class NodeControl(Protocol):
    """A running node, to its owner. All methods belong to the node's event loop; each raises
    KwaaiError.
    """

    @property
    def generator(self) -> Generator:
        """Who answers: requests with `route`, `privacy` and `on_path` understood."""

    @property
    def credentials(self) -> CredentialControl:
        """Credentials asked of peers and given to them. Raises ResourceError while the wallet is
        not open.
        """

    @property
    def trust(self) -> TrustControl:
        """Whom this node trusts how far, and why. Raises ResourceError while the evidence is not
        open.
        """

    @property
    def intents(self) -> IntentControl:
        """What peers would do for a request, and which path meets it."""

    @property
    def circuits(self) -> CircuitControl:
        """Paths that are kept open for reuse."""

    @property
    def knowledge(self) -> KnowledgeControl:
        """Knowledge bases, and the hosts that keep them. Raises ResourceError while they are not
        open.
        """

    def status(self) -> NodeStatus: ...

    def p2p_info(self) -> P2pInfo: ...

    def peers(self) -> tuple[PeerRow, ...]:
        """Connected peers first."""

    async def ping(self, peer: str, timeout_s: float) -> float:
        """Return the seconds of one round trip over the link, which is made if there is none.

        `peer` is a PeerId or the name of a known peer. Raises UserError for neither, PeerError.
        """

    async def connect(self, address: str, timeout_s: float) -> str:
        """Connect to a multiaddress that ends in /p2p/<peer id>; return the PeerId."""

    async def chain(self, model: str, *, refresh: bool) -> ChainView:
        """Say who serves what of `model` (empty: the node's own). `refresh` asks the swarm first.

        Raises ModelNotFound.
        """

    async def serve(self, request: ServeRequest, say: Say) -> ServedRow:
        """Load a range (fetched or cut first, where it is not on this disk) and announce it.

        Returns when it is online. Raises UserError, ModelNotFound, OutOfMemory, DownloadFailed.
        """

    async def unserve(self, model: str, layers: LayerRange | None) -> tuple[LayerRange, ...]:
        """Drain and withdraw a range, or all of the model's; return what was withdrawn."""

    async def drain(self, grace_s: float) -> int:
        """Take no new sessions, wait for the running ones; return how many were cut off."""

    def stop(self, grace_s: float) -> None:
        """Begin to stop, and return: drain, then end. The socket goes away when it is done."""
