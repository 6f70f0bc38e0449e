"""Whom this node trusts, kept current: peers are asked for their credentials, what is seen of them
is noted, scores are computed anew whenever either changes.

Wires the collector, the observer and `kwaai.trust` for as long as the service runs; what its owner
is shown is `trust_views`', what a score is made of `kwaai.trust`'s. Without it (not started yet, or
broken) everybody is Unknown. docs/trust.md.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from credentials.errors import CredentialsError
from credentials.keys import PeerId
from credentials.limits import CLOCK_SKEW_S
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import KwaaiError, ResourceError
from kwaai.inference.together import together
from kwaai.intent.match import HeldCredential, PeerFacts
from kwaai.log import get_logger
from kwaai.net.network import Network
from kwaai.node.credential_service import CredentialService
from kwaai.node.observe import Observer
from kwaai.node.services import Ready
from kwaai.node.trust_collect import FetchReceipts, TrustCollector
from kwaai.node.trust_policy import trust_floors, trust_policy
from kwaai.store.evidence import EvidenceLog
from kwaai.trust.credential_score import has_same_controller
from kwaai.trust.endorse import endorsements_of
from kwaai.trust.evidence import Attestation, Evidence, Observation, principal_of_peer
from kwaai.trust.policy import DAY_S, TrustPolicy
from kwaai.trust.score import Standing, TrustState, score_all
from kwaai.trust.tally import Tallies
from kwaai.trust.tiers import Tier, compute_weight

log = get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Open:
    """What there is while the service runs."""

    collector: TrustCollector
    observer: Observer
    evidence: EvidenceLog
    tallies: Tallies
    state: TrustState
    computed_s: float
    computed_version: int = -1
    """Of what the collector had then."""
    recomputes: int = 0
    recompute_s: float = 0.0
    """All of them together."""


class TrustService:
    """One node's trust in others. Belongs to the event loop."""

    def __init__(
        self,
        config: Config,
        network: Network,
        credentials: CredentialService,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._network, self._credentials = config, network, credentials
        self._clock = clock
        self.floors = trust_floors(config)
        self._own = principal_of_peer(network.peer_id)
        self.policy: TrustPolicy = trust_policy(config, self._own, None)
        self._open: _Open | None = None
        self._changed = asyncio.Event()
        self._due = asyncio.Event()
        self._reload = asyncio.Event()
        self._computing = asyncio.Lock()
        network.add_listener(self._on_peer)

    async def run(self, ready: Ready) -> None:
        """Keep the scores current, until cancelled. Raises ResourceError while the wallet is not
        open, and what the wallet raises.
        """
        office, exchange = self._credentials.office(), self._credentials.exchange()
        evidence = EvidenceLog(office.wallet.database)
        keep_s = self._config.trust_evidence_days * DAY_S
        binding = await asyncio.to_thread(office.owner_binding)
        owner = office.owner_did if binding is None else binding.owner
        self.policy = replace(self.policy, own_owner=owner)
        observer = Observer(
            evidence,
            self._clock,
            keep_s=keep_s,
            on_written=self._on_written,
            on_removed=self._on_removed,
            on_changed=self._reload.set,
        )
        tallies = Tallies(self.policy.behaviour_half_life_s, await observer.load())
        collector = TrustCollector(office, exchange, evidence, self._clock)
        collector.asks = self._may_count
        nobody = score_all(Evidence(), self.policy, self._clock())
        opened = _Open(collector, observer, evidence, tallies, nobody, self._clock())
        try:
            await collector.load()
            self._open = opened
            await self.recompute()
            ready()
            await together(
                (
                    observer.run(lambda: None),
                    self._ask_peers(),
                    self._keep_current(),
                    self._keep_tallies(),
                )
            )
        finally:
            self._open = None
            collector.close()

    # What others of this node ask. Never raises for a peer that nobody knows.

    @property
    def opened(self) -> _Open:
        """Return what there is. Raises ResourceError while the evidence is not open."""
        if self._open is None:
            raise ResourceError(
                "the evidence of this node is not open; `kwaainet status` says why",
                retry_after_s=2.0,
            )
        return self._open

    def check_open(self) -> None:
        """Raise ResourceError while the evidence is not open."""
        _ = self.opened

    def standing(self, peer: str) -> Standing:
        """Return what a PeerId is worth here now."""
        principal = _principal(peer)
        if self._open is None:
            return Standing(principal, 0.0, 1.0, Tier.UNKNOWN, None)
        return self._open.state.standing(principal)

    def facts(self, peer: str) -> PeerFacts:
        """Return what a demand is held against; see Standings."""
        standing = self.standing(peer)
        if self._open is None:
            return PeerFacts(standing.peer)
        held = tuple(
            HeldCredential(
                shown.attestation.type,
                shown.attestation.issuer,
                self._counts(shown.attestation),
            )
            for shown in self._open.collector.shown(standing.peer)
            if not shown.code and _is_now(shown.attestation, self._clock())
        )
        return PeerFacts(standing.peer, standing.tier, standing.owner, held)

    def _counts(self, attestation: Attestation) -> bool:
        """Whether a credential's issuer has weight here, and is not of the subject's own owner."""
        state, issuer = self.opened.state, attestation.issuer
        named = self.policy.issuer_trust(issuer)
        if named is None:
            named = state.derived_trust.get(issuer, 0.0)
        owners = state.evidence.owners
        return named > 0 and not has_same_controller(issuer, attestation.subject, owners)

    def _may_count(self, issuer: str) -> bool:
        """Whether anything that an issuer signs can have weight here, as far as is known."""
        if self.policy.issuer_trust(issuer) is not None:
            return True
        if self._open is None:
            return False
        state = self._open.state
        return issuer in state.derived_trust or state.graph.mass(issuer) > 0.0

    def weight_of(self, peer: str) -> int:
        """Return a peer's share of this node's compute when others wait, relative to Unknown."""
        return compute_weight(self.standing(peer).tier)

    def now_s(self) -> float:
        """Return the time, Unix seconds."""
        return self._clock()

    def on_outcome(self, peer: str, error: KwaaiError | None) -> None:
        """Note what came of a session on a peer; see Observer."""
        if self._open is not None:
            self._open.observer.on_outcome(peer, error)

    @property
    def observer(self) -> Observer | None:
        """What notes outcomes; None while the evidence is not open."""
        return None if self._open is None else self._open.observer

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None:
        """Have what is known of these peers as current as a decision about them needs: those that
        were never asked are asked now. With `current` also those that were asked a while ago, and
        status lists are looked at. Waits a bounded time, and raises nothing: who does not answer
        stays what it was.
        """
        if self._open is None:
            return
        try:
            await self._prepare(self._open.collector, peers, current=current)
        except KwaaiError as error:  # the wallet, or this node is stopping
            log.warning("trust_not_current", problem=error.message)

    async def _prepare(
        self, collector: TrustCollector, peers: Sequence[str], *, current: bool
    ) -> None:
        age_s = limits.TRUST_FETCH_CURRENT_S if current else math.inf
        new = [peer for peer in peers if self._is_due(peer, age_s)]
        changed = False
        try:
            async with asyncio.timeout(limits.TRUST_PREPARE_WAIT_S):
                changed = await self._ask_all(new[: limits.TRUST_PREPARE_MAX])
        except TimeoutError:
            changed = True  # those that have answered count
        if current:
            changed |= await collector.look(map(_principal, peers), limits.TRUST_STATUS_AGE_S)
        if changed or self.opened.computed_version != collector.version:
            await self.recompute()  # also what another call has found meanwhile

    async def refresh(self, peers: Iterable[PeerId]) -> None:
        """Ask peers anew for what they hold, look at the status lists of that, and compute anew.
        Raises what the last one raised where none answered.
        """
        collector, failure, answered = self.opened.collector, None, 0
        asked = tuple(peers)
        for peer in asked:
            try:
                await collector.ask(peer)
                answered += 1
            except KwaaiError as error:
                failure = error
        await collector.look(map(_principal, asked), limits.TRUST_STATUS_AGE_S)
        await collector.recheck()
        await self.recompute()
        if failure is not None and not answered:
            raise failure

    def ask_receipts(self, fetch: FetchReceipts) -> None:
        """From now on ask peers for the receipts that others signed too. Raises ResourceError."""
        self.opened.collector.fetch_receipts = fetch

    def set_roots(self, roots: Sequence[str]) -> None:
        """Go by these roots from now on. Raises ConfigError."""
        self.policy = trust_policy(self._config, self._own, self.policy.own_owner, roots)
        self._changed.set()

    async def recompute(self) -> None:
        """Compute all scores from all evidence, now. One at a time; a call that comes while one
        runs waits for one that has begun after it.
        """
        opened = self.opened
        async with self._computing:
            now_s = self._clock()
            collector, tallies = opened.collector, opened.tallies.snapshot()
            version = collector.version
            attestations, owners = collector.attestations(), collector.owners(now_s)
            refused, policy = collector.refused(), self.policy

            def compute() -> TrustState:
                evidence = Evidence(
                    attestations=attestations,
                    tallies=tallies,
                    endorsements=endorsements_of(attestations),
                    owners=owners,
                    refused=refused,
                )
                return score_all(evidence, policy, now_s)

            began_s = time.perf_counter()
            opened.state = await asyncio.to_thread(compute)
            opened.computed_s, opened.computed_version = now_s, version
            opened.recomputes += 1
            opened.recompute_s += time.perf_counter() - began_s

    # The life of the service.

    def _on_peer(self, peer: PeerId, is_here: bool) -> None:
        if is_here:
            self._due.set()

    def _on_written(self, observations: Sequence[Observation]) -> None:
        if self._open is not None:
            for observation in observations:
                self._open.tallies.add(observation)
            self._changed.set()

    def _on_removed(self, observations: Sequence[Observation]) -> None:
        if self._open is not None:
            for observation in observations:
                self._open.tallies.remove(observation)
            self._changed.set()

    async def _keep_tallies(self) -> None:
        """Count anew whenever somebody else changed the log: `reputation reset`, a restore."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            seen = await self.opened.observer.load()
            self.opened.tallies = Tallies(self.policy.behaviour_half_life_s, seen)
            self._changed.set()

    async def _keep_current(self) -> None:
        """Compute anew after changes, a little later so that several count as one; and as evidence
        ages.
        """
        while True:
            try:
                async with asyncio.timeout(limits.TRUST_RECOMPUTE_S):
                    await self._changed.wait()
                await asyncio.sleep(limits.TRUST_SETTLE_S)
            except TimeoutError:
                pass
            self._changed.clear()
            await self.opened.collector.recheck_stale()
            await self.recompute()

    async def _ask_peers(self) -> None:
        """Ask connected peers what they hold: at once when they come, and then now and again."""
        checked_s = self._clock()
        while True:
            self._due.clear()
            now_s, age_s = self._clock(), limits.TRUST_FETCH_S
            due = [c.peer for c in self._network.connections() if self._is_due(c.peer, age_s)]
            if await self._ask_all(due[: limits.TRUST_PREPARE_MAX]):
                self._changed.set()
            if now_s - checked_s > limits.TRUST_FETCH_S:  # status lists end, periods begin
                checked_s = now_s
                collector = self.opened.collector
                await collector.look(collector.principals(), limits.TRUST_FETCH_S)
                if await collector.recheck():
                    self._changed.set()
            try:
                async with asyncio.timeout(limits.TRUST_FETCH_RETRY_S):
                    await self._due.wait()
            except TimeoutError:
                continue

    def _is_due(self, peer: str, age_s: float) -> bool:
        """Whether a peer was asked longer ago than `age_s`, or never."""
        collector, now_s = self.opened.collector, self._clock()
        asked_s = collector.asked_s(peer)
        if asked_s is None or now_s - asked_s > age_s:
            return True
        return collector.is_silent(peer) and now_s - asked_s > limits.TRUST_FETCH_RETRY_S

    async def _ask_all(self, peers: Sequence[str]) -> bool:
        """Ask some peers, a few at a time; return whether there was news."""
        gate, collector = asyncio.Semaphore(limits.TRUST_FETCHES_AT_ONCE), self.opened.collector

        async def ask(peer: str) -> bool:
            async with gate:
                try:
                    async with asyncio.timeout(limits.TRUST_ASK_TIMEOUT_S):
                        return await collector.ask(PeerId(peer))
                except (KwaaiError, TimeoutError) as error:
                    log.info("trust_peer_not_asked", peer=peer, problem=str(error)[:200])
                    return False

        return any(await asyncio.gather(*map(ask, peers)))

    def stats(self) -> dict[str, float]:
        """Return counters and gauges for /metrics."""
        if self._open is None:
            return {}
        opened, state = self._open, self._open.state
        tiers = Counter(standing.tier for standing in state.standings.values())
        return {
            **{f"trust_peers_{tier.name.lower()}": tiers[tier] for tier in Tier},
            **opened.observer.stats(),
            "trust_roots": len(self.policy.trusted),
            "trust_credentials": len(state.evidence.attestations),
            "trust_observations": sum(t.observations for t in state.evidence.tallies.values()),
            "trust_endorsements": len(state.edges),
            "trust_recomputes": opened.recomputes,
            "trust_recompute_seconds": opened.recompute_s,
        }


def _is_now(attestation: Attestation, now_s: float) -> bool:
    until_s = attestation.valid_until_s
    started = attestation.valid_from_s <= now_s + CLOCK_SKEW_S
    return started and (until_s is None or now_s < until_s + CLOCK_SKEW_S)


@lru_cache(limits.TRUST_PEERS_ASKED_MAX)
def _principal(peer: str) -> str:
    """Return the principal of a PeerId; what is none stands for itself."""
    try:
        return principal_of_peer(peer)
    except CredentialsError:
        return peer
