"""The book of credential requests and offers, and the office, as the event loop may use them.

What blocks (database, signatures) runs in threads, a few at a time; what waits is bounded. Decides
nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from credentials.did import did_key
from credentials.errors import CredentialsError
from credentials.keys import PeerId, parse_peer_id
from kwaai import limits
from kwaai.errors import CredentialMissing, CredentialUnknown, RequestClosed, UserError
from kwaai.node.credential_check import refusal
from kwaai.node.credential_office import CredentialOffice, Issued
from kwaai.node.threads import Threads
from kwaai.store.requests import (
    CredentialRequest,
    Direction,
    RequestBook,
    RequestKind,
    RequestState,
)

_P = ParamSpec("_P")
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
        # What may have to wait for other peers never holds up what needs only this home.
        self._slow = _lane("credential-verify", "verifications of credentials")
        self._quick = _lane("credential-book", "questions about credentials")

    def close(self) -> None:
        """Take no more work."""
        self._slow.close()
        self._quick.close()

    async def run(self, work: Callable[_P, T], *arguments: _P.args, **options: _P.kwargs) -> T:
        """Verify, or do what may ask peers, beside the loop. Raises Busy when too much waits, and
        what `work` does, findings of `credentials` as CredentialRefused.
        """
        with findings():
            return await self._slow.run(work, *arguments, **options)

    async def run_here(self, work: Callable[_P, T], *arguments: _P.args, **options: _P.kwargs) -> T:
        """Run what blocks and asks nobody beside the loop. Raises as `run`."""
        with findings():
            return await self._quick.run(work, *arguments, **options)

    async def open(
        self,
        direction: Direction,
        kind: RequestKind,
        peer: PeerId,
        type_: str,
        body: Mapping[str, Any],
        request_id: bytes,
    ) -> CredentialRequest:
        """Enter a new request or offer. Raises WalletFull, RequestClosed (it is known by now)."""
        now_s = self._clock()
        row = CredentialRequest(
            id=request_id.hex(),
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
        if not await self.run_here(self._book.put, row):
            raise RequestClosed(f"the request {row.id} is known already")
        return row

    async def find(self, direction: Direction, peer: PeerId, request_id: bytes) -> Any:
        """Return the row of a request or offer, or None."""
        return await self.run_here(self._book.get, direction, peer, request_id.hex())

    async def rows(self) -> list[CredentialRequest]:
        """Return requests and offers: all that wait, newest first, then the last decided ones."""
        return await self.run_here(self._book.find, open_first=True, limit=limits.WALLET_FIND_MAX)

    async def due(self) -> list[CredentialRequest]:
        """Return what this node has to see to: what it approved, and what it asked for."""
        most = limits.WALLET_FIND_MAX
        approved = await self.run_here(
            self._book.find, direction="in", state="approved", limit=most
        )
        asked = await self.run_here(self._book.find, direction="out", state="pending", limit=most)
        return [*approved, *asked]

    async def may_issue_again(self, peer: PeerId, kind: str) -> bool:
        """Say whether a peer has got no credential of a type from this node lately."""
        subject = did_key(parse_peer_id(peer))
        find = self.office.issued.find
        for issued in await self.run_here(find, subject=subject, kind=kind, limit=1):
            if abs(self._clock() - issued.issued_s) < limits.AUTO_ISSUE_AGAIN_S:
                return False
        return True

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
        return await self.run_here(
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
        issued = await self.run_here(self.office.issued.get, credential_id)
        if issued is None:
            raise CredentialMissing(f"no credential {credential_id!r:.80} was issued here")
        return issued.original

    async def status_list(self, url: str) -> bytes:
        """Return the status list of a URL: one that this home publishes, else the copy of another's
        that it has. Raises CredentialMissing.
        """
        try:
            return await self.run_here(self.office.status_list_at, url)
        except CredentialUnknown:
            copy = await self.run_here(self.office.wallet.get_status_list, url)
            if copy is None:
                raise CredentialMissing(f"the status list {url!r:.200} is not here") from None
            return copy.original

    async def is_kept(self, data: bytes) -> bool:
        """Say whether the wallet has these bytes, not in quarantine."""
        stored = await self.run_here(self.office.wallet.get, hashlib.sha256(data).hexdigest())
        return stored is not None and not stored.entry.quarantined

    async def issue(self, row: CredentialRequest, claims: Mapping[str, Any]) -> CredentialRequest:
        """Issue what a peer asked for, about that peer. Raises CredentialRefused."""
        subject = did_key(parse_peer_id(row.peer))
        issued: Issued = await self.run_here(self.office.issue, row.type, subject, claims)
        return await self.settle(row, "approved", issued.id)


def _lane(name: str, what: str) -> Threads:
    threads, waiting = limits.CREDENTIAL_WORK_MAX, limits.CREDENTIAL_WAITING_MAX
    return Threads(name, threads=threads, calls_max=threads + waiting, what=what)


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
