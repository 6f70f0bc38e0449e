"""Ingest into a real base on a real host: found and cited, unchanged, changed, removed, resumed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kwaai.testing.documents import make_docx, make_pdf
from kwaai.testing.ingest import LetterEmbedder
from kwaai.testing.vpk_hosts import local_hosts
from kwaai.vpk.base import Base
from kwaai.vpk.documents.loader import Loader
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.ingest import Ingest, Report
from kwaai.vpk.keys import RootKey
from kwaai.vpk.query import Query

ROOT = RootKey(bytes(range(32)))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[HostSet]:
    with local_hosts(tmp_path / "host" / "host.db", ROOT) as hosts:
        yield hosts


@pytest.fixture
async def loader() -> AsyncIterator[Loader]:
    loader = Loader()
    yield loader
    await loader.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "boat"
    folder.mkdir()
    (folder / "log.md").write_text("# Log\n\n## May\n\nThe keel was scraped.", "utf-8")
    (folder / "repairs.docx").write_bytes(make_docx())
    (folder / "tides.pdf").write_bytes(make_pdf([["Nothing here."], ["High water is at noon."]]))
    return folder


def states(report: Report) -> dict[str, str]:
    return {Path(row.path).name: row.state for row in report.rows}


async def found(base: Base, text: str) -> tuple[str, tuple[str, ...], int | None]:
    hit = (await base.search(Query(text, k=1))).hits[0]
    return hit.document, hit.heading, hit.page


async def test_a_folder_is_found_and_cited(
    tmp_path: Path, hosts: HostSet, loader: Loader, folder: Path
) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "boat", hosts=hosts, embedder=None)
    report = await Ingest(base, None, loader).run([folder])
    assert states(report) == {"log.md": "new", "repairs.docx": "new", "tides.pdf": "new"}
    assert await found(base, "who scraped the keel") == ("boat/log.md", ("Log", "May"), None)
    assert await found(base, "when was the hull painted") == ("boat/repairs.docx", ("Repairs",), 1)
    assert (await found(base, "high water"))[::2] == ("boat/tides.pdf", 2)
    base.close()


async def test_runs_in_several_processes_go_on_where_they_were(
    tmp_path: Path, hosts: HostSet, loader: Loader, folder: Path
) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "boat", hosts=hosts, embedder=None)
    await Ingest(base, None, loader).run([folder])
    base.close()

    base = await Base.open(tmp_path / "b", ROOT, hosts)
    (folder / "log.md").write_text("# Log\n\n## June\n\nThe mast broke.", "utf-8")
    (folder / "tides.pdf").write_bytes(b"%PDF-broken")
    (folder / "repairs.docx").unlink()
    report = await Ingest(base, None, loader).run([], sync=True)
    assert states(report) == {"log.md": "changed", "tides.pdf": "failed", "repairs.docx": "removed"}
    assert await found(base, "mast") == ("boat/log.md", ("Log", "June"), None)
    assert (await found(base, "high water"))[0] == "boat/tides.pdf"  # as it last could be read
    assert not (await base.search(Query("keel", k=1))).hits
    base.close()

    base = await Base.open(tmp_path / "b", ROOT, hosts)
    assert sorted(d.name for d in base.documents()) == ["boat/log.md", "boat/tides.pdf"]
    state = base.files()[str(folder / "tides.pdf")]
    assert (state.state, state.document) == ("failed", "boat/tides.pdf")
    base.close()


async def test_vectors_go_with_their_passages(
    tmp_path: Path, hosts: HostSet, loader: Loader
) -> None:
    embedder = LetterEmbedder()
    folder = tmp_path / "letters"
    folder.mkdir()
    for letter in "abcd":
        (folder / f"{letter}.txt").write_text(f"{letter * 9} is what it says", "utf-8")
    base = await Base.create(tmp_path / "b", ROOT, "x", hosts=hosts, embedder=embedder.spec)
    await Ingest(base, embedder, loader).run([folder])
    for letter in "abcd":
        (vector,) = await embedder.embed([letter * 9])
        answer = await base.search(Query(vector=vector, k=1))
        assert answer.hits[0].document == f"letters/{letter}.txt"
    base.close()
