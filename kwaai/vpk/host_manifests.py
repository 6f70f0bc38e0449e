"""One manifest on many hosts: the newest is found, and the next is published by one device only.

Verifies nothing itself: the caller's function does, because a host may show anything as a manifest.
Each host swaps by comparison of sequence numbers; a device that is not first at a majority has
lost, and tries again with what it lost to. docs/vpk.md, "Publishing".
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from kwaai.errors import (
    KwaaiError,
    ManifestConflict,
    ManifestInvalid,
    SealBroken,
    StorageFull,
    TooFewHosts,
)
from kwaai.vpk.members import Roster, is_room_lacking


class Sequenced(Protocol):
    """A verified manifest."""

    @property
    def sequence(self) -> int:
        """Its number."""


M = TypeVar("M", bound=Sequenced)


@dataclass(frozen=True, slots=True)
class Found(Generic[M]):
    """The newest manifest of a base that verifies."""

    manifest: M
    data: bytes
    hosts: tuple[str, ...]
    """Who has exactly this one."""
    rivals: tuple[tuple[M, bytes], ...]
    """Others with the same sequence number: two devices published at once, and neither has heard of
    the other yet. Whoever publishes next takes both in."""
    stale: tuple[str, ...]
    """Who has an older one, or none."""
    away: tuple[str, ...]
    """Who did not answer, or with what does not verify."""


@dataclass(frozen=True, slots=True)
class ManifestPut:
    """Which hosts took a manifest."""

    hosts: tuple[str, ...]
    away: tuple[str, ...]
    """Who did not: repair brings it to them, or the next publication does."""


async def publish(
    roster: Roster,
    base: bytes,
    sequence: int,
    data: bytes,
    verify: Callable[[bytes], M],
    timeout_s: float,
) -> ManifestPut:
    """Put a manifest at all members; see `HostSet.put_manifest`."""
    members = roster.members
    results = await asyncio.gather(
        *(_put_one(roster, i, base, sequence, data, timeout_s) for i in range(len(members)))
    )
    taken = [i for i, result in enumerate(results) if result is None]
    for i in taken:
        roster.taken[base, members[i].id] = sequence
    shown: list[tuple[int, M, bytes]] = []
    for i, result in enumerate(results):
        if isinstance(result, ManifestConflict):
            rival = _rival(roster, i, sequence, result.current, verify)
            if rival is not None:
                shown.append((i, rival, result.current))
    newest = max((m.sequence for _, m, _ in shown), default=0)
    if shown and (newest > sequence or len(taken) * 2 <= len(members)):
        conflict = ManifestConflict(
            f"another device has published number {newest} of this base: take its changes in, then "
            "publish again"
        )
        conflict.current = _most_frequent([d for _, m, d in shown if m.sequence == newest])
        raise conflict
    away = tuple(m.id for i, m in enumerate(members) if i not in taken)
    if taken:
        return ManifestPut(tuple(members[i].id for i in taken), away)
    errors = [r for r in results if r is not None]
    if errors and all(is_room_lacking(e) for e in errors):
        raise StorageFull(f"no host has room for the manifest: {errors[0].message}")
    raise TooFewHosts(
        f"none of {len(members)} hosts took the manifest ({errors[0].message}); nothing is lost: "
        "it is published when one of them answers"
    )


async def newest(
    roster: Roster, base: bytes, verify: Callable[[bytes], M], timeout_s: float
) -> Found[M] | None:
    """Return the newest manifest of all members; see `HostSet.get_manifest`."""
    members = roster.members
    answers = await asyncio.gather(
        *(roster.ask(i, m.host.get_manifest(base), timeout_s) for i, m in enumerate(members))
    )
    if all(isinstance(answer, KwaaiError) for answer in answers):
        raise TooFewHosts(f"none of {len(members)} hosts answers; try again when one does")
    away: list[str] = []
    without: list[str] = []
    checked: list[tuple[str, M, bytes]] = []
    for i, answer in enumerate(answers):
        if answer is None:
            _note_stale(roster, i, base, 0)
            without.append(members[i].id)
            continue
        manifest = None if isinstance(answer, KwaaiError) else _verified(roster, i, answer, verify)
        if manifest is None or isinstance(answer, KwaaiError):
            away.append(members[i].id)
        else:
            _note_stale(roster, i, base, manifest.sequence)
            checked.append((members[i].id, manifest, answer))
    if not checked:
        return None
    best = max(manifest.sequence for _, manifest, _ in checked)
    data = _most_frequent([d for _, manifest, d in checked if manifest.sequence == best])
    distinct = {d: m for _, m, d in checked if m.sequence == best}
    older = [host for host, manifest, _ in checked if manifest.sequence < best]
    return Found(
        distinct[data],
        data,
        tuple(host for host, _, d in checked if d == data),
        tuple((m, d) for d, m in sorted(distinct.items()) if d != data),
        (*older, *without),
        tuple(away),
    )


async def _put_one(
    roster: Roster, index: int, base: bytes, sequence: int, data: bytes, timeout_s: float
) -> KwaaiError | None:
    call = _conflict(roster.members[index].host.put_manifest(base, sequence, data))
    return await roster.ask(index, call, timeout_s)


async def _conflict(put: Awaitable[None]) -> ManifestConflict | None:
    """Return a conflict as an answer: it is no failure of the host's."""
    try:
        await put
    except ManifestConflict as conflict:
        return conflict
    return None


def _rival(
    roster: Roster, index: int, sequence: int, current: bytes, verify: Callable[[bytes], M]
) -> M | None:
    """Return what a host refuses ours for; None where it had no reason to."""
    manifest = _verified(roster, index, current, verify)
    if manifest is not None and manifest.sequence < sequence:
        roster.note(index, "wrong", "it refuses a manifest for an older one")
        return None
    return manifest


def _note_stale(roster: Roster, index: int, base: bytes, shown: int) -> None:
    """Tell of a host that shows an older manifest than one that it has taken from here."""
    taken = roster.taken.get((base, roster.members[index].id), 0)
    if shown < taken:
        roster.note(
            index, "stale", f"it took manifest {taken} of a base, and shows {shown or 'none'}"
        )


def _verified(roster: Roster, index: int, data: bytes, verify: Callable[[bytes], M]) -> M | None:
    try:
        return verify(data)
    except (SealBroken, ManifestInvalid) as error:
        roster.note(index, "wrong", error.message)
        return None


def _most_frequent(found: list[bytes]) -> bytes:
    """Return what most hosts have; of as many, the same one on every device."""
    return max(set(found), key=lambda data: (found.count(data), hashlib.sha256(data).digest()))
