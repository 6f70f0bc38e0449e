"""Ask peers about credentials: one question, one answer; and for the status lists of others.

Knows who is asked for what. Does not verify what comes. docs/protocol/credentials.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from credentials.did import parse_did
from credentials.document import parse_document
from credentials.errors import CredentialsError, StatusUnknown
from credentials.keys import PeerId, peer_id
from credentials.proof import verify_proofs
from credentials.resolve import resolve_offline
from kwaai import limits
from kwaai.errors import CredentialMissing, KwaaiError, PeerMisbehaved
from kwaai.net.network import Network
from kwaai.node.status_urls import parse_list_url
from kwaai.wire.codec import WireError
from kwaai.wire.credential_messages import (
    PROTOCOL,
    Answer,
    Ask,
    Collect,
    Deliver,
    FetchStatus,
    Offer,
    Show,
    encode_request,
    parse_answer,
    parse_document_answer,
)


class CredentialPeers:
    """The asking side. Belongs to the event loop, but for `fetch_status`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loop: asyncio.AbstractEventLoop | None = None
        self._presenters: dict[str, PeerId] = {}
        """Status list URL -> the peer that presents a credential with it, while it is verified."""
        self.asked = 0
        """Questions so far."""

    def open(self) -> None:
        """From now on threads may ask: the running loop is theirs."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Threads that ask are told that nobody does."""
        self._loop = None

    async def send(self, peer: PeerId, request: Ask | Collect | Deliver | Offer) -> Answer:
        """Send a message and return how things stand. Raises PeerError."""
        body = await self._exchange(peer, request)
        try:
            return parse_answer(body)
        except WireError as error:
            raise _misbehaved(peer, error) from error

    async def ask(self, peer: PeerId, request: Show | FetchStatus) -> bytes:
        """Return the document that a peer answers with; empty where it has none."""
        body = await self._exchange(peer, request)
        try:
            return parse_document_answer(body).data
        except WireError as error:
            raise _misbehaved(peer, error) from error

    async def _exchange(
        self, peer: PeerId, request: Ask | Collect | Deliver | Offer | Show | FetchStatus
    ) -> bytes:
        self.asked += 1
        return await self._network.request(
            peer, PROTOCOL, encode_request(request), limits.CREDENTIAL_TIMEOUT_S
        )

    def fetch_status(self, url: str) -> bytes:
        """Return a status list of another node, from any thread but the loop's.

        The node that publishes it is asked, then whoever presents a credential that names it, then
        some who are connected: it is signed, so it does not matter who hands it over. Raises
        StatusUnknown.
        """
        if self._loop is None:
            raise StatusUnknown(f"no peers are asked now for the status list {url!r:.200}")
        asked = asyncio.run_coroutine_threadsafe(self._fetch_status(url), self._loop)
        try:
            return asked.result(3 * limits.CREDENTIAL_TIMEOUT_S)
        except TimeoutError:
            asked.cancel()
            raise StatusUnknown(f"no peer gave the status list {url!r:.200} in time") from None
        except KwaaiError as error:
            raise StatusUnknown(
                f"no peer gave the status list {url!r:.200}: {error.message}"
            ) from error

    async def _fetch_status(self, url: str) -> bytes:
        likely = dict.fromkeys((_publisher_of(url), self._presenters.get(url)))
        failure: KwaaiError = CredentialMissing("nobody who may have it is known")
        for peer in likely:
            if peer is None or peer == self._network.peer_id:
                continue
            try:
                data = await self.ask(peer, FetchStatus(url))
                if await asyncio.to_thread(_is_signed, data, url):
                    return data
                failure = CredentialMissing(f"{peer} does not have it")
            except KwaaiError as error:
                failure = error
        others = [c.peer for c in self._network.connections() if c.peer not in likely]
        return await self._ask_some(others[: limits.STATUS_PEERS_ASKED_MAX], url, failure)

    async def _ask_some(self, peers: Sequence[PeerId], url: str, failure: KwaaiError) -> bytes:
        """Ask connected peers at once: one that is the same node under a new key, or has a copy.

        Raises `failure` where none of them has the list.
        """
        asked = [asyncio.ensure_future(self.ask(peer, FetchStatus(url))) for peer in peers]
        try:
            for answer in asyncio.as_completed(asked):
                with contextlib.suppress(KwaaiError):
                    data = await answer
                    if await asyncio.to_thread(_is_signed, data, url):
                        return data
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise failure

    @asynccontextmanager
    async def presented_by(self, peer: PeerId, urls: Iterable[str]) -> AsyncIterator[None]:
        """Inside, ask `peer` too for these status lists."""
        new = [url for url in urls if url not in self._presenters]
        self._presenters.update(dict.fromkeys(new, peer))
        try:
            yield
        finally:
            for url in new:
                self._presenters.pop(url, None)


def _is_signed(data: bytes, url: str) -> bool:
    """Whether it is a document of this URL by the key that the URL names: a first look, so that
    one peer's garbage does not hide what another one has. Not for the loop: a stranger's document
    may take 0.2 s.
    """
    named = parse_list_url(url)
    if not data or named is None:
        return bool(data)
    try:
        document = parse_document(data)
        proofs = verify_proofs(
            document, resolve_offline, purpose="assertionMethod", now_s=time.time()
        )
    except CredentialsError:
        return False
    return document.get("id") == url and any(p.controller == named.issuer for p in proofs)


def _publisher_of(url: str) -> PeerId | None:
    """Return the peer whose status list a URL names, where it names one."""
    named = parse_list_url(url)
    if named is None:
        return None
    try:
        return peer_id(parse_did(named.publisher))
    except CredentialsError:
        return None


def _misbehaved(peer: PeerId, error: WireError) -> PeerMisbehaved:
    return PeerMisbehaved(f"{peer} answered about credentials with no answer: {error}", peer=peer)
