"""Letting another node read a base, and reading one of another node's: what `rag share` and
`rag attach` do.

Speaks to no host: `knowledge_readers` does; opens no file: `knowledge_service` does. docs/vpk.md,
"Readers".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from credentials.errors import CredentialsError
from credentials.keys import PeerId, PublicKey, parse_peer_id
from kwaai.errors import BaseExists, UserError
from kwaai.node.knowledge_open import OpenBase
from kwaai.node.knowledge_readers import SharedBase, free_name, make_token
from kwaai.node.knowledge_service import KnowledgeService


def reader_key(reader: str, peer_of: Callable[[str], PeerId]) -> tuple[PeerId, PublicKey]:
    """Return a reader's PeerId and key: of a PeerId, which need not be known here, or a name.
    Raises UserError.
    """
    try:
        return PeerId(reader), parse_peer_id(reader)
    except CredentialsError:
        peer = peer_of(reader)
        return peer, parse_peer_id(peer)


async def share(
    service: KnowledgeService, name: str, reader: PeerId, key: PublicKey, days: float
) -> str:
    """Return a token by which `reader` may read a base, for `days`. Raises UserError, and as
    `Base.publish` where the base was never published.
    """
    opened = service.find_own(name)
    if reader == service.readers.own:
        raise UserError("that is this node, whose base it is", param="reader")
    stats = opened.base.stats()
    if stats.unpublished or not stats.sequence:
        async with opened.work("publishing it for a reader"):
            await opened.base.publish()
    return make_token(
        await service.ensure_root(),
        opened.base,
        key,
        opened.rows,
        owner=service.readers.own,
        days=days,
        now_s=service.readers.clock(),
    )


async def attach(service: KnowledgeService, token: str, name: str) -> OpenBase:
    """Open a base of somebody else's by a token, or go on reading it by a newer one. `name`: what
    to call it here; empty: as its owner does, if that name is free. Raises UserError,
    StorageRefused, BaseExists, BaseMissing, TooFewHosts.
    """
    service.check_open()
    shared = service.readers.open(token)
    root = await service.ensure_root()
    if shared.tenant == root.tenant().public.raw:
        raise BaseExists(
            "that is a base of your own, with the same key; bring it here: kwaainet rag restore"
        )
    here = next((opened for opened in service.all() if opened.base.id == shared.id), None)
    if here is not None:
        if name and name != here.base.name:
            raise BaseExists(f"it is here already, as {here.base.name}", param="name")
        return await _renew(service, here, shared)
    if name in service.names():
        raise BaseExists(f"there is a knowledge base {name!r:.80} already", param="name")
    owner = service.hosts.name_of(shared.owner) if shared.owner else ""
    called = name or free_name(shared.share.name, owner or shared.owner[-6:], service.names())
    folder = service.home.bases / f".attach-{shared.id.hex()}"
    base, rows = await service.readers.fetch(folder, shared, root, called)
    return await service.settle(folder, base, rows)


async def _renew(service: KnowledgeService, here: OpenBase, shared: SharedBase) -> OpenBase:
    """Put a newer token in place of the one by which a base is read. Raises as `refresh` does; the
    newer one stays then.
    """
    if here.shared is None or here.shared.tenant != shared.tenant:
        raise BaseExists(f"{here.base.name} is another owner's base, and has the same id")
    async with here.work("taking a newer token"):
        await asyncio.to_thread(shared.save, service.home.base_path(shared.id))
        here.shared = shared
        service.readers.use(here.base, shared, here.rows)
        await service.refresh(here)
    return here
