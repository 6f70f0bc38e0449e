"""What an owner asks of one node's knowledge: files, names with typos, commands at once, defects.

Full text alone, on this node's disk; hosts are test_vpk_readers' and the integration tests' matter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from credentials.keys import PeerId, SecretKey
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import (
    BaseExists,
    BaseMissing,
    Busy,
    DocumentMissing,
    EmbedderMissing,
    StorageRefused,
    TooFewHosts,
    UserError,
)
from kwaai.node.knowledge_answers import NOTHING, KnowledgeAnswers
from kwaai.node.knowledge_control import IngestOptions, IngestProgress
from kwaai.node.knowledge_desk import KnowledgeDesk
from kwaai.node.knowledge_service import KnowledgeService
from kwaai.node.storage_client import RemoteHost
from kwaai.node.vpk_discovery import HostRow
from kwaai.store.home import Home
from kwaai.testing.generator import FakeGenerator
from kwaai.trust.tiers import Tier
from kwaai.vpk.types import EmbedderSpec

SECRET = SecretKey(bytes(range(32)))
EVA = "12D3KooWGBfqLAFfDnsaRCT5Zt4Xf1bXAi7xYXcAzCKQxCfCPPnw"


class Trusting:
    """Standings in which every peer is trusted, and no floor is asked for."""

    def __init__(self) -> None:
        self.floors = self

    def standing(self, peer: str) -> Any:
        return type("Standing", (), {"tier": Tier.TRUSTED, "integrity": 1.0})

    def check(self, *_: object) -> None:
        return None

    def floor(self, _: str) -> Tier:
        return Tier.UNKNOWN


class Found:
    """The hosts that are known."""

    def __init__(self, *hosts: HostRow) -> None:
        self.hosts = list(hosts)

    async def discover(self) -> list[HostRow]:
        return self.hosts

    def rows(self) -> list[HostRow]:
        return self.hosts


class Calls:
    def rtt_s(self, _: str) -> float | None:
        return None


@asynccontextmanager
async def node(path: Path, *hosts: HostRow) -> AsyncIterator[KnowledgeDesk]:
    service = KnowledgeService(
        Config(knowledge_embedder="none"),
        Home(path),
        cast(Any, Trusting()),
        cast(Any, Calls()),
        cast(Any, Found(*hosts)),
        lambda: None,
        lambda peer: "eva" if peer == EVA else "",
        SECRET,
    )
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 30)
    try:
        yield KnowledgeDesk(service, None, lambda text: PeerId(text))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[KnowledgeDesk]:
    async with node(tmp_path / "home") as desk:
        await desk.create("notes", "sealed", fulltext_only=True)
        yield desk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    (folder / "farm").mkdir(parents=True)
    (folder / "farm" / "owls.txt").write_text("owls fly at night")
    (folder / "cats.txt").write_text("cats purr")
    (folder / "scan.pdf").write_bytes(b"no pdf at all")
    (folder / "__init__.py").write_bytes(b"")
    return folder


async def ingest(desk: KnowledgeDesk, *paths: Path, sync: bool = False) -> dict[str, str]:
    names = [str(path) for path in paths]
    view = await desk.ingest("notes", names, IngestOptions(sync=sync), lambda _: None)
    return {Path(row.path).name: row.outcome for row in view.files}


async def test_a_name_is_checked_before_anything_is_fetched(
    desk: KnowledgeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(*_: object, **__: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(desk.service.embedders, "get", fetch)
    with pytest.raises(BaseExists):
        await desk.create("notes", "sealed", fulltext_only=False)
    with pytest.raises(UserError, match="printable characters, and no slash"):
        await desk.create("a/b", "sealed", fulltext_only=False)


async def test_documents_are_named_as_they_are_deleted(desk: KnowledgeDesk, folder: Path) -> None:
    assert await ingest(desk, folder) == {
        "owls.txt": "new",
        "cats.txt": "new",
        "scan.pdf": "failed",
        "__init__.py": "skipped",
    }
    names = [row.name for row in await desk.documents("notes")]
    assert names == ["papers/cats.txt", "papers/farm/owls.txt", "papers/scan.pdf"]
    with pytest.raises(DocumentMissing, match=r"is it 'papers/farm/owls\.txt'"):
        await desk.delete_document("notes", "owls.txt")
    with pytest.raises(DocumentMissing, match=r"is it 'papers/cats\.txt'"):
        await desk.delete_document("notes", "papers/cat.txt")
    with pytest.raises(DocumentMissing, match="lists them"):
        await desk.delete_document("notes", "zzz")
    assert await desk.delete_document("notes", "papers/cats.txt") == 1
    assert await desk.delete_document("notes", "papers/scan.pdf") == 0
    assert [row.name for row in await desk.documents("notes")] == ["papers/farm/owls.txt"]
    assert (await ingest(desk, sync=True))["cats.txt"] == "new"


async def test_an_export_is_whole_or_says_why_not(
    desk: KnowledgeDesk, folder: Path, tmp_path: Path
) -> None:
    await ingest(desk, folder)
    done = await desk.export("notes", str(tmp_path / "all.jsonl"))
    assert (done.passages, done.missing) == (2, 0)
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["text"] for line in lines) == ["cats purr", "owls fly at night"]
    with pytest.raises(UserError, match="is there already"):
        await desk.export("notes", str(tmp_path / "all.jsonl"))
    with pytest.raises(UserError, match="cannot write"):
        await desk.export("notes", str(tmp_path / "no" / "all.jsonl"))


async def test_an_empty_base_says_that_it_is_empty(desk: KnowledgeDesk) -> None:
    found = await desk.search("notes", "owls", 3, explain=False)
    assert (found.hits, found.degraded) == (
        (),
        ("notes has no documents yet; take some in: kwaainet rag ingest PATH",),
    )
    inner = FakeGenerator()
    answers = KnowledgeAnswers(inner, lambda: ["notes"], desk.find)
    request = inner_request(inner, "kwaai-rag/notes")
    text, finished = [item async for item in answers.generate(request)]
    assert cast(Any, text).text != NOTHING
    assert "has no documents yet" in cast(Any, text).text
    assert cast(Any, finished).degraded == found.degraded


def inner_request(inner: FakeGenerator, model: str) -> Any:
    from kwaai.node.generate import ChatMessage, GenerationRequest

    return GenerationRequest(model, (ChatMessage("user", "owls?"),))


async def test_changes_take_turns_and_say_so(
    desk: KnowledgeDesk, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = desk.service.find("notes")
    said: list[IngestProgress] = []
    waiting = asyncio.Event()

    def say(progress: IngestProgress) -> None:
        said.append(progress)
        waiting.set()

    async with opened.work("a repair"):
        paths = [str(folder)]
        task = asyncio.create_task(desk.ingest("notes", paths, IngestOptions(), say))
        await asyncio.wait_for(waiting.wait(), 30)
        assert said[0].note == "waiting: a repair of this base is under way"
        with pytest.raises(Busy, match="a repair is under way"):
            async with opened.work("a deletion", 0.0):
                pass
        assert (await desk.search("notes", "owls", 3, explain=False)).hits == ()
    assert (await asyncio.wait_for(task, 30)).passages == 2


async def test_what_waited_for_a_base_that_is_deleted_hears_of_it(
    desk: KnowledgeDesk, folder: Path
) -> None:
    opened = desk.service.find("notes")
    async with opened.work("an audit"):
        destroyed = asyncio.create_task(desk.destroy("notes"))
        await asyncio.sleep(0)
        late = asyncio.create_task(ingest(desk, folder))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(destroyed, 30) == ()
    with pytest.raises(BaseMissing, match="was deleted meanwhile"):
        await asyncio.wait_for(late, 30)
    await desk.create("notes", "sealed", fulltext_only=True)
    assert (await ingest(desk, folder))["owls.txt"] == "new"


async def test_uploads_of_one_name_have_places_of_their_own(desk: KnowledgeDesk) -> None:
    places = {await desk.upload_path("notes", "a.txt") for _ in range(4)}
    assert len(places) == 4
    for name in ("../a", "a/b", ".a", "", "."):
        with pytest.raises(UserError, match="no file's name"):
            await desk.upload_path("notes", name)


async def test_a_host_that_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise StorageRefused("this host takes tenants of nodes that are Known to it")

    monkeypatch.setattr(RemoteHost, "create_tenant", refuse)
    row = HostRow(
        peer=PeerId(EVA),
        name="eva",
        mode="eve",
        capacity_bytes=10**10,
        free_bytes=10**10,
        tenants=0,
        least_tier=Tier.KNOWN,
        quota_bytes=10**9,
        takes_tenants=True,
        tier=Tier.TRUSTED,
        owner=None,
        reachable=True,
    )
    async with node(tmp_path / "home", row) as desk:
        made = await desk.create("notes", "sealed", fulltext_only=True)
        assert "eva refused: this host takes tenants" in made.problem
        assert [host.peer for host in made.hosts] == ["here"]
        (shown,) = await desk.discover()
        assert shown.usable.startswith("it refused: this host takes tenants")
        assert any("eva refused" in text for text in (await desk.repair("notes")).notes)
        with pytest.raises(TooFewHosts, match=r"oblivious needs a host .*eva refused"):
            await desk.create("hidden", "oblivious", fulltext_only=True)


async def test_a_defect_in_one_bases_upkeep_closes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path / "home") as desk:
        await desk.create("notes", "sealed", fulltext_only=True)
        opened = desk.service.find("notes")

        async def fail() -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(opened.base, "publish", fail)
        await desk.service._keep_up(opened)
        assert "kwaainet logs" in desk.bases()[0].problem


async def test_a_search_does_not_wait_for_a_download(
    desk: KnowledgeDesk, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ingest(desk, folder)
    fetched = asyncio.Event()

    async def fetch(**_: object) -> None:
        await fetched.wait()
        raise EmbedderMissing("nothing came")

    service, opened = desk.service, desk.service.find("notes")
    service.config = Config(knowledge_embedder="all-MiniLM-L6-v2")
    monkeypatch.setattr(service.embedders, "get", fetch)
    monkeypatch.setattr(type(opened.base), "spec", EmbedderSpec("m", "", 8, normalised=True))
    monkeypatch.setattr(limits, "SEARCH_EMBEDDER_WAIT_S", 0.01)
    found = await desk.search("notes", "owls", 3, explain=False)
    assert found.hits[0].text == "owls fly at night"
    assert "m is still being fetched" in found.degraded[0]
    fetched.set()
    monkeypatch.setattr(limits, "SEARCH_EMBEDDER_WAIT_S", 30.0)
    found = await desk.search("notes", "owls", 3, explain=False)
    assert "nothing came" in found.degraded[0]


async def test_the_service_can_be_run_again(tmp_path: Path) -> None:
    async with node(tmp_path / "home") as desk:
        await desk.create("notes", "sealed", fulltext_only=True)
        service = desk.service
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 30)
    assert [row.name for row in desk.bases()] == ["notes"]
    assert not service.embedders._is_closed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
