"""What peers ask of this node in credentials, and what they get.

A request or an offer waits for the owner's word, unless its type is issued unasked; what is not
about the asker is never issued. Nothing of a peer's is verified here but its shape: that is done
when the owner takes it. docs/protocol/credentials.md.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeAlias

from credentials.did import did_key
from credentials.document import encode_document, parse_document
from credentials.errors import CredentialsError
from credentials.keys import PeerId, parse_peer_id
from credentials.kinds import find_kind
from kwaai import limits
from kwaai.errors import (
    Busy,
    CredentialMissing,
    CredentialRefused,
    KwaaiError,
    PeerRefused,
    RequestClosed,
)
from kwaai.log import get_logger
from kwaai.net.network import Network
from kwaai.node.credential_desk import CredentialDesk, last_type, short
from kwaai.node.rates import Rates
from kwaai.store.requests import CredentialRequest, RequestKind
from kwaai.wire.credential_messages import (
    PROTOCOL,
    Answer,
    Ask,
    Collect,
    Deliver,
    Document,
    FetchStatus,
    Offer,
    Show,
    encode_answer,
    encode_document_answer,
    parse_request,
)

Receive: TypeAlias = Callable[[CredentialRequest, bytes], Awaitable[CredentialRequest]]
"""Verifies and keeps what this node asked for. Raises KwaaiError."""

log = get_logger(__name__)


class CredentialInbox:
    """The answering side. Belongs to the event loop."""

    def __init__(
        self,
        network: Network,
        desk: CredentialDesk,
        receive: Receive,
        *,
        auto_issue: Collection[str],
        shares: bool,
    ) -> None:
        self._desk = desk
        self._receive = receive
        self._auto_issue = frozenset(auto_issue)
        self._shares = shares
        self._rates = Rates(limits.CREDENTIAL_ASKS_PER_S, limits.CREDENTIAL_ASKS_BURST)
        self._issues = Rates(limits.AUTO_ISSUES_PER_S, limits.AUTO_ISSUES_BURST)
        self._delivering: set[PeerId] = set()
        self.counters: Counter[str] = Counter()
        network.handle_requests(PROTOCOL, self._answer)

    async def _answer(self, peer: PeerId, body: bytes) -> bytes:
        """Answer a peer. Raises Busy, PeerRefused, WireError: it is then refused."""
        if not self._rates.take(peer, asyncio.get_running_loop().time()):
            self.counters["dropped_rate"] += 1
            raise Busy("you ask about credentials too often: wait", retry_after_s=2.0)
        request = parse_request(body)
        self.counters["answered"] += 1
        match request:
            case Show():
                return encode_document_answer(Document(await self._show(peer, request)))
            case FetchStatus():
                return encode_document_answer(Document(await self._status(request.url)))
            case Ask():
                return encode_answer(await self._take_ask(peer, request))
            case Offer():
                return encode_answer(await self._take_offer(peer, request))
            case Collect():
                return encode_answer(await self._tell(peer, request))
            case Deliver():
                return encode_answer(await self._take_delivery(peer, request))

    async def _show(self, peer: PeerId, request: Show) -> bytes:
        if not self._shares:
            return b""
        to = did_key(parse_peer_id(peer))
        try:
            presentation = await self._desk.run_here(
                self._desk.office.present, to, request.challenge, types=request.kinds, recall=True
            )
        except CredentialMissing:
            return b""
        data = encode_document(presentation)
        return data if len(data) <= limits.CREDENTIAL_MESSAGE_BYTES_MAX else b""

    async def _status(self, url: str) -> bytes:
        try:
            return await self._desk.status_list(url)
        except (CredentialMissing, CredentialRefused):
            return b""

    async def _take_ask(self, peer: PeerId, ask: Ask) -> Answer:
        known = await self._desk.find("in", peer, ask.id)
        if known is not None:
            return await self._answer_of(known)
        try:
            name = find_kind(ask.kind).name
            claims = parse_document(ask.claims, bytes_max=limits.CREDENTIAL_CLAIMS_BYTES_MAX)
        except CredentialsError as error:
            return Answer("refused", short(str(error)))
        row = await self._keep("request", peer, name, {"claims": claims, "note": ask.note}, ask.id)
        if isinstance(row, Answer):
            return row
        if name in self._auto_issue and await self._may_issue(peer, name):
            try:
                row = await self._desk.issue(row, claims)
            except KwaaiError as error:
                row = await self._desk.settle(row, "refused", error.message)
            return await self._answer_of(row)
        log.info("credential_requested", peer=peer, type=name)
        return Answer("pending")

    async def _may_issue(self, peer: PeerId, name: str) -> bool:
        """Say whether a type is issued unasked now; what is not waits for the owner."""
        now_s = asyncio.get_running_loop().time()
        return await self._desk.may_issue_again(peer, name) and self._issues.take("all", now_s)

    async def _take_offer(self, peer: PeerId, offer: Offer) -> Answer:
        known = await self._desk.find("in", peer, offer.id)
        if known is not None:
            return await self._answer_of(known)
        most = limits.CREDENTIAL_OFFER_BYTES_MAX
        if len(offer.credential) > most:
            return Answer("refused", f"at most {most} bytes can be offered")
        try:
            types = parse_document(offer.credential).get("type")
        except CredentialsError as error:
            return Answer("refused", short(str(error)))
        body = {"credential": offer.credential.decode(), "note": offer.note}
        row = await self._keep("offer", peer, last_type(types), body, offer.id)
        if isinstance(row, Answer):
            return row
        log.info("credential_offered", peer=peer, type=row.type)
        return Answer("pending")

    async def _keep(
        self, kind: RequestKind, peer: PeerId, type_: str, body: Mapping[str, Any], id_: bytes
    ) -> CredentialRequest | Answer:
        """Put a peer's request or offer into the book, or say why that is not possible."""
        try:
            return await self._desk.open("in", kind, peer, type_, body, id_)
        except KwaaiError as error:
            return Answer("refused", short(error.message))

    async def _tell(self, peer: PeerId, collect: Collect) -> Answer:
        row = await self._desk.find("in", peer, collect.id)
        return Answer("unknown") if row is None else await self._answer_of(row)

    async def _answer_of(self, row: CredentialRequest) -> Answer:
        """Say how a peer's request or offer stands, with the credential where it is issued."""
        if row.state == "refused":
            return Answer("refused", row.detail)
        if row.state == "pending":
            return Answer("pending")
        if row.state not in ("approved", "delivered"):
            return Answer("unknown")
        if row.kind == "offer":
            return Answer("issued")
        data = await self._desk.issued_bytes(row.detail)
        return Answer("issued", credential=data)

    async def _take_delivery(self, peer: PeerId, delivery: Deliver) -> Answer:
        """Keep what this node asked the peer for; what it did not ask for is refused."""
        row = await self._desk.find("out", peer, delivery.id)
        if row is None or row.kind != "request":
            raise PeerRefused("this node did not ask you for that", peer=peer)
        if row.state == "delivered":
            return Answer("issued")
        if row.state not in ("pending", "failed"):
            return Answer("refused", "it is not wanted any more")
        if peer in self._delivering:
            raise Busy("what you delivered before is being verified: wait", retry_after_s=2.0)
        self._delivering.add(peer)
        try:
            await self._receive(row, delivery.credential)
        except RequestClosed:  # it was collected meanwhile
            row = await self._desk.find("out", peer, delivery.id)
            return Answer("issued" if row and row.state == "delivered" else "refused")
        except KwaaiError as error:
            return Answer("refused", short(error.message))
        finally:
            self._delivering.discard(peer)
        return Answer("issued")
