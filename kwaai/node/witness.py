"""This node as a witness: it probes peers, and issues and offers them credentials for what it
measured of them itself.

Off unless `witness` is set. Wires the network, the book of receipts and the office to
`kwaai.trust.witness`, which says what counts earn what. What a peer says of itself has no part in
it. Probes are counted in memory, for a witness that was not there saw nothing: a restart begins its
windows anew. What was issued is in the register, so nobody gets two for that. docs/trust.md.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from credentials.document import parse_document
from credentials.errors import CredentialsError
from credentials.keys import PeerId
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import KwaaiError, PeerError
from kwaai.log import get_logger
from kwaai.net.network import Network
from kwaai.node.credential_exchange import CredentialExchange
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.services import Ready
from kwaai.store.evidence import EvidenceLog
from kwaai.store.receipts import ReceiptBook, ReceiptRow
from kwaai.trust.evidence import Outcome, canonical, principal_of_peer
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Floors
from kwaai.trust.witness import (
    THROUGHPUT,
    UPTIME,
    Claims,
    Probe,
    ProbeWindow,
    Sample,
    judge_round,
    sample_of,
    throughput_claims,
    uptime_claims,
)

log = get_logger(__name__)

_NOTES: Mapping[str, str] = {
    UPTIME: "how often you answered this node's probes",
    THROUGHPUT: "how fast answers were that you took part in for this node",
}
_MISDEEDS = frozenset({Outcome.WRONG, Outcome.MISBEHAVED})


class Credentials(Protocol):
    """What a witness needs of CredentialService."""

    def office(self) -> CredentialOffice:
        """Return the office. Raises ResourceError while the wallet is not open."""

    def exchange(self) -> CredentialExchange:
        """Return the dealings with peers. Raises ResourceError while the wallet is not open."""


class Trust(Protocol):
    """What a witness needs of TrustService."""

    @property
    def floors(self) -> Floors:
        """What the owner allows which tier."""

    @property
    def policy(self) -> TrustPolicy:
        """Who this node and its owner are."""

    def check_open(self) -> None:
        """Raise ResourceError while it is not known who anybody is."""

    def standing(self, peer: str) -> Standing:
        """Return a peer's score, tier and owner."""

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None:
        """Get to know these peers. Waits a bounded time."""


@dataclass(slots=True)
class _Offer:
    """A credential that its subject has not heard of yet."""

    data: bytes
    tries: int = 0


class Witness:
    """One node's witnessing. Belongs to the event loop.

    `rng`: when probes are made, and who is probed where not all can be.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        credentials: Credentials,
        trust: Trust,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._config, self._network, self._clock = config, network, clock
        self._credentials, self._trust = credentials, trust
        self._rng = rng or random.Random()
        self._watched: dict[PeerId, ProbeWindow] = {}
        self._rests_s: OrderedDict[tuple[PeerId, str], float] = OrderedDict()
        """Until when a peer gets no more of a type."""
        self._offers: dict[tuple[PeerId, str], _Offer] = {}
        self._speeds_s = float("-inf")
        self.counters: Counter[str] = Counter()
        """`probes`, and those that were `silent` or `unknown`; `issued`, `offered`, `failed`."""

    def stats(self) -> dict[str, float]:
        """Return counters and gauges for /metrics."""
        return {
            "witness_peers": len(self._watched),
            "witness_probes": self.counters["probes"],
            "witness_issued": self.counters["issued"],
        }

    async def run(self, ready: Ready) -> None:
        """Probe peers and issue what they earn, while `witness` is set; until cancelled."""
        ready()
        if not self._config.witness:
            await asyncio.get_running_loop().create_future()
        while True:
            # No peer can know when it is asked, and be there only then.
            await asyncio.sleep(limits.WITNESS_ROUND_S * self._rng.uniform(0.5, 1.5))
            try:
                await self.round()
            except KwaaiError as error:  # the wallet is not open, or the disk is full: later
                self.counters["failed"] += 1
                log.warning("witness_round_failed", problem=error.message)

    async def round(self) -> None:
        """Probe everybody who is watched once, and issue what was earned by now. Raises
        ResourceError while the wallet is not open, and what the wallet raises.
        """
        office = self._credentials.office()
        self._trust.check_open()
        await self._enrol(office)
        await self._probe()
        now_s, earned = self._clock(), list[tuple[PeerId, str, Claims]]()
        if not 0 <= now_s - self._speeds_s < limits.WITNESS_SPEEDS_S:
            self._speeds_s = now_s
            earned = await self._speeds(office)
        for peer, kind, claims in earned + self._judge_windows():
            try:
                await self._issue(office, peer, kind, claims)
            except (CredentialsError, KwaaiError) as error:
                self.counters["failed"] += 1
                log.warning("witness_not_issued", peer=peer, type=kind, problem=str(error)[:200])
        await self._give()

    # Who.

    def _may_have(self, peer: PeerId) -> bool:
        """Whether this node may vouch for a peer: not for what is its own or its owner's, nor for
        one that is below the integrity which the owner demands of anybody.
        """
        standing, policy = self._trust.standing(peer), self._trust.policy
        office = self._credentials.office()
        own = {policy.own, policy.own_owner, office.owner_did, office.did}
        ours = {canonical(name) for name in own if name}
        is_ours = peer == self._network.peer_id or standing.peer in ours or standing.owner in ours
        return not is_ours and standing.integrity >= self._trust.floors.integrity

    async def _enrol(self, office: CredentialOffice) -> None:
        """Begin windows of connected peers, as far as there is room: who is trusted most first."""
        room = limits.WITNESS_PEERS_MAX - len(self._watched)
        here = [connection.peer for connection in self._network.connections()]
        found = [peer for peer in here if peer not in self._watched]
        found = await self._due(office, found, UPTIME) if room > 0 else []
        if not found:
            return
        await self._trust.prepare(found, current=False)  # whose they are
        found = [peer for peer in dict.fromkeys(found) if self._may_have(peer)]
        self._rng.shuffle(found)
        found.sort(key=lambda peer: -self._trust.standing(peer).tier)
        self._watched.update((peer, ProbeWindow()) for peer in found[:room])

    async def _due(
        self, office: CredentialOffice, peers: Iterable[PeerId], kind: str
    ) -> list[PeerId]:
        """Return those that got none of a type for long enough."""
        now_s = self._clock()
        awake = [p for p in peers if not _is_ahead(self._rests_s.get((p, kind)), now_s)]
        if not awake:
            return []
        issued = await asyncio.to_thread(lambda: [_issued_s(office, p, kind) for p in awake])
        for peer, issued_s in zip(awake, issued, strict=True):
            if issued_s is not None:
                self._rest(peer, kind, issued_s)
        return [p for p in awake if not _is_ahead(self._rests_s.get((p, kind)), now_s)]

    def _rest(self, peer: PeerId, kind: str, issued_s: float) -> None:
        self._rests_s[peer, kind] = issued_s + limits.WITNESS_AGAIN_S
        self._rests_s.move_to_end((peer, kind))
        while len(self._rests_s) > limits.WITNESS_RESTING_MAX:
            self._rests_s.popitem(last=False)

    # Whether they are there.

    async def _probe(self) -> None:
        """Ask everybody who is watched, a few at a time, whether it is there: also who has gone,
        for that is what uptime is about.
        """
        gate = asyncio.Semaphore(limits.WITNESS_PROBES_AT_ONCE)
        answers: dict[str, float | None] = {}
        now_s = self._clock()

        async def ask(peer: PeerId) -> None:
            async with gate:
                try:
                    async with asyncio.timeout(2 * limits.WITNESS_PROBE_TIMEOUT_S):
                        answers[peer] = await self._network.ping(
                            peer, limits.WITNESS_PROBE_TIMEOUT_S
                        )
                except (PeerError, TimeoutError):
                    answers[peer] = None
                except KwaaiError as error:  # what this node lacks says nothing of a peer
                    log.info("witness_probe_not_made", peer=peer, problem=error.message)

        asked = [p for p, w in self._watched.items() if not (w.is_full or w.is_over(now_s))]
        await asyncio.gather(*map(ask, asked))
        judged = judge_round(answers)
        at_s = self._clock()
        for peer in asked:
            probe = judged.get(peer, Probe.UNKNOWN)
            self._watched[peer].add(probe, at_s, answers.get(peer))
            self.counters["probes"] += 1
            if probe is not Probe.ANSWERED:
                self.counters[probe.value] += 1

    def _judge_windows(self) -> list[tuple[PeerId, str, Claims]]:
        """End the windows that are over, and return what they earned; the rest next time."""
        now_s, earned = self._clock(), list[tuple[PeerId, str, Claims]]()
        for peer, window in tuple(self._watched.items()):
            if len(earned) >= limits.WITNESS_ISSUES_MAX:
                break
            if window.is_over(now_s):
                del self._watched[peer]
                claims = uptime_claims(window, now_s)
                if claims is not None:
                    earned.append((peer, UPTIME, claims))
        return earned

    # How fast they are.

    async def _speeds(self, office: CredentialOffice) -> list[tuple[PeerId, str, Claims]]:
        """Return what connected peers earned by the receipts of the last window."""
        now_s = self._clock()
        here = [connection.peer for connection in self._network.connections()]
        used = await asyncio.to_thread(_used, office, here, now_s)
        due = await self._due(office, used, THROUGHPUT)
        found = await asyncio.to_thread(lambda: [_speed_of(office, p, now_s) for p in due])
        earned = [(p, THROUGHPUT, c) for p, c in zip(due, found, strict=True) if c is not None]
        return earned[: limits.WITNESS_ISSUES_MAX]

    # What they get.

    async def _issue(
        self, office: CredentialOffice, peer: PeerId, kind: str, claims: Claims
    ) -> None:
        """Issue a credential, unless the peer turned out to be of this node's owner, or got one
        meanwhile. Raises what the office raises.
        """
        await self._trust.prepare([peer], current=False)
        if not self._may_have(peer) or not await self._due(office, [peer], kind):
            return
        issued = await asyncio.to_thread(office.issue, kind, principal_of_peer(peer), claims)
        self._rest(peer, kind, self._clock())
        self._offers[peer, kind] = _Offer(issued.data)
        self.counters["issued"] += 1
        log.info("witness_issued", peer=peer, type=kind, credential=issued.id)

    async def _give(self) -> None:
        """Offer what is not offered yet; a peer that is not reached is tried again next time."""
        gate = asyncio.Semaphore(limits.WITNESS_OFFERS_AT_ONCE)

        async def give(peer: PeerId, kind: str, offer: _Offer) -> None:
            async with gate:
                if await self._offer(peer, kind, offer):
                    del self._offers[peer, kind]

        await asyncio.gather(*(give(*key, offer) for key, offer in tuple(self._offers.items())))

    async def _offer(self, peer: PeerId, kind: str, offer: _Offer) -> bool:
        """Offer a credential; return whether that is over."""
        offer.tries += 1
        try:
            row = await self._credentials.exchange().offer(peer, offer.data, _NOTES[kind])
        except KwaaiError as error:
            log.info("witness_not_offered", peer=peer, type=kind, problem=error.message)
        else:
            if row.state != "failed":
                self.counters["offered"] += 1
                return True
        return offer.tries >= limits.WITNESS_OFFERS_MAX


def _is_ahead(until_s: float | None, now_s: float) -> bool:
    """Whether a time is still to come; one that is too far off was told by another clock."""
    return until_s is not None and 0 < until_s - now_s <= 2 * limits.WITNESS_AGAIN_S


# In threads.


def _issued_s(office: CredentialOffice, peer: PeerId, kind: str) -> float | None:
    """Return when this node issued a type about a peer last, in Unix seconds; None: never."""
    subject = principal_of_peer(peer)
    found = office.issued.find(issuer=office.did, subject=subject, kind=kind, limit=1)
    return found[0].issued_s if found else None


def _used(office: CredentialOffice, peers: Collection[PeerId], now_s: float) -> list[PeerId]:
    """Return which peers have receipts enough that they may have earned something."""
    since_s, here = now_s - limits.WITNESS_WINDOW_S, set(peers)
    counted = ReceiptBook(office.wallet.database).by_peer("requester")
    enough = [c for c in counted if c.agreed >= limits.WITNESS_SAMPLES_MIN]
    return [PeerId(c.peer) for c in enough if c.peer in here and c.finished_s >= since_s]


def _speed_of(office: CredentialOffice, peer: PeerId, now_s: float) -> Claims | None:
    """Return what a peer earned by its receipts of the last window, all of which this node asked
    for and measured.
    """
    since_s, database = now_s - limits.WITNESS_WINDOW_S, office.wallet.database
    book = ReceiptBook(database).rows(peer, role="requester", limit=limits.WALLET_FIND_MAX)
    rows = [row for row in book if since_s <= row.started_s <= row.finished_s <= now_s]
    seen = EvidenceLog(database).of_peer(principal_of_peer(peer))
    misdeeds = sum(row.state in ("contradicted", "refused") for row in rows)
    misdeeds += sum(one.outcome in _MISDEEDS and one.at_s >= since_s for one in seen)
    samples = [_sample(row) for row in rows if (row.state, row.outcome) == ("agreed", "completed")]
    return throughput_claims([one for one in samples if one is not None], misdeeds)


def _sample(row: ReceiptRow) -> Sample | None:
    """Return what this node's own half says of one answer's speed."""
    try:
        subject: Any = parse_document(row.own).get("credentialSubject")
    except CredentialsError:  # not as this node signs them: it says nothing
        return None
    first_ms = subject.get("firstTokenMilliseconds") if isinstance(subject, dict) else None
    return sample_of(
        model=row.model,
        layers=row.layers,
        answer_tokens=row.answer_tokens,
        started_s=row.started_s,
        finished_s=row.finished_s,
        first_token_ms=float(first_ms) if isinstance(first_ms, int | float) else None,
    )
