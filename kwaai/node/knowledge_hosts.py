"""Who hosts this node's knowledge: chosen by what the owner allows, remembered beside each base,
and judged by how they did.

Finds hosts (`vpk_discovery`), has the choice made (`kwaai.vpk.spread`), speaks to them
(`storage_client`). Moves no objects: `kwaai.vpk.keeper` does. docs/vpk.md, "Placement".
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from credentials.errors import CredentialsError
from credentials.keys import PeerId, SecretKey, parse_peer_id
from kwaai.atomic import write_atomic
from kwaai.config import Config
from kwaai.errors import (
    FileCorrupt,
    KwaaiError,
    PeerError,
    PeerMisbehaved,
    ResourceError,
    TooFewHosts,
    UserError,
)
from kwaai.limits import (
    HOST_NAMES_KEPT,
    HOST_SERVED_S,
    HOSTS_FILE_BYTES_MAX,
    HOSTS_PER_BASE_MAX,
    HOSTS_WANTED,
    OWN_STORE_BYTES_MAX,
    STORAGE_QUOTA_MB_MAX,
)
from kwaai.log import get_logger
from kwaai.node.knowledge_control import HostUse
from kwaai.node.link_calls import CallClient
from kwaai.node.observe import Observer
from kwaai.node.standings import Standings
from kwaai.node.storage_client import RemoteHost
from kwaai.node.vpk_discovery import HostRow
from kwaai.trust.evidence import Outcome
from kwaai.trust.tiers import Tier
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.local_host import HERE, LocalHost
from kwaai.vpk.members import HostOutcome, Member
from kwaai.vpk.spread import Candidate, choose_members

log = get_logger(__name__)

_LEAVING_WEIGHT: Final = 1e-6
ANCHOR_TIER: Final = Tier.VERIFIED
"""Hosts below it never are the only holders of anything, whatever `tier_host` allows."""
_MB: Final = 10**6
_AGAINST: Final[Mapping[HostOutcome, str]] = {
    "wrong": "it sent what does not open",
    "omitted": "it has lost what it took",
    "stale": "it shows an older state than others",
}


@dataclass(frozen=True, slots=True)
class BaseHost:
    """A host of a base, as the base's folder remembers it."""

    peer: str
    """A PeerId, or `here`."""
    owner: str
    weight: float = 1.0


class KnowledgeHosts:
    """The hosts that one node's bases are at. Belongs to one event loop."""

    def __init__(
        self,
        config: Config,
        calls: CallClient,
        standings: Standings,
        own_store: Path,
        observer: Callable[[], Observer | None],
        name_of: Callable[[str], str],
    ) -> None:
        """`own_store`: the folder of this node's own copies. `observer`: what notes outcomes, now.
        `name_of`: what a peer calls itself.
        """
        self._config, self._calls, self._standings = config, calls, standings
        self._own_path, self._observer, self._name_of = own_store, observer, name_of
        self._store: HostStore | None = None
        self._local: LocalHost | None = None
        self._tenants: dict[str, RemoteHost] = {}
        self._served_s: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._names: dict[str, str] = {}

    async def close(self) -> None:
        """Close this node's own store. Idempotent."""
        local, self._local = self._local, None
        store, self._store = self._store, None
        if local is not None:
            await local.close()
        if store is not None:
            await asyncio.to_thread(store.close)
        self._tenants.clear()

    def name_of(self, peer: str) -> str:
        """Return what a peer calls itself, or did when it was last there; empty: not known."""
        name = self._name_of(peer)
        if name and (peer in self._names or len(self._names) < HOST_NAMES_KEPT):
            self._names[peer] = name
        return name or self._names.get(peer, "")

    # Members.

    def here(self, tenant: SecretKey) -> Member:
        """Return this node's own disk as a host. Raises as HostStore.open."""
        if self._local is None:
            self._store = HostStore.open(self._own_path / "objects.db", OWN_STORE_BYTES_MAX)
            self._store.create_tenant(tenant.public.raw, OWN_STORE_BYTES_MAX)
            self._local = LocalHost(self._store, tenant.public.raw)
        return Member(self._local, HERE, Tier.TRUSTED, 1.0, True)

    def remote(self, peer: str, tenant: SecretKey) -> RemoteHost:
        """Return a peer as a host. Raises UserError for what is no PeerId."""
        host = self._tenants.get(peer)
        if host is None:
            try:
                parse_peer_id(peer)
            except CredentialsError as error:
                raise UserError(f"{peer!r:.80} is no PeerId") from error
            host = self._tenants[peer] = RemoteHost(PeerId(peer), self._calls, tenant)
        return host

    def member(self, row: BaseHost, tenant: SecretKey) -> Member:
        """Return a remembered host as a member."""
        if row.peer == HERE:
            return self.here(tenant)
        tier = self._standings.standing(row.peer).tier
        return Member(self.remote(row.peer, tenant), row.owner, tier, row.weight)

    def host_set(
        self,
        rows: Sequence[BaseHost],
        tenant: SecretKey,
        leaving: Sequence[BaseHost] = (),
        *,
        alone: bool = True,
        whole: bool = False,
    ) -> HostSet:
        """Return remembered hosts as one. One that has lost its tier still is asked for what it
        has; new objects are made safe by the others, and by this disk where there are none.

        `leaving`: asked for what they have, and given nothing new. `alone` False: these hosts
        only, whatever they are, to read from. `whole`: each has all of it.
        """
        members = [self.member(row, tenant) for row in rows] or [self.here(tenant)]
        if not any(m.trusted or m.tier >= ANCHOR_TIER for m in members):
            if alone:
                members.append(self.here(tenant))
            else:
                members[0] = replace(members[0], trusted=True)
        members += [
            replace(self.member(row, tenant), owner=members[0].owner, weight=_LEAVING_WEIGHT)
            for row in leaving
        ]
        return HostSet(
            members,
            replicas=len(members) if whole else min(self._config.storage_replicas, len(members)),
            floor=ANCHOR_TIER,
            on_outcome=self.note,
        )

    # Choosing.

    async def choose(
        self,
        found: Sequence[HostRow],
        tenant: SecretKey,
        wanted: int = 0,
        kept: Sequence[BaseHost] = (),
    ) -> tuple[BaseHost, ...]:
        """Choose hosts among those that were found, and become a tenant there. `wanted`: how many;
        0: as many as usual. `kept`: hosts that stay, of these. This node's own disk, where there
        are not enough for all copies.
        """
        rows = list(kept)
        more = (wanted or HOSTS_WANTED) - len(rows)
        if more > 0 and self._config.vpk_mode in ("bob", "both"):
            rows += await self._taken(found, tenant, more)
        least = self._config.storage_replicas
        if len(rows) < least or not any(self._is_anchor(row) for row in rows):
            rows.append(BaseHost(HERE, HERE))
        return tuple(rows)

    def _is_anchor(self, row: BaseHost) -> bool:
        return self._standings.standing(row.peer).tier >= ANCHOR_TIER

    async def _taken(
        self, found: Sequence[HostRow], tenant: SecretKey, wanted: int
    ) -> list[BaseHost]:
        """Return the best hosts that take this node as their tenant."""
        refused: set[str] = set()
        while len(refused) < len(found):
            candidates = [
                Candidate(
                    host.peer,
                    host.owner or host.peer,
                    self._standings.standing(host.peer).tier,
                    host.free_bytes,
                    rtt_s=host.rtt_s,
                )
                for host in found
                if host.peer not in refused and not self.why_not(host)
            ]
            try:
                choice = choose_members(
                    candidates,
                    wanted=min(wanted, HOSTS_PER_BASE_MAX),
                    replicas=self._config.storage_replicas,
                    floor=ANCHOR_TIER,
                    least_tier=self._config_tier(),
                )
                chosen, weights = choice.chosen, choice.weights
            except TooFewHosts:
                # Strangers alone: they may hold copies beside this disk's.
                chosen = tuple(candidates[:wanted])
                weights = (1.0,) * len(chosen)
            new = {c.id for c in chosen if not await self._is_taken(c.id, tenant)}
            if not new:
                return [
                    BaseHost(candidate.id, candidate.owner, weight)
                    for candidate, weight in zip(chosen, weights, strict=True)
                ]
            refused |= new
        return []

    def _config_tier(self) -> int:
        return int(self._standings.floors.floor("host"))

    async def _is_taken(self, peer: str, tenant: SecretKey) -> bool:
        try:
            await self.remote(peer, tenant).create_tenant(
                STORAGE_QUOTA_MB_MAX * _MB, self._config.public_name
            )
        except KwaaiError as error:
            log.info("host_refused", peer=peer, reason=error.message)
            if len(self._refused) < HOSTS_PER_BASE_MAX:
                self._refused[peer] = error.message.removeprefix(f"{peer}: ")
            return False
        self._refused.pop(peer, None)
        return True

    def refusals(self) -> tuple[str, ...]:
        """Return which hosts last refused to take this node, and why, in words."""
        return tuple(
            f"{self.name_of(peer) or peer} refused: {why}" for peer, why in self._refused.items()
        )

    def refusal(self, peer: str) -> str:
        """Return why a host last refused to take this node; empty: it did not."""
        return self._refused.get(peer, "")

    def why_not(self, host: HostRow, *, has_it: bool = False) -> str:
        """Say why this node would not host with a peer; empty: it would. `has_it`: of one that has
        the base already, and needs no room to keep it.
        """
        standing = self._standings.standing(host.peer)
        denial = self._standings.floors.check("host", host.peer, standing.tier, standing.integrity)
        if denial is not None:
            asked = denial.floor.label
            if denial.tier < denial.floor:
                return f"it is {denial.tier.label}, {denial.rule} asks for {asked}"
            return f"its integrity is below {denial.rule}"
        if host.reachable is False:
            return host.problem or "it does not answer"
        if has_it:
            return ""
        if not host.takes_tenants:
            return "it takes no tenants now"
        return "it has no room" if host.free_bytes <= 0 else ""

    # What is shown, and what is noted.

    def is_linked(self, peer: str) -> bool:
        """Say whether there is a link to a peer now."""
        return self._calls.rtt_s(PeerId(peer)) is not None

    def use(self, row: BaseHost) -> HostUse:
        """Return a host of a base as its owner sees it."""
        if row.peer == HERE:
            return HostUse(HERE, "this disk", "", "", "online")
        if row.peer == self._calls.peer:  # a base that others share, at this node among others
            return HostUse(row.peer, "this node", "", "", "online")
        standing = self._standings.standing(row.peer)
        return HostUse(
            row.peer,
            self.name_of(row.peer),
            "" if row.owner == row.peer else row.owner,
            standing.tier.label,
            "online" if self.is_linked(row.peer) else "away",
        )

    def note(self, peer: str, outcome: HostOutcome, detail: str) -> None:
        """Keep how a dealing with a host went as evidence."""
        observer = self._observer()
        if observer is None or peer == HERE or outcome in ("full", "busy", "refused"):
            return
        if outcome == "served":
            now_s = time.monotonic()
            if now_s - self._served_s.get(peer, -HOST_SERVED_S) >= HOST_SERVED_S:
                self._served_s[peer] = now_s  # a search makes one of each host
                observer.note(peer, Outcome.SERVED)
        elif outcome in _AGAINST:
            log.warning("host_misbehaved", peer=peer, outcome=outcome, detail=detail)
            observer.on_outcome(peer, PeerMisbehaved(_AGAINST[outcome], peer=peer))
        else:
            observer.on_outcome(peer, PeerError(detail, peer=peer))


def load_hosts(path: Path) -> tuple[BaseHost, ...]:
    """Read who hosts a base; nobody where nothing was written. Raises FileCorrupt."""
    try:
        with path.open("rb") as file:
            data = file.read(HOSTS_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}") from error
    try:
        value: Any = json.loads(data)
        rows = tuple(
            BaseHost(str(row["peer"]), str(row["owner"]), float(row["weight"])) for row in value
        )
        ok = all(0 < row.weight < 1e9 for row in rows) and len(rows) <= HOSTS_PER_BASE_MAX + 1
    except (ValueError, TypeError, KeyError, RecursionError):
        ok = False
    if not ok:
        raise FileCorrupt(f"{path} is damaged; remove it, and run: kwaainet vpk repair")
    return rows


def save_hosts(path: Path, rows: Sequence[BaseHost]) -> None:
    """Write who hosts a base, whole or not at all. Raises DiskFull."""
    value = [{"peer": row.peer, "owner": row.owner, "weight": row.weight} for row in rows]
    write_atomic(path, json.dumps(value).encode())
