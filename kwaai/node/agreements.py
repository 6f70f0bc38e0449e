"""A node's agreements with others, wired: intents and offers, receipts, spot checks, what each path
came to.

Makes the parts, gives them what they ask of the node, and runs those that are services. Does no
part's work itself. docs/intents.md, docs/protocol/receipts.md.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from credentials.keys import PeerId, SecretKey
from kwaai import limits
from kwaai.errors import KwaaiError
from kwaai.intent.demand import Demand
from kwaai.intent.offer import CredentialRef
from kwaai.log import get_logger
from kwaai.node.accounts import ServedLedger
from kwaai.node.capabilities import Capability, capabilities_of
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.credential_service import CredentialService
from kwaai.node.intent_control import NodeIntents
from kwaai.node.intent_planner import RoutePlanner
from kwaai.node.negotiate import Negotiator
from kwaai.node.path_intents import PathIntents
from kwaai.node.path_watch import PathWatch
from kwaai.node.receipts import EVIDENCE, Receipts
from kwaai.node.remote import RemotePlan
from kwaai.node.services import Ready
from kwaai.node.spot_check import SpotChecker
from kwaai.node.standings import early_stop_of
from kwaai.node.swarm_generator import SwarmGenerator
from kwaai.node.trust_control import Counterpart
from kwaai.node.trust_control import ReceiptRow as ReceiptView
from kwaai.node.trust_service import TrustService
from kwaai.store.receipts import ReceiptBook, ReceiptRow
from kwaai.trust.evidence import Outcome
from kwaai.trust.policy import DAY_S
from kwaai.trust.tiers import Floors, Tier
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.requester import HopPlan

if TYPE_CHECKING:
    from kwaai.node.node import Node

log = get_logger(__name__)

RECEIPT_DISPUTED = "receipt_disputed"
"""The code of a failure that lies between two hops: their receipts say different things."""


class Agreements:
    """One node's agreements with others. Belongs to the event loop."""

    def __init__(
        self,
        node: Node,
        trust: TrustService,
        credentials: CredentialService,
        secret: SecretKey,
    ) -> None:
        self._node, self._trust, self._credentials = node, trust, credentials
        self._secret = secret
        self._own: tuple[CredentialRef, ...] = ()
        self._book: ReceiptBook | None = None
        self.ledger = ServedLedger()
        self.negotiator = Negotiator(node.network, secret, self)
        self.intents = PathIntents(self.negotiator)
        self.watch = PathWatch(self.intents, trust, node.links, self._early_stop)
        self.spot_checks: SpotChecker | None = None
        self._generator: SwarmGenerator | None = None

    def attach(self, generator: SwarmGenerator) -> None:
        """Tell who answers. Before the node starts."""
        config = self._node.config
        planner = RoutePlanner(config, self._node.slices, generator.routes, self._trust)
        self.control = NodeIntents(self.negotiator, planner, self._node.view.name_of)
        self._generator = generator

    # What the negotiator asks: negotiate.Policy.

    def tier(self, peer: PeerId) -> Tier:
        """See Policy."""
        return self._trust.standing(peer).tier

    def floors(self) -> Floors:
        """See Policy."""
        return self._trust.floors

    def capabilities(self) -> Sequence[Capability]:
        """See Policy."""
        if self._node.shards.is_draining:
            return ()
        served = self._node.serving.served()
        return capabilities_of(served, self._node.serving.model_facts())

    def credentials(self) -> Sequence[CredentialRef]:
        """See Policy."""
        return self._own

    # Services.

    async def run_receipts(self, ready: Ready) -> None:
        """Exchange receipts until cancelled. Raises ResourceError while the wallet is not open."""
        office, config = self._credentials.office(), self._node.config
        book = ReceiptBook(office.wallet.database)
        receipts = Receipts(
            self._node.network,
            self._secret,
            self.ledger,
            book,
            on_result=self._on_receipt,
            shows=config.share_credentials,
            keep_s=config.trust_evidence_days * DAY_S,
        )
        self._book, self.watch.receipts = book, receipts
        self._trust.ask_receipts(receipts.fetch)
        look = asyncio.create_task(self._keep_own(office), name="own-credentials")
        try:
            await receipts.run(ready)
        finally:
            self._book = self.watch.receipts = None
            look.cancel()
            await asyncio.gather(look, return_exceptions=True)

    async def run_spot_checks(self, ready: Ready) -> None:
        """Check answers until cancelled."""
        assert self._generator is not None, "attach() comes first"
        checker = SpotChecker(
            self._generator.requesters,
            self._holders,
            self._owner_of,
            self,
            share=self._node.config.spot_check_share,
            make_intent=self._intent_of,
            is_busy=lambda: self._node.generator.under_way > 0,
            tier_of=self.tier,
        )
        self.spot_checks = self.watch.spot_checks = checker
        self._generator.routes.in_doubt = checker.watch.is_watched
        try:
            await checker.run(ready)
        finally:
            self.watch.spot_checks = None

    def spot_check(self, peer: str, outcome: Outcome) -> None:
        """Note what a spot check found; see SpotObserver."""
        if self._trust.observer is not None:
            self._trust.observer.spot_check(peer, outcome)

    def stats(self) -> dict[str, float]:
        """Return counters and gauges for /metrics."""
        found = dict(self.negotiator.stats())
        if self.watch.receipts is not None:
            found |= self.watch.receipts.stats()
        if self.spot_checks is not None:
            counters = self.spot_checks.counters
            found |= {"spot_checks": counters.checked, "spot_checks_failed": counters.disagreed}
        return found

    def receipt_rows(self, peer: str) -> list[ReceiptView]:
        """Return the newest receipts of a PeerId; of all peers for an empty text. Blocks."""
        if self._book is None:
            return []
        rows = self._book.rows(peer or None, limit=limits.TRUST_RECEIPT_ROWS_MAX)
        models = {row.model.handle: row.model.name for row in self._node.slices.loaded()}
        return [_view(row, self._node.view.name_of(row.peer), models) for row in rows]

    # Parts of these.

    def _early_stop(self, block_count: int) -> int:
        return early_stop_of(self._node.config.early_layers_share, block_count)

    def _on_receipt(self, row: ReceiptRow) -> None:
        if row.role == "requester" and row.counterpart is not None:
            self.intents.on_receipt(row.session, PeerId(row.peer), row.counterpart)
        outcome, observer = EVIDENCE.get(row.state), self._trust.observer
        if observer is None:
            return
        if row.state == "disputed":  # by a neighbour of it, whom anybody can be
            observer.accused(row.peer, RECEIPT_DISPUTED)
        elif outcome is not None:
            observer.note(row.peer, outcome, code=f"receipt_{row.state}")

    def _intent_of(self, plan: RemotePlan) -> bytes:
        return self.negotiator.make(plan.handle, Demand(), "private").data

    def _holders(self, handle: ModelHandle, layers: LayerRange) -> list[HopPlan]:
        """Return who else serves exactly these layers now."""
        directory, own = self._node.directory, self._node.network.peer_id
        return [
            HopPlan(record.peer, layers, directory.link_addresses(record.peer))
            for record in directory.records(handle)
            if record.peer != own and not record.withdrawn
            for served in record.served
            if served.handle == handle and served.layers == layers and served.state == "online"
        ]

    def _owner_of(self, peer: PeerId) -> str:
        standing = self._trust.standing(peer)
        return standing.owner or standing.peer

    async def _keep_own(self, office: CredentialOffice) -> None:
        """Look now and then what offers may refer to."""
        while self._node.config.share_credentials:
            try:
                stored = await asyncio.to_thread(office.own_credentials)
            except KwaaiError as error:
                log.warning("own_credentials_unread", problem=error.message)
            else:
                self._own = tuple(
                    CredentialRef(
                        next((t for t in one.entry.types if t != "VerifiableCredential"), "VC"),
                        one.entry.issuer,
                        f"sha256:{hashlib.sha256(one.original).hexdigest()}",
                    )
                    for one in stored
                )
            await asyncio.sleep(limits.OWN_CREDENTIALS_LOOK_S)


_COUNTERPARTS: dict[str, Counterpart] = {
    "agreed": "held",
    "contradicted": "contradicts",
    "disputed": "contradicts",
}


def _view(row: ReceiptRow, name: str, models: dict[ModelHandle, str]) -> ReceiptView:
    return ReceiptView(
        nonce=row.nonce,
        peer=row.peer,
        name=name,
        role=row.role,
        model=models.get(ModelHandle(row.model), row.model),
        layers=row.layers,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.answer_tokens,
        outcome=row.outcome,
        started_s=row.started_s,
        elapsed_s=row.finished_s - row.started_s,
        counterpart=_COUNTERPARTS.get(row.state, "missing"),
        detail=row.detail,
    )
