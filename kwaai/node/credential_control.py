"""What the owner asks of the credential exchange, as the control socket carries it.

Turns names of peers into PeerIds, and rows into views. Does no exchange itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from credentials.document import parse_document
from credentials.errors import CredentialsError
from credentials.keys import PeerId
from credentials.verified import VerifiedCredential
from kwaai import limits
from kwaai.errors import CredentialRefused, UserError
from kwaai.node.control import RequestView, ShownCredential, ShownCredentials
from kwaai.node.credential_exchange import CredentialExchange
from kwaai.node.credential_office import CredentialOffice
from kwaai.store.requests import CredentialRequest


class ExchangeControl:
    """CredentialControl over one exchange."""

    def __init__(
        self,
        exchange: CredentialExchange,
        office: CredentialOffice,
        find_peer: Callable[[str], PeerId],
        name_of: Callable[[str], str],
    ) -> None:
        self._exchange = exchange
        self._office = office
        self._find_peer = find_peer
        self._name_of = name_of

    async def request(
        self, peer: str, kind: str, claims: Mapping[str, Any], note: str
    ) -> RequestView:
        """See CredentialControl."""
        found = self._find_peer(peer)
        return self._view(await self._exchange.request(found, kind, claims, note))

    async def offer(self, peer: str, credential: str, note: str) -> RequestView:
        """See CredentialControl."""
        found = self._find_peer(peer)
        return self._view(await self._exchange.offer(found, credential.encode(), note))

    async def approve(self, request_id: str, claims: Mapping[str, Any] | None) -> RequestView:
        """See CredentialControl."""
        return self._view(await self._exchange.approve(request_id, claims))

    async def refuse(self, request_id: str, reason: str) -> RequestView:
        """See CredentialControl."""
        return self._view(await self._exchange.refuse(request_id, reason))

    async def requests(self) -> tuple[RequestView, ...]:
        """See CredentialControl."""
        return tuple(self._view(row) for row in await self._exchange.requests())

    async def fetch(self, peer: str, kinds: Sequence[str], *, keep: bool) -> ShownCredentials:
        """See CredentialControl."""
        if len(kinds) > limits.CREDENTIAL_KINDS_MAX:
            raise UserError(f"at most {limits.CREDENTIAL_KINDS_MAX} types can be asked for")
        found = self._find_peer(peer)
        shown = await self._exchange.fetch(found, kinds)
        if shown is None:
            return ShownCredentials(found, "", (), 0)
        kept = await self._exchange.keep(shown) if keep else 0
        rows = tuple(_shown(credential, finding) for credential, finding in shown.credentials)
        return ShownCredentials(found, shown.holder, rows, kept)

    async def status_list(self, url: str) -> str:
        """See CredentialControl."""
        data = await self._exchange.status_list(url)
        return data.decode("utf-8", errors="replace")

    def _view(self, row: CredentialRequest) -> RequestView:
        body = json.loads(row.body)
        claims = body["claims"] if row.kind == "request" else _subject(body["credential"])
        return RequestView(
            row.id,
            row.direction,
            row.kind,
            row.peer,
            self._name_of(row.peer),
            row.type,
            row.state,
            row.detail,
            claims,
            body["note"],
            row.created_s,
            row.changed_s,
        )


def _subject(text: str) -> Mapping[str, Any]:
    """Return what a credential that nobody verified says of its subject."""
    try:
        subject = parse_document(text.encode()).get("credentialSubject")
    except CredentialsError:
        return {}
    return subject if isinstance(subject, dict) else {}


def _shown(credential: VerifiedCredential, finding: CredentialRefused | None) -> ShownCredential:
    return ShownCredential(
        credential.types,
        credential.issuer,
        credential.subject or "",
        credential.view.valid_until_s,
        credential.contexts_trusted,
        "valid" if finding is None else finding.reason,
        "" if finding is None else finding.message,
        credential.original.decode(),
    )
