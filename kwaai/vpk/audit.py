"""Audits: does each host still have what it took? A sample of objects is read and opened, and a
proof is asked for of a large one.

A read object that opens is proof by itself. What is missing where it belongs is told as `omitted`
unless it is owed; what does not open as `wrong`. On the wire they are reads as any.
Repairs nothing. docs/vpk.md, "Audits".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import numpy as np

from kwaai.errors import KwaaiError, PeerRefused, SealBroken, UserError
from kwaai.limits import (
    VPK_AUDIT_PROOF_BLOCKS,
    VPK_AUDIT_S_MAX,
    VPK_AUDIT_SAMPLES,
    VPK_AUDIT_SAMPLES_MAX,
)
from kwaai.vpk.fragments import parse_fragment, stripe_count, stripe_id
from kwaai.vpk.holdings import Holdings
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keeper import opening
from kwaai.vpk.mend import LargeRef, large_refs
from kwaai.vpk.retrievability import challenge
from kwaai.vpk.types import Object

_GOOD_PROOFS: Final = ("", "held", "read")


@dataclass(frozen=True, slots=True)
class AuditRow:
    """How one host did."""

    host: str
    owner: str
    asked: int
    """Small objects."""
    read: int
    """Of these, that came and opened."""
    missing: int
    """That it took and does not have."""
    wrong: int
    """That came and do not open."""
    owed: int
    """That are not there, and are known not to be."""
    proof: str
    """Of a large object: `held`, `read` (it has no tags: read instead), `wrong`, `missing`; empty
    where there is none to ask for."""
    seconds: float
    failure: str = ""
    """Why not all could be asked, for people."""

    @property
    def passed(self) -> bool:
        """It has all that it was asked for."""
        return not (self.missing or self.wrong or self.failure) and self.proof in _GOOD_PROOFS

    @property
    def proofs(self) -> int:
        """Large objects that it has shown to have."""
        return int(self.proof in ("held", "read"))


@dataclass(frozen=True, slots=True)
class AuditReport:
    """One audit: a row for each member."""

    hosts: tuple[AuditRow, ...]

    @property
    def passed(self) -> bool:
        """Every host has all that it was asked for."""
        return all(row.passed for row in self.hosts)


async def audit(
    hosts: HostSet,
    holdings: Holdings,
    *,
    samples: int = VPK_AUDIT_SAMPLES,
    owed: Mapping[str, AbstractSet[bytes]] | None = None,
    rng: random.Random | None = None,
) -> AuditReport:
    """Look after every member, `samples` small objects and one large one each; all at once.

    `owed`: by host, ids that are known not to be there yet (`PutReport.owed`). `rng`: who chooses;
    hosts must not be able to guess. Raises UserError for too many samples.
    """
    if not 1 <= samples <= VPK_AUDIT_SAMPLES_MAX:
        raise UserError(f"{samples} samples: 1 to {VPK_AUDIT_SAMPLES_MAX} may be asked for")
    chance = rng or random.SystemRandom()
    ids = await asyncio.to_thread(holdings.small_ids)
    large = await asyncio.to_thread(large_refs, holdings, hosts.replicas)
    chosen = _choose(hosts, ids, samples, chance)
    looks = [
        _look(
            hosts,
            holdings,
            i,
            chosen[i],
            _pick_large(hosts, large, i, chance),
            (owed or {}).get(member.id, frozenset()),
        )
        for i, member in enumerate(hosts.members)
    ]
    return AuditReport(tuple(await asyncio.gather(*looks)))


def _choose(
    hosts: HostSet, ids: Sequence[bytes], samples: int, chance: random.Random
) -> list[list[bytes]]:
    """Return, for each member, some of the objects that belong there."""
    count = len(hosts.members)
    chosen: list[list[bytes]] = [[] for _ in range(count)]
    if not ids:
        return chosen
    # A host of small weight has few: more are drawn than are needed.
    drawn = chance.sample(range(len(ids)), min(len(ids), samples * count * 4))
    some = [ids[i] for i in drawn]
    rows = hosts.holders(some)
    for member in range(count):
        mine = np.flatnonzero((rows == member).any(axis=1))[:samples].tolist()
        chosen[member] = [some[i] for i in mine]
    return chosen


def _pick_large(
    hosts: HostSet, large: Sequence[LargeRef], member: int, chance: random.Random
) -> tuple[bytes, int] | None:
    """Return (id of a stripe, its number) of a large object that belongs with this member."""
    spread = hosts.roster.spread
    for ref in chance.sample(list(large), min(len(large), 8)):
        coding = ref.coding
        stripe = chance.randrange(stripe_count(ref.size_bytes, coding))
        own_id = stripe_id(ref.id, stripe)
        row = spread.holders([own_id], coding.count, strangers_max=coding.strangers_max)[0]
        if member in row.tolist():
            return own_id, stripe
    return None


async def _look(
    hosts: HostSet,
    holdings: Holdings,
    member: int,
    ids: list[bytes],
    large: tuple[bytes, int] | None,
    owed: AbstractSet[bytes],
) -> AuditRow:
    loop, roster = asyncio.get_running_loop(), hosts.roster
    started_s = loop.time()
    opened = omitted = wrong = known = 0
    failure = proof = ""
    if ids:
        call = roster.members[member].host.get(holdings.base, ids)
        answer = await roster.ask(member, call, VPK_AUDIT_S_MAX)
        if isinstance(answer, KwaaiError):
            failure = answer.message
        else:
            answer = [*answer, *[None] * len(ids)][: len(ids)]
            pairs = list(zip(ids, answer, strict=True))
            objects: list[Object] = [(i, blob) for i, blob in pairs if blob is not None]
            lacking = [i for i, blob in pairs if blob is None]
            known = sum(i in owed for i in lacking)
            omitted = len(lacking) - known
            opened = len(await asyncio.to_thread(opening, holdings, objects))
            wrong = len(objects) - opened
    if large is not None and not failure:
        proof, failure = await _prove(hosts, holdings, member, *large)
    if omitted:
        roster.note(member, "omitted", f"{omitted} of {len(ids)} objects are not there")
    if wrong or proof == "wrong":
        roster.note(member, "wrong", f"{wrong} objects do not open" if wrong else "its proof fails")
    row = AuditRow(
        roster.members[member].id,
        roster.members[member].owner,
        len(ids),
        opened,
        omitted,
        wrong,
        known,
        proof,
        loop.time() - started_s,
        failure,
    )
    if row.passed and (opened or proof):
        roster.note(member, "served", "")
    return row


async def _prove(
    hosts: HostSet, holdings: Holdings, member: int, own_id: bytes, stripe: int
) -> tuple[str, str]:
    """Return (how the proof went, failure)."""
    asked = challenge(VPK_AUDIT_PROOF_BLOCKS)
    host = hosts.members[member].host
    try:
        async with asyncio.timeout(VPK_AUDIT_S_MAX):
            proof = await host.prove(holdings.base, own_id, asked)
            await asyncio.to_thread(holdings.verify_proof, own_id, asked, proof)
        return "held", ""
    except SealBroken:
        return "wrong", ""
    except PeerRefused:
        pass  # it has no tags beside it, or not the object: reading tells
    except TimeoutError:
        return "", "no proof came in time"
    except KwaaiError as error:
        hosts.roster.fail(member, error)
        return "", error.message
    answer = await hosts.roster.ask(member, host.get(holdings.base, [own_id]), VPK_AUDIT_S_MAX)
    if isinstance(answer, KwaaiError):
        return "", answer.message
    if not answer or answer[0] is None:
        return "missing", ""
    try:
        parse_fragment(answer[0], stripe)
    except SealBroken:
        return "wrong", ""
    return "read", ""
