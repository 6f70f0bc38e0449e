"""Nodes with homes, offices and wallets of their own, over a network in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credentials.keys import PeerId, peer_id
from kwaai.config import Config
from kwaai.node.credential_exchange import CredentialExchange
from kwaai.node.credential_home import open_office
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.credential_peers import CredentialPeers
from kwaai.store.home import ensure_home
from kwaai.store.identity_file import ensure_identity
from kwaai.store.owner_file import create_owner, owner_key
from kwaai.store.requests import RequestBook
from kwaai.testing.network import MemoryNetwork, MemorySwarm

WAIT_S = 20.0


@dataclass
class Place:
    """One node's part in it."""

    network: MemoryNetwork
    office: CredentialOffice
    book: RequestBook
    exchange: CredentialExchange
    peer: PeerId


class World:
    """Nodes that are connected to one another, each with a home of its own."""

    def __init__(self, directory: Path, stack: contextlib.AsyncExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._swarm = MemorySwarm(1)
        self._places: list[Place] = []

    async def add(self, *, owned: bool = False, **options: Any) -> Place:
        home = ensure_home(self._directory / f"home-{len(self._places)}")
        if owned:
            create_owner(owner_key(home))
        secret, _ = ensure_identity(home.identity_key)
        network = MemoryNetwork(self._swarm, secret)
        peers = CredentialPeers(network)
        office = self._stack.enter_context(
            open_office(
                home,
                Config(),
                fetch_status=peers.fetch_status,
                clock=options.get("clock", time.time),
            )
        )
        book = RequestBook(office.wallet.database)
        exchange = CredentialExchange(network, office, book, peers, **options)
        await network.start()
        self._stack.push_async_callback(network.stop)
        for place in self._places:
            await network.connect(place.network.addresses()[0])
        ready = asyncio.Event()
        task = asyncio.create_task(exchange.run(ready.set))
        self._stack.push_async_callback(end_task, task)
        await asyncio.wait_for(ready.wait(), WAIT_S)
        place = Place(network, office, book, exchange, peer_id(secret.public))
        self._places.append(place)
        return place


async def end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@contextlib.asynccontextmanager
async def a_world(directory: Path) -> AsyncIterator[World]:
    """Yield an empty world; whatever was added to it is ended."""
    async with contextlib.AsyncExitStack() as stack:
        yield World(directory, stack)
