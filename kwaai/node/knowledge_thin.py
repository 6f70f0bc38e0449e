"""Thin clients: cells of a base made and kept up on a device that has all of it, and copies of
bases that keep centroids alone.

Chooses and remembers no hosts; opens nothing that is on the disk: `knowledge_service` does.
docs/knowledge.md, "Thin clients".
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from credentials.errors import CredentialsError
from credentials.keys import parse_peer_id
from kwaai import limits
from kwaai.errors import (
    BaseExists,
    BaseMissing,
    PeerError,
    ResourceError,
    StorageRefused,
    UserError,
)
from kwaai.log import get_logger
from kwaai.node.knowledge_control import ThinView
from kwaai.node.knowledge_hosts import BaseHost, save_hosts
from kwaai.node.knowledge_open import OpenBase
from kwaai.vpk.base import Base
from kwaai.vpk.local_host import HERE
from kwaai.vpk.restore import find_bases
from kwaai.vpk.thin_base import ThinBase

if TYPE_CHECKING:
    from pathlib import Path

    from kwaai.node.knowledge_service import KnowledgeService
    from kwaai.vpk.keys import RootKey

log = get_logger(__name__)


def view(base: Base) -> ThinView | None:
    """Return what a base's cells are; None: it has none."""
    ref = base.cells()
    if ref is None:
        return None
    return ThinView(isinstance(base, ThinBase), ref.cells, ref.rows, ref.centroids_bytes)


# A device that has all of a base.


async def make(opened: OpenBase) -> None:
    """Make the cells of a base, or make them again. Raises UserError (no vectors, mode oblivious),
    Busy, TooFewHosts, StorageFull.
    """
    async with opened.work("making cells for thin clients", limits.KNOWLEDGE_TURN_S):
        opened.cells_s = time.monotonic()
        await opened.base.make_cells()


async def drop(opened: OpenBase) -> None:
    """Delete the cells of a base; thin clients find nothing in it any more. Raises as `make`."""
    async with opened.work("deleting its cells", limits.KNOWLEDGE_TURN_S):
        await opened.base.drop_cells()


async def keep_up(opened: OpenBase) -> None:
    """Make cells again where much of the base has changed since, and sweep what is left of older
    ones. The caller holds `busy`. Raises as `make`.
    """
    base, now_s = opened.base, time.monotonic()
    await base.sweep_cells()
    if base.cells() is None or now_s - opened.cells_s < limits.THIN_RENEW_S:
        return
    share = await asyncio.to_thread(base.cells_changed)
    if share >= limits.THIN_RENEW_SHARE:
        opened.cells_s = now_s
        await base.make_cells()
        log.info("cells_made_again", base=base.id.hex(), changed=round(share, 3))


# A thin client.


async def restore(
    service: KnowledgeService, root: RootKey, holders: Mapping[bytes, Sequence[BaseHost]], name: str
) -> list[OpenBase]:
    """Open the bases at hosts that are called `name` (empty: all) and not here, without their
    indexes. Raises what stands in the way of the one that is named, or of all.
    """
    here = {opened.base.id for opened in service.all()}
    opened: list[OpenBase] = []
    empty: Counter[str] = Counter()
    failure: PeerError | ResourceError | BaseExists | StorageRefused | None = None
    for base_id, rows in sorted(holders.items(), key=lambda each: -len(each[1])):
        alone = rows[0].peer if len(rows) == 1 else ""
        if base_id in here or (name and opened) or empty[alone] >= limits.RESTORE_MADE_UP_MAX:
            continue
        try:
            if name and not await _is_called(service, root, base_id, rows, name):
                continue
            opened.append(await _fetch(service, root, base_id, rows))
        except BaseMissing as error:  # never published, or made up
            empty[alone] += bool(alone)
            log.info("base_not_there", base=base_id.hex(), reason=error.message)
        except (PeerError, ResourceError, BaseExists, StorageRefused) as error:
            log.info("base_not_restored", base=base_id.hex(), reason=error.message)
            failure = failure or error
    if failure is not None and not opened:
        raise failure
    return opened


async def _is_called(
    service: KnowledgeService, root: RootKey, base_id: bytes, rows: Sequence[BaseHost], name: str
) -> bool:
    hosts = service.hosts.host_set(rows, root.tenant(), alone=False)
    found = await find_bases(root, hosts, base_id)
    if not found:
        raise BaseMissing("the hosts that list this base do not have it")
    return any(base.name == name for base in found)


async def _fetch(
    service: KnowledgeService, root: RootKey, base_id: bytes, rows: Sequence[BaseHost]
) -> OpenBase:
    hosts = service.hosts.host_set(rows, root.tenant(), alone=False)
    folder = service.home.bases / f".thin-{base_id.hex()}"
    base = await ThinBase.fetch(folder, root, base_id, hosts)
    return await service.settle(folder, base, hosts_of(service, base) or rows)


def hosts_of(service: KnowledgeService, base: Base) -> tuple[BaseHost, ...]:
    """Return the hosts that a base's manifest names and that can be asked from here."""
    found = {}
    for host in base.published_hosts():
        if host.peer in (HERE, service.readers.own):
            continue
        try:
            parse_peer_id(host.peer)
        except CredentialsError:
            continue
        found[host.peer] = BaseHost(host.peer, host.owner, host.weight)
    return tuple(found.values())


def use(service: KnowledgeService, base: Base, rows: Sequence[BaseHost]) -> None:
    """Have a thin client's base ask these hosts, and no others: nothing lies on this disk."""
    base.attach(service.hosts.host_set(rows, service.tenant(), alone=False))


async def refresh(service: KnowledgeService, opened: OpenBase, hosts_file: Path) -> bool:
    """Take in what was published; say whether there was anything. The caller holds `busy`. Raises
    TooFewHosts, ResourceError (the base has no cells any more).
    """
    changed = await opened.base.refresh()
    rows = hosts_of(service, opened.base)
    if rows and rows != opened.rows:
        use(service, opened.base, rows)
        save_hosts(hosts_file, rows)
        opened.rows = rows
    return changed


async def give_way(service: KnowledgeService, base_id: bytes) -> None:
    """Forget a thin client's copy: all of that base is about to take its place."""
    here = next((opened for opened in service.all() if opened.base.id == base_id), None)
    if here is None:
        return
    if not here.is_thin:
        raise UserError(f"{here.base.name} is here already")
    async with here.work("fetching all of it"):
        await service.forget(here)
        here.is_gone = True
