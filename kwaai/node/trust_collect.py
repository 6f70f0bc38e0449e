"""What peers present about themselves, verified and kept verified: the credentials that scores rest
on.

Counts nothing and asks nobody of its own accord: `trust_service` says whom and when. A credential
counts only where the peer itself presented it, for this node's own challenge, and where it holds
under NODE_POLICY now: anybody can sign one about any node. docs/trust.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from credentials.binding import KIND as BINDING
from credentials.binding import Binding, owner_of, read_binding
from credentials.did import did_key, parse_did
from credentials.errors import CredentialsError
from credentials.keys import PeerId, parse_peer_id, peer_id
from credentials.policy import NODE_POLICY
from credentials.verified import VerifiedCredential
from credentials.verify import status_lists_needed
from kwaai import limits
from kwaai.errors import CredentialRefused, KwaaiError
from kwaai.log import get_logger
from kwaai.node.credential_check import refusal
from kwaai.node.credential_exchange import CredentialExchange
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.threads import Threads
from kwaai.store.evidence import EvidenceLog
from kwaai.trust.evidence import Attestation, Refused, attestation_of, canonical

log = get_logger(__name__)


FetchReceipts: TypeAlias = Callable[[PeerId], Awaitable[Sequence[VerifiedCredential]]]
"""Returns the receipts that others signed about a peer and that hold. Raises KwaaiError."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A credential that a peer presented about itself, and whether it holds now."""

    original: bytes
    attestation: Attestation
    """What it says; counts only where `code` is empty."""
    lists: tuple[str, ...]
    """URLs of the status lists that it may be revoked by."""
    binding: Binding | None = None
    code: str = ""
    """Why it does not hold now: `credential_revoked`, `status_unknown`."""
    detail: str = ""


class TrustCollector:
    """The presented credentials of all peers. Belongs to one event loop; verifies in threads."""

    def __init__(
        self,
        office: CredentialOffice,
        exchange: CredentialExchange,
        kept: EvidenceLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._office, self._exchange, self._kept, self._clock = office, exchange, kept, clock
        self._shown: OrderedDict[str, tuple[Shown, ...]] = OrderedDict()
        self._shown_bytes = 0
        self._asked_s: OrderedDict[str, float] = OrderedDict()
        self._silent: set[str] = set()
        """Of these, those that have not answered."""
        self.fetch_receipts: FetchReceipts | None = None
        """Asks a peer what others have signed of its answers. None: nobody is asked."""
        self._receipts: OrderedDict[str, tuple[Attestation, ...]] = OrderedDict()
        self._lists: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        """URL -> when it may be looked at again, digest of what was seen."""
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._stale: set[str] = set()
        """Principals whose status lists are others than when they were judged."""
        self._judging = asyncio.Lock()
        self.version = 0
        """Changes with whatever counts: who has computed from this one is current."""
        self.asks: Callable[[str], bool] = lambda _: True
        """Whether credentials of an issuer (a principal) may count: whether it is worth asking
        others for their status lists. Strangers sign what they like, and name whom they like."""
        self._verifying = Threads(
            "trust-verify",
            threads=1,
            calls_max=limits.TRUST_PEERS_ASKED_MAX,
            what="verifications of presented credentials",
        )
        self._fetching = Threads(
            "trust-status",
            threads=limits.TRUST_FETCHES_AT_ONCE,
            calls_max=limits.TRUST_STATUS_LISTS_MAX,
            what="looks at status lists",
        )
        # Whose lists do not answer, and who has none that counts, holds up nobody else.
        self._fetching_bindings = Threads(
            "trust-owners",
            threads=limits.TRUST_FETCHES_AT_ONCE,
            calls_max=limits.TRUST_BINDING_LOOKS_MAX,
            what="looks at status lists of owners",
        )

    def close(self) -> None:
        """Take no more work."""
        for task in self._looking.values():
            task.cancel()
        self._verifying.close()
        self._fetching.close()
        self._fetching_bindings.close()

    # What is known.

    def shown(self, principal: str) -> tuple[Shown, ...]:
        """Return what a principal presented, whether it holds or not."""
        return self._shown.get(principal, ())

    def attestations(self) -> tuple[Attestation, ...]:
        """Return what holds, of all principals: their credentials, and receipts for their answers
        by those who asked.
        """
        held = [one.attestation for many in self._shown.values() for one in many if not one.code]
        return (*held, *(one for many in self._receipts.values() for one in many))

    def refused(self) -> tuple[Refused, ...]:
        """Return what does not hold, of all principals, and why."""
        return tuple(
            Refused(at.id, at.type, at.issuer, at.subject, one.code, one.detail)
            for many in self._shown.values()
            for one in many
            if one.code
            for at in (one.attestation,)
        )

    def owners(self, now_s: float) -> dict[str, str]:
        """Return who owns whom, as the nodes themselves say and the owners have signed."""
        found = {}
        for principal, many in self._shown.items():
            bindings = [one.binding for one in many if one.binding is not None and not one.code]
            binding = owner_of(principal, bindings, now_s=now_s)
            if binding is not None:
                found[principal] = canonical(binding.owner)
        return found

    def principals(self) -> tuple[str, ...]:
        """Return whoever presented something."""
        return tuple(self._shown)

    def asked_s(self, peer: str) -> float | None:
        """Return when a peer was asked last; None: never, or long ago."""
        return self._asked_s.get(peer)

    def is_silent(self, peer: str) -> bool:
        """Whether a peer was asked last without an answer."""
        return peer in self._silent

    # Asking.

    async def load(self) -> None:
        """Take up what was kept, as far as it holds now."""
        by_principal: dict[str, list[bytes]] = {}
        for row in await self._verifying.run(self._kept.all_presented):
            by_principal.setdefault(row.principal, []).append(row.original)
        for principal, originals in by_principal.items():
            self._put(principal, await self._verifying.run(self._judge_all, originals))

    async def ask(self, peer: PeerId) -> bool:
        """Ask a peer what it holds about itself; return whether that is news. Raises KwaaiError,
        and what was known before stays then.
        """
        self._asked_s[peer] = self._clock()
        self._asked_s.move_to_end(peer)
        while len(self._asked_s) > limits.TRUST_PEERS_ASKED_MAX:
            self._silent.discard(self._asked_s.popitem(last=False)[0])
        self._silent.add(peer)
        principal = did_key(parse_peer_id(peer))
        # Receipts first: what is judged must count before a list can be found to have changed.
        has_new_receipts = await self._ask_receipts(peer, principal)
        answer = await self._exchange.fetch(peer, asks=lambda did: self.asks(canonical(did)))
        self._silent.discard(peer)
        found = () if answer is None else answer.credentials
        judged = [_shown(*one) for one in found[: limits.TRUST_CREDENTIALS_PER_PEER_MAX]]
        new = tuple(one for one in judged if one is not None)
        if _content(new) == _content(self.shown(principal)):
            if principal in self._shown:
                self._shown.move_to_end(principal)
            return has_new_receipts
        self._put(principal, new)
        self._stale.add(principal)
        await self._verifying.run(self._keep, principal, [one.original for one in new])
        return True

    async def _ask_receipts(self, peer: PeerId, principal: str) -> bool:
        """Ask for receipts; return whether there are others than before. This node's own count as
        what it saw itself, not as somebody's word.
        """
        if self.fetch_receipts is None:
            return False
        try:
            verified = await self.fetch_receipts(peer)
        except KwaaiError as error:
            log.info("trust_receipts_unasked", peer=peer, problem=error.message)
            return False
        own = canonical(self._office.did)
        found = [attestation_of(one) for one in verified]
        new = tuple(one for one in found if one is not None and one.issuer != own)
        is_news = new != self._receipts.pop(principal, ())
        self.version += is_news
        if new:
            self._receipts[principal] = new
        while len(self._receipts) > limits.TRUST_PEERS_ASKED_MAX:
            self._receipts.popitem(last=False)
        return is_news

    def _keep(self, principal: str, originals: Sequence[bytes]) -> None:
        """Keep these and nothing else of a principal's. In a thread."""
        now_s = self._clock()
        for data in originals:
            self._kept.put_presented(principal, data, now_s)
        self._kept.forget_presented(principal, now_s)

    def _put(self, principal: str, new: tuple[Shown, ...]) -> None:
        self._shown_bytes -= _nbytes(self._shown.pop(principal, ()))
        self.version += 1
        if new:
            self._shown[principal] = new
            self._shown_bytes += _nbytes(new)
        while (
            len(self._shown) > limits.TRUST_PEERS_ASKED_MAX
            or self._shown_bytes > limits.PRESENTED_BYTES_MAX
        ):
            self._make_room()

    def _make_room(self) -> None:
        """Forget what a principal presented: of those without a credential that may count, if there
        are any, the one that was asked longest ago; else of all.
        """
        names = iter(self._shown)
        idle = (n for n in names if not any(self._may_count(one) for one in self._shown[n]))
        name = next(idle, None) or next(iter(self._shown))
        self._shown_bytes -= _nbytes(self._shown.pop(name))
        self._stale.discard(name)
        if (asked := _peer_of(name)) is not None:
            self._asked_s.pop(asked, None)

    def _may_count(self, one: Shown) -> bool:
        return not one.code and self.asks(one.attestation.issuer)

    # Whether it still holds.

    async def look(self, principals: Iterable[str], age_s_max: float) -> bool:
        """Look at the status lists of what these principals presented, where the last look was
        longer ago; return whether something is judged otherwise now.

        Waits TRUST_STATUS_WAIT_S at most: a publisher that does not answer is waited for again only
        after TRUST_STATUS_RETRY_S, and what was kept of its list counts until the list expires.
        """
        chosen = list(dict.fromkeys(principals))
        urls: dict[str, Threads] = {}
        for principal in chosen:
            urls = {**self._lists_of(principal), **urls}
        now_s = self._clock()
        due = [url for url in urls if self._lists.get(url, (0.0, b""))[0] <= now_s]
        tasks = [self._look_at(url, age_s_max, urls[url]) for url in due]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=limits.TRUST_STATUS_WAIT_S)
            for url, task in zip(due, tasks, strict=True):
                if task in late:  # it goes on, and what it finds counts with the next look
                    self._next_look(url, limits.TRUST_STATUS_RETRY_S)
        return await self._recheck_stale(chosen)

    def _lists_of(self, principal: str) -> dict[str, Threads]:
        """Return the lists of a principal that are worth asking for, and who asks: those of issuers
        that may count; and of a binding, which anybody can sign, only the newest one's.
        """
        shown = self.shown(principal)
        bindings = [one for one in shown if one.attestation.type == BINDING.name]
        newest = sorted(bindings, key=lambda one: one.attestation.valid_from_s)[-1:]
        found = {
            url: self._fetching_bindings
            for one in newest
            for url in one.lists[: limits.TRUST_BINDING_LISTS_MAX]
        }
        counting = (one for one in shown if self.asks(one.attestation.issuer))
        return found | {url: self._fetching for one in counting for url in one.lists}

    async def recheck_stale(self) -> bool:
        """Verify again what was presented where a status list has changed since; return whether
        anything is judged otherwise now.
        """
        return await self._recheck_stale(tuple(self._stale))

    async def _recheck_stale(self, principals: Iterable[str]) -> bool:
        changed = False
        for principal in principals:
            async with self._judging:  # who is being judged is waited for
                if principal in self._stale:
                    self._stale.discard(principal)
                    changed |= await self.recheck([principal])
        return changed

    async def recheck(self, principals: Collection[str] | None = None) -> bool:
        """Verify again what was presented (None: by anybody); return whether anything changed."""
        changed = False
        for principal in tuple(self._shown) if principals is None else tuple(principals):
            old = self.shown(principal)
            if not old:
                continue
            new = await self._verifying.run(self._judge_all, [one.original for one in old])
            if self.shown(principal) is old and new != old:
                self._shown[principal] = new
                self._shown_bytes += _nbytes(new) - _nbytes(old)
                self.version += 1
                changed = True
        return changed

    def _look_at(self, url: str, age_s_max: float, threads: Threads) -> asyncio.Task[None]:
        """Return the look at a list that is under way, or begin one."""
        task = self._looking.get(url)
        if task is None:
            task = asyncio.create_task(
                self._look_once(url, age_s_max, threads), name="trust-status"
            )
            self._looking[url] = task
            task.add_done_callback(lambda _: self._looking.pop(url, None))
        return task

    async def _look_once(self, url: str, age_s_max: float, threads: Threads) -> None:
        """Fetch a list; where it is another one than at the last look, whoever presents something
        with it is to be judged again, whether anybody still waits for this look or not.
        """
        try:
            data = await threads.run(self._office.refresh_status, url, age_s_max)
        except (CredentialsError, KwaaiError) as error:
            log.info("trust_status_unknown", url=url[:200], problem=str(error)[:200])
            self._next_look(url, limits.TRUST_STATUS_RETRY_S)
            return
        digest = hashlib.sha256(data).digest()
        before = self._lists.get(url, (0.0, b""))[1]
        self._next_look(url, age_s_max, digest)
        if digest != before:
            self._stale.update(
                name
                for name, shown in self._shown.items()
                if any(url in one.lists for one in shown)
            )

    def _next_look(self, url: str, after_s: float, digest: bytes | None = None) -> None:
        kept = self._lists.pop(url, (0.0, b""))[1] if digest is None else digest
        self._lists.pop(url, None)
        self._lists[url] = self._clock() + after_s, kept
        while len(self._lists) > limits.TRUST_STATUS_LISTS_MAX:
            self._lists.popitem(last=False)

    def _judge_all(self, originals: Sequence[bytes]) -> tuple[Shown, ...]:
        """Verify bytes that held before. In a thread."""
        found = []
        for data in originals:
            try:
                verified = self._office.verify(data, checks=("issuer",), asks=False)
            except CredentialsError as error:  # its signature held when it was kept
                log.warning("presented_credential_unreadable", problem=str(error)[:200])
                continue
            try:
                self._office.verify(data, policy=NODE_POLICY, asks=False)  # `look` asks
                found.append(_shown(verified, None))
            except CredentialsError as error:
                found.append(_shown(verified, refusal(error)))
        return tuple(one for one in found if one is not None)


def _nbytes(presented: Iterable[Shown]) -> int:
    return sum(len(one.original) for one in presented)


def _peer_of(principal: str) -> str | None:
    """Return the PeerId of a principal; None where it is not one Ed25519 key."""
    try:
        return peer_id(parse_did(principal))
    except CredentialsError:
        return None


def _content(presented: Iterable[Shown]) -> set[tuple[bytes, str]]:
    return {(one.original, one.code) for one in presented}


def _shown(verified: VerifiedCredential, finding: CredentialRefused | None) -> Shown | None:
    """Reduce a credential whose signature holds to what counts. `finding`: why it does not hold."""
    attestation = attestation_of(verified)
    if attestation is None:
        return None
    binding, code, detail = None, "", ""
    if finding is not None:
        code, detail = finding.reason or finding.code, finding.message
    elif attestation.type == BINDING.name:
        try:
            binding = read_binding(verified)
        except CredentialsError as error:
            code, detail = error.code, str(error)
    lists = status_lists_needed(verified.document)
    return Shown(verified.original, attestation, lists, binding, code, detail)
