"""The book of credential requests and offers, and the office, as the event loop may use them.

What blocks (database, signatures) runs in threads, a few at a time; what waits is bounded. Decides
nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from credentials.did import did_key
from credentials.errors import CredentialsError
from credentials.keys import PeerId, parse_peer_id
from kwaai import limits
from kwaai.errors import Busy, CredentialMissing, CredentialUnknown, RequestClosed, UserError
from kwaai.node.credential_check import refusal
from kwaai.node.credential_office import CredentialOffice, Issued
from kwaai.store.requests import (
    CredentialRequest,
    Direction,
    RequestBook,
    RequestKind,
    RequestState,
)
from kwaai.wire.credential_messages import REQUEST_ID_BYTES

T = TypeVar("T")


class CredentialDesk:
    """Office and book behind awaitable methods."""

    def __init__(
        self,
        office: CredentialOffice,
        book: RequestBook,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.office = office
        self._book = book
        self._clock = clock
        self._working = asyncio.Semaphore(limits.CREDENTIAL_WORK_MAX)
        self._waiting = 0

    async def run(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Run what blocks beside the loop. Raises Busy when too much waits, and what `work` does,
        findings of `credentials` as CredentialRefused.
        """
        if self._waiting >= limits.CREDENTIAL_WAITING_MAX:
            raise Busy("this node has too much to do with credentials now", retry_after_s=2.0)
        self._waiting += 1
        try:
            async with self._working:
                with findings():
                    return await asyncio.to_thread(work, *arguments, **options)
        finally:
            self._waiting -= 1

    async def open(
        self,
        direction: Direction,
        kind: RequestKind,
        peer: PeerId,
        type_: str,
        body: Mapping[str, Any],
        request_id: bytes | None = None,
    ) -> CredentialRequest:
        """Enter a new request or offer. Raises WalletFull."""
        now_s = self._clock()
        row = CredentialRequest(
            id=(request_id or secrets.token_bytes(REQUEST_ID_BYTES)).hex(),
            direction=direction,
            kind=kind,
            peer=peer,
            type=type_,
            body=json.dumps(dict(body), allow_nan=False).encode(),
            state="pending",
            detail="",
            created_s=now_s,
            changed_s=now_s,
        )
        await self.run(self._book.put, row)
        return row

    async def find(self, direction: Direction, peer: PeerId, request_id: bytes) -> Any:
        """Return the row of a request or offer, or None."""
        return await self.run(self._book.get, direction, peer, request_id.hex())

    async def rows(self) -> list[CredentialRequest]:
        """Return all requests and offers, newest first."""
        return await self.run(self._book.find, limit=limits.CREDENTIAL_REQUESTS_MAX)

    async def count_pending(self, peer: PeerId) -> int:
        """Return how much of a peer's waits for the owner's word."""
        most = limits.CREDENTIAL_REQUESTS_PER_PEER_MAX
        rows = await self.run(
            self._book.find, direction="in", peer=peer, state="pending", limit=most
        )
        return len(rows)

    async def find_pending(self, request_id: str) -> CredentialRequest:
        """Return the one request or offer of a peer whose id begins so, and that waits for a
        decision. Raises CredentialMissing, UserError, RequestClosed.
        """
        begin = request_id.lower()
        rows = [r for r in await self.rows() if r.direction == "in"]
        found = [r for r in rows if len(begin) >= 4 and r.id.startswith(begin)]
        if not found:
            raise CredentialMissing(
                f"no peer's request or offer has the id {request_id!r:.80}; "
                "`kwaainet credential requests` lists them"
            )
        if len(found) > 1:
            raise UserError(f"{len(found)} ids begin with {request_id!r:.80}: give more of it")
        if found[0].state != "pending":
            raise RequestClosed(f"{found[0].id} is {found[0].state} already")
        return found[0]

    async def settle(
        self, row: CredentialRequest, state: RequestState, detail: str
    ) -> CredentialRequest:
        """Enter what became of a row. Raises RequestClosed where somebody else was first."""
        return await self.run(
            self._book.set_state,
            row.direction,
            row.peer,
            row.id,
            expected=row.state,
            state=state,
            now_s=self._clock(),
            detail=short(detail),
        )

    async def issued_bytes(self, credential_id: str) -> bytes:
        """Return a credential that this home issued, as it was delivered. Raises
        CredentialMissing.
        """
        issued = await self.run(self.office.issued.get, credential_id)
        if issued is None:
            raise CredentialMissing(f"no credential {credential_id!r:.80} was issued here")
        return issued.original

    async def status_list(self, url: str) -> bytes:
        """Return the status list of a URL: one that this home publishes, else the copy of another's
        that it has. Raises CredentialMissing.
        """
        try:
            return await self.run(self.office.status_list_at, url)
        except CredentialUnknown:
            copy = await self.run(self.office.wallet.get_status_list, url)
            if copy is None:
                raise CredentialMissing(f"the status list {url!r:.200} is not here") from None
            return copy.original

    async def is_kept(self, data: bytes) -> bool:
        """Say whether the wallet has these bytes, not in quarantine."""
        stored = await self.run(self.office.wallet.get, hashlib.sha256(data).hexdigest())
        return stored is not None and not stored.entry.quarantined

    async def issue(self, row: CredentialRequest, claims: Mapping[str, Any]) -> CredentialRequest:
        """Issue what a peer asked for, about that peer. Raises CredentialRefused."""
        subject = did_key(parse_peer_id(row.peer))
        issued: Issued = await self.run(self.office.issue, row.type, subject, claims)
        return await self.settle(row, "approved", issued.id)


@contextmanager
def findings() -> Iterator[None]:
    """Turn findings of `credentials` into the node's errors."""
    try:
        yield
    except CredentialsError as error:
        raise refusal(error) from error


def short(text: str) -> str:
    """Return text as a message may carry it."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.encode()[: limits.CREDENTIAL_NOTE_BYTES_MAX].decode(errors="ignore")


def last_type(types: Any) -> str:
    """Return the most telling type of a document that nobody has checked, for a list."""
    names = [t for t in (types if isinstance(types, list) else [types]) if isinstance(t, str)]
    name = names[-1] if names else ""
    return name if name.isprintable() and len(name) <= limits.CREDENTIAL_KIND_CHARS_MAX else "?"
