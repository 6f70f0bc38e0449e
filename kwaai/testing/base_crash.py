"""A device that ingests, publishes and compacts until it is killed, and one that looks at what is
left. Run in processes of their own by test_base_crash.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from kwaai.testing.vpk_hosts import local_hosts
from kwaai.vpk.base import Base
from kwaai.vpk.ingest import NewDocument
from kwaai.vpk.keeper import repair
from kwaai.vpk.keys import RootKey
from kwaai.vpk.query import Query
from kwaai.vpk.types import EmbedderSpec, Passage

ROOT = RootKey(b"\x07" * 32)
SPEC = EmbedderSpec("test", "", 16, True)
_NAMES = 40


def vector_of(text: str) -> np.ndarray:
    """A vector that only this text has."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
    return vector / np.linalg.norm(vector)


def texts_of(name: str, edition: int) -> list[str]:
    return [f"{name} edition {edition} passage {n}" for n in range(1 + edition % 7)]


async def add(base: Base, name: str, edition: int) -> None:
    texts = texts_of(name, edition)
    document = NewDocument(name, f"/d/{name}", f"{edition:064x}", 1, 1, "text/plain", name, "/d")
    vectors = np.stack([vector_of(text) for text in texts])
    await base.add_document(document, [Passage(t, (), None, 0, len(t)) for t in texts], vectors)


def work(directory: str, said: Connection, seed: int) -> None:
    """Change the base until killed. Says `(what, name, edition)` before each change, and `done`
    after it.
    """
    asyncio.run(_work(Path(directory), said, random.Random(seed)))


async def _work(directory: Path, said: Connection, chance: random.Random) -> None:
    with local_hosts(directory / "host" / "host.db", ROOT) as hosts:
        base = await Base.open(directory / "base", ROOT, hosts)
        said.send(("open", "", 0))
        while True:
            name, edition = f"n{chance.randrange(_NAMES)}", chance.randrange(1 << 30)
            what = chance.choices(("add", "remove", "publish", "compact"), (20, 4, 3, 1))[0]
            said.send((what, name, edition))
            if what == "add":
                await add(base, name, edition)
            elif what == "remove":
                await base.remove_document(f"/d/{name}")
            elif what == "publish":
                await base.publish()
            else:
                await base.compact()
            said.send(("done", name, edition))


def make(directory: str) -> None:
    """Make an empty base."""
    asyncio.run(_make(Path(directory)))


async def _make(directory: Path) -> None:
    with local_hosts(directory / "host" / "host.db", ROOT) as hosts:
        base = await Base.create(directory / "base", ROOT, "crash", hosts=hosts, embedder=SPEC)
        base.close()


def look(directory: str, said: Connection, restored: str) -> None:
    """Publish, then say what the base has: editions by name; and what is wrong with it."""
    said.send(asyncio.run(_look(Path(directory), Path(restored))))


async def _look(directory: Path, restored: Path) -> tuple[dict[str, int], str]:
    with local_hosts(directory / "host" / "host.db", ROOT) as hosts:
        base = await Base.open(directory / "base", ROOT, hosts)
        await base.publish()
        again = await Base.restore(restored, ROOT, base.id, hosts)
        problem = await _compare(base) or await _compare(again)
        if _editions(base) != _editions(again):
            problem = problem or "a restored base has other documents"
        report = await repair(hosts, base.holdings())
        if report.lost or report.copied or report.owed:
            problem = problem or f"records are missing at the host: {report}"
        if report.strays:
            problem = problem or f"objects at the host are nobody's: {report}"
        stats = base.stats()
        if stats.unpublished or stats.owed:
            problem = problem or f"not all is published: {stats}"
        editions = _editions(base)
        base.close()
        again.close()
        return editions, problem


async def _compare(base: Base) -> str:
    for name, edition in _editions(base).items():
        for text in texts_of(name, edition):
            for query in (Query(vector=vector_of(text), k=1), Query(f"{edition} {text}", k=10)):
                answer = await base.search(query)
                if answer.degraded or text not in [hit.text for hit in answer.hits]:
                    return f"{text} is not found: {answer}"
    return ""


def _editions(base: Base) -> dict[str, int]:
    return {document.name: int(document.sha256, 16) for document in base.documents()}
