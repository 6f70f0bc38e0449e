"""Get a base back from its hosts, with nothing but the root key; and find out which there are.

docs/vpk.md, "Restore".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kwaai.errors import BaseMissing, TooFewHosts
from kwaai.limits import BASE_RESTORE_TRIES_MAX
from kwaai.vpk import base_core
from kwaai.vpk.access import BaseAccess, KeySource
from kwaai.vpk.base_core import Core, Identity
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keys import RootKey
from kwaai.vpk.manifest import Manifest, verify_manifest
from kwaai.vpk.publish import fetch_newest
from kwaai.vpk.takeover import OnProgress


@dataclass(frozen=True, slots=True)
class RemoteBase:
    """A base that hosts have."""

    id: bytes
    name: str
    rows: int
    sequence: int
    published_s: float
    hosts: tuple[str, ...]
    """Who has its newest manifest."""


async def find_bases(root: RootKey, hosts: HostSet, only: bytes | None = None) -> list[RemoteBase]:
    """Return the bases of this root key that hosts have, by name; those that were never published
    have no name, and are left out. `only`: look at this one. Raises TooFewHosts.
    """
    found = []
    for base_id in await hosts.bases() if only is None else (only,):
        try:
            newest = await hosts.get_manifest(base_id, partial(_verify, root.access(base_id)))
        except TooFewHosts:
            continue
        if newest is not None:
            manifest = newest.manifest
            count = sum(ref.rows for ref in manifest.segments)
            removed = sum(run.stop - run.start for run in manifest.removed)
            found.append(
                RemoteBase(
                    base_id,
                    manifest.name,
                    count - removed,
                    manifest.sequence,
                    manifest.published_s,
                    newest.hosts,
                )
            )
    return sorted(found, key=lambda each: (each.name, each.id))


async def restore(
    directory: Path,
    source: KeySource,
    base_id: bytes,
    hosts: HostSet,
    on_progress: OnProgress,
    clock: Callable[[], float] = time.time,
    name: str | None = None,
) -> Core:
    """Make a directory with a base as its hosts have it. What was killed halfway goes on where it
    was. `name`: what it is called here; None: as its owner calls it. Raises BaseMissing (no host
    has it), BaseExists (another base is there), TooFewHosts.
    """
    newest = await hosts.get_manifest(base_id, partial(_verify, source.access(base_id)))
    if newest is None:
        raise BaseMissing("none of the hosts has a base of that id; is it the right root key?")
    manifest = newest.manifest
    identity = Identity(
        base_id, name or manifest.name, manifest.mode, manifest.embedder, manifest.created_s
    )
    core = await asyncio.to_thread(_local, directory, source, identity, hosts, clock)
    try:
        async with core.writing:
            for attempt in range(1, BASE_RESTORE_TRIES_MAX + 1):
                try:
                    await fetch_newest(core, on_progress)
                    break
                except TooFewHosts:  # a segment that another device has just merged into another
                    if attempt == BASE_RESTORE_TRIES_MAX:
                        raise
    except BaseException:
        core.close()
        raise
    return core


def _local(
    directory: Path,
    source: KeySource,
    identity: Identity,
    hosts: HostSet,
    clock: Callable[[], float],
) -> Core:
    try:
        if base_core.base_id_at(directory) == identity.id:
            return base_core.load(directory, source, hosts, clock, writable=True)
    except BaseMissing:
        pass
    return base_core.make(directory, source, identity, hosts, clock)


def _verify(access: BaseAccess, data: bytes) -> Manifest:
    return verify_manifest(data, access.tenant, access.keys)
