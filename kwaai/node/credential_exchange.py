"""What this node's owner does with peers in credentials: asks, offers, decides, looks at theirs.

Wires the asking side (`credential_peers`) and the answering side (`credential_inbox`) to the office
and the book (`credential_desk`), and looks after what is under way: what was approved is delivered,
what was asked for is collected. docs/protocol/credentials.md.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from credentials.did import did_key
from credentials.document import parse_document
from credentials.keys import PeerId, parse_peer_id
from credentials.kinds import find_kind
from credentials.policy import NODE_POLICY
from credentials.verified import VerifiedCredential
from credentials.verify import status_lists_needed
from credentials.wallet import StoredCredential
from kwaai import limits
from kwaai.errors import (
    CredentialRefused,
    CredentialUnknown,
    KwaaiError,
    PeerMisbehaved,
    UserError,
)
from kwaai.log import get_logger
from kwaai.net.network import Network
from kwaai.node.credential_desk import CredentialDesk, findings, last_type, short
from kwaai.node.credential_inbox import CredentialInbox
from kwaai.node.credential_office import CredentialOffice, names_of
from kwaai.node.credential_peers import CredentialPeers
from kwaai.node.services import Ready
from kwaai.store.requests import CredentialRequest, RequestBook, RequestKind
from kwaai.wire.credential_messages import (
    REQUEST_ID_BYTES,
    Answer,
    Ask,
    Collect,
    Deliver,
    Offer,
    Show,
)

log = get_logger(__name__)


_SIGNATURES_ONLY: Final = frozenset({"issuer"})
"""What of each presented credential must hold for any of them to be looked at."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a peer presented about itself."""

    holder: str
    credentials: tuple[tuple[VerifiedCredential, CredentialRefused | None], ...]
    """Each with why it does not count: expired, revoked, unknown; None where it does."""


class CredentialExchange:
    """One node's dealings in credentials. Belongs to the event loop.

    `auto_issue`: types that are issued to whoever asks; `shares`: whether peers are shown what this
    node holds about itself.
    """

    def __init__(
        self,
        network: Network,
        office: CredentialOffice,
        book: RequestBook,
        peers: CredentialPeers,
        *,
        auto_issue: Collection[str] = (),
        shares: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._network = network
        self._office = office
        self._peers = peers
        self._desk = CredentialDesk(office, book, clock)
        self._inbox = CredentialInbox(
            network, self._desk, self._receive, auto_issue=auto_issue, shares=shares
        )
        self._beginning: set[str] = set()
        self._wake = asyncio.Event()
        network.add_listener(self._on_peer)

    @property
    def counters(self) -> Counter[str]:
        """What was answered and dropped."""
        return self._inbox.counters

    async def run(self, ready: Ready) -> None:
        """Settle what is under way, whenever a peer comes and now and then, until cancelled."""
        self._peers.open()
        ready()
        try:
            while True:
                self._wake.clear()
                await self.settle()
                try:
                    async with asyncio.timeout(limits.CREDENTIAL_COLLECT_S):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            self._peers.close()
            self._desk.close()

    def _on_peer(self, peer: PeerId, is_here: bool) -> None:
        if is_here:
            self._wake.set()

    async def request(
        self, peer: PeerId, kind: str, claims: Mapping[str, Any], note: str = ""
    ) -> CredentialRequest:
        """Ask a peer to issue a credential about this node. Raises CredentialRefused, UserError;
        where the peer is not reached the request has failed.
        """
        with findings():
            name = find_kind(kind).name
        wanted = json.dumps(dict(claims), allow_nan=False).encode()
        if len(wanted) > limits.CREDENTIAL_CLAIMS_BYTES_MAX:
            raise UserError(f"the claims have over {limits.CREDENTIAL_CLAIMS_BYTES_MAX} bytes")
        body = {"claims": dict(claims), "note": short(note)}
        message = Ask(secrets.token_bytes(REQUEST_ID_BYTES), name, wanted, short(note))
        return await self._begin("request", peer, name, body, message)

    async def offer(self, peer: PeerId, credential: bytes, note: str = "") -> CredentialRequest:
        """Offer a peer a credential about it. Raises CredentialRefused for one that does not hold
        or is about somebody else, UserError.
        """
        if len(credential) > limits.CREDENTIAL_OFFER_BYTES_MAX:
            raise UserError(f"only {limits.CREDENTIAL_OFFER_BYTES_MAX} bytes can be offered")
        verified = await self._desk.run(self._office.verify, credential)
        if verified.subject not in _names_of(peer):
            raise CredentialRefused(f"it is about {verified.subject}, not about that peer")
        body = {"credential": credential.decode(), "note": short(note)}
        message = Offer(secrets.token_bytes(REQUEST_ID_BYTES), credential, short(note))
        return await self._begin("offer", peer, last_type([*verified.types]), body, message)

    async def _begin(
        self,
        kind: RequestKind,
        peer: PeerId,
        type_: str,
        body: Mapping[str, Any],
        message: Ask | Offer,
    ) -> CredentialRequest:
        name = message.id.hex()
        self._beginning.add(name)  # the peer does not know of it yet: nothing to collect
        try:
            row = await self._desk.open("out", kind, peer, type_, body, message.id)
            try:
                answer = await self._peers.send(peer, message)
            except KwaaiError as error:
                return await self._desk.settle(row, "failed", error.message)
        finally:
            self._beginning.discard(name)
        return await self._take_answer(row, answer)

    async def approve(
        self, request_id: str, claims: Mapping[str, Any] | None = None
    ) -> CredentialRequest:
        """Issue what a peer asked for (with other `claims`, where they are given), or keep what it
        offered. Raises CredentialMissing, RequestClosed, CredentialRefused.
        """
        row = await self._desk.find_pending(request_id)
        body = json.loads(row.body)
        if row.kind == "offer":
            return await self._take_offer(row, body["credential"].encode())
        row = await self._desk.issue(row, body["claims"] if claims is None else claims)
        try:
            return await self._deliver(row)
        except KwaaiError as error:
            log.info("credential_not_delivered", peer=row.peer, reason=error.message)
            return row  # `settle` tries again when the peer is there

    async def _take_offer(self, row: CredentialRequest, data: bytes) -> CredentialRequest:
        with findings():
            urls = status_lists_needed(parse_document(data))
        async with self._peers.presented_by(PeerId(row.peer), urls):
            verified = await self._desk.run(self._office.verify, data)
            if not self._office.is_about_us(verified.subject):
                raise CredentialRefused("what is offered is about somebody else; refuse it")
            stored = await self._desk.run(self._office.import_credential, data)
        return await self._desk.settle(row, "delivered", stored.id)

    async def refuse(self, request_id: str, reason: str = "") -> CredentialRequest:
        """Refuse a peer's request or offer. Raises CredentialMissing, RequestClosed."""
        row = await self._desk.find_pending(request_id)
        return await self._desk.settle(row, "refused", reason or "refused by its owner")

    async def requests(self) -> list[CredentialRequest]:
        """Return requests and offers, both ways: what waits first, the newest first."""
        return await self._desk.rows()

    async def fetch(
        self,
        peer: PeerId,
        kinds: Sequence[str] = (),
        asks: Callable[[str], bool] = lambda _: True,
    ) -> Shown | None:
        """Ask a peer what it holds about itself; None where it shows nothing. Raises PeerError,
        CredentialRefused where a signature does not hold; of the rest each has its own finding.

        asks: by which issuers (DIDs) credentials are worth asking others for status lists; those of
        the rest are judged by the lists that are kept here.
        """
        challenge = secrets.token_urlsafe(24)
        data = await self._peers.ask(peer, Show(challenge, tuple(kinds)))
        if not data:
            return None
        with findings():
            urls = status_lists_needed(parse_document(data))
        async with self._peers.presented_by(peer, urls):
            presentation = await self._desk.run(
                self._office.verify_presentation,
                data,
                challenge=challenge,
                domain=self._office.did,
                checks=_SIGNATURES_ONLY,
                asks=False,
            )
            if presentation.holder not in _names_of(peer):
                raise PeerMisbehaved(f"{peer} presents what {presentation.holder} holds", peer=peer)
            found = [await self._judge(one, asks(one.issuer)) for one in presentation.credentials]
        return Shown(presentation.holder, tuple(found))

    async def _judge(
        self, credential: VerifiedCredential, asks: bool
    ) -> tuple[VerifiedCredential, CredentialRefused | None]:
        try:
            verify = partial(self._office.verify, policy=NODE_POLICY, asks=asks)
            return await self._desk.run(verify, credential.original), None
        except CredentialRefused as error:
            return credential, error

    async def keep(self, shown: Shown) -> int:
        """Store what a peer presented and what holds; return how many of it were new."""
        kept = 0
        for credential, finding in shown.credentials:
            if finding is None and not await self._desk.is_kept(credential.original):
                await self._desk.run(self._office.import_credential, credential.original)
                kept += 1
        return kept

    async def status_list(self, url: str) -> bytes:
        """Return a status list, from wherever it may come. Raises CredentialUnknown."""
        return await self._desk.run(self._office.checker.fetch_status, url)

    # What is under way.

    async def settle(self) -> None:
        """Deliver what was approved, and ask what became of what we asked for; connected peers
        only. One that does not answer holds up nobody but itself.
        """
        here = {connection.peer for connection in self._network.connections()}
        by_peer: dict[str, list[CredentialRequest]] = {}
        try:
            for row in await self._desk.due():
                if row.peer in here and row.id not in self._beginning:
                    by_peer.setdefault(row.peer, []).append(row)
        except KwaaiError as error:
            log.warning("credential_requests_unread", reason=error.message)
        await asyncio.gather(*map(self._settle_with, by_peer.values()))

    async def _settle_with(self, rows: Sequence[CredentialRequest]) -> None:
        """See to what is under way with one peer, until it fails."""
        for row in rows:
            try:
                if row.direction == "in":
                    await self._deliver(row)
                else:
                    collect = Collect(bytes.fromhex(row.id))
                    await self._take_answer(row, await self._peers.send(PeerId(row.peer), collect))
            except CredentialRefused as error:  # one credential; the peer did answer
                self._note_failure(row, error)
            except KwaaiError as error:
                self._note_failure(row, error)
                return

    def _note_failure(self, row: CredentialRequest, error: KwaaiError) -> None:
        self.counters["failed"] += 1
        log.info("credential_exchange_failed", peer=row.peer, reason=error.message)

    async def _deliver(self, row: CredentialRequest) -> CredentialRequest:
        data = await self._desk.issued_bytes(row.detail)
        message = Deliver(bytes.fromhex(row.id), data)
        answer = await self._peers.send(PeerId(row.peer), message)
        if answer.state == "issued":
            return await self._desk.settle(row, "delivered", row.detail)
        return await self._desk.settle(row, "refused", answer.reason or "the asker refused it")

    async def _take_answer(self, row: CredentialRequest, answer: Answer) -> CredentialRequest:
        """Enter what a peer says of our request or offer."""
        match answer.state:
            case "refused":
                return await self._desk.settle(row, "refused", answer.reason)
            case "unknown":
                return await self._desk.settle(row, "failed", "the peer does not know of it now")
            case "issued" if row.kind == "offer":
                return await self._desk.settle(row, "delivered", "it was taken")
            case "issued" if answer.credential:
                return await self._receive(row, answer.credential)
            case _:
                return row

    async def _receive(self, row: CredentialRequest, data: bytes) -> CredentialRequest:
        """Verify and keep what we asked for. Raises CredentialRefused, PeerMisbehaved; the request
        has failed then, unless it only cannot be judged yet.
        """
        try:
            stored = await self._keep(row, PeerId(row.peer), data)
        except (CredentialRefused, PeerMisbehaved) as error:
            if not isinstance(error, CredentialUnknown):
                await self._desk.settle(row, "failed", error.message)
            raise
        return await self._desk.settle(row, "delivered", stored.id)

    async def _keep(self, row: CredentialRequest, peer: PeerId, data: bytes) -> StoredCredential:
        with findings():
            urls = status_lists_needed(parse_document(data))
        async with self._peers.presented_by(peer, urls):
            verified = await self._desk.run(self._office.verify, data)
            if verified.issuer not in _names_of(peer) or row.type not in verified.types:
                raise PeerMisbehaved(f"{peer} sent another credential than asked for", peer=peer)
            if not self._office.is_about_us(verified.subject):
                raise PeerMisbehaved(f"{peer} sent a credential about somebody else", peer=peer)
            return await self._desk.run(self._office.import_credential, data)


def _names_of(peer: PeerId) -> frozenset[str]:
    """Return the DIDs of a peer's key."""
    return names_of(did_key(parse_peer_id(peer)))
