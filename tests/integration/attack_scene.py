"""The scene of attacks: a swarm of four real processes, its right answer, what attackers need.

Whatever happens, in the end all must be well, with the same processes as before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from attackers import SEED_FIRST, Intruder
from failing_swarm import FailingSwarm, Member, Question, Reply, until, whole_answers

from credentials.did import did_key
from credentials.keys import PeerId, SecretKey
from kwaai.cli.control import ControlClient
from kwaai.config import Config
from kwaai.models.library import DEMO_NAME, Library
from kwaai.node.credential_home import open_office
from kwaai.node.local_slices import LocalSlices
from kwaai.node.slice_plan import LocalModel
from kwaai.store.evidence import EvidenceLog
from kwaai.store.home import ensure_home
from kwaai.trust.evidence import Observation, Outcome
from kwaai.types import LayerRange

RANGES = (LayerRange(1, 3), LayerRange(3, 5), LayerRange(5, 7))
QUESTION = Question((5, 900, 33, 71, 1204, 8), 24)
ATTACKERS_MAX = 80
DEALINGS = 300
GROWTH_BYTES = 64 << 20
"""What an attack may cost a node in memory."""


@dataclass
class Scene:
    """A swarm of four, what is right, and what the attackers need to take part."""

    swarm: FailingSwarm
    slices: LocalSlices
    model: LocalModel
    right: Reply

    @property
    def bootstrap(self) -> str:
        return str(self.swarm.asker.report["listen"][0])

    async def ask(self) -> Reply:
        return await self.swarm.asker.client.ask(QUESTION)

    async def is_well(self) -> None:
        """An honest question gets the right answer, and nothing is left of anything."""
        await self.right_again()
        await self.swarm.settled()

    def intruder(self, target: Member) -> Intruder:
        assert target.layers is not None
        address = str(target.report["links"][0])
        return Intruder(PeerId(target.peer), address, self.model, target.layers)

    async def right_again(self) -> None:
        """An honest question gets the right answer."""
        reply = await self.ask()
        assert reply.is_whole, f"{reply.code}: {reply.error}\n{self.swarm.log_tail()}"
        assert reply.text == self.right.text

    @asynccontextmanager
    async def stays_well(self) -> AsyncIterator[None]:
        """Whatever happens inside, all is well in the end."""
        workers = {m.name: psutil.Process(m.pid).children() for m in self.swarm.members}
        yield
        await self.swarm.settled()
        await self.swarm.healthy()
        await self.is_well()
        for member in self.swarm.members:
            family = set(psutil.Process(member.pid).children())
            assert set(workers[member.name]) <= family, "a worker died"
            told = await member.client.metrics()
            assert told["worker_restarts_total"] == 0


async def _be_well_known(asker: Member) -> None:
    """Give every attacker to come a past with the asker: it goes through few strangers."""
    names = [
        did_key(SecretKey(bytes([seed]) * 32).public)
        for seed in range(SEED_FIRST, SEED_FIRST + ATTACKERS_MAX)
    ]

    def write() -> None:
        with open_office(asker.node.home, Config()) as office:
            log = EvidenceLog(office.wallet.database)
            for name in names:
                seen = Observation(name, time.time() - 60, Outcome.SERVED)
                log.append([seen] * DEALINGS)

    await asyncio.to_thread(write)
    client = ControlClient(asker.node.home)

    async def is_read() -> bool:
        rows = (await asyncio.to_thread(client.trust_peers))["rows"]
        known = {row["did"] for row in rows if row["observations"] >= DEALINGS}
        return known.issuperset(names)

    await until(is_read, "the asker has read the past", 30.0)


@asynccontextmanager
async def attacked_swarm(directory: Path) -> AsyncIterator[Scene]:
    """Start the swarm, and end it."""
    home = ensure_home(directory)
    right = (await whole_answers(home, [QUESTION]))[QUESTION]
    swarm = FailingSwarm(home, RANGES)
    config = Config(context_tokens=512, threads=1, max_sessions=4)
    slices = LocalSlices(config, Library(home.models))
    try:
        await swarm.start()
        await _be_well_known(swarm.asker)
        yield Scene(swarm, slices, await slices.model(DEMO_NAME), right)
    finally:
        await slices.close()
        await swarm.stop()
