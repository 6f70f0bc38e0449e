"""Ingest over a base in memory: states, resuming, failures, sync, what a walk finds."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import PeerError, ResourceError, UserError
from kwaai.testing.ingest import DirectLoader, LetterEmbedder, MemoryBase
from kwaai.vpk.documents.loader import Loader
from kwaai.vpk.excludes import Excludes
from kwaai.vpk.folder import walk
from kwaai.vpk.ingest import Ingest, Progress, Report

LATER_NS = 10**18 * 4


class Scene:
    """A folder, a base, and ingest between them; `age` makes files older than a moment."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, MemoryBase()
        self.embedder, self.loader = LetterEmbedder(), DirectLoader()
        self.folder.mkdir()

    def write(self, name: str, data: str | bytes, mtime_s: float | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        if mtime_s is not None:
            os.utime(path, (mtime_s, mtime_s))
        return path

    def ingest(self, *, full_text: bool = False, **options: Any) -> Ingest:
        embedder = None if full_text else self.embedder
        options.setdefault("clock_ns", lambda: LATER_NS)
        return Ingest(self.base, embedder, cast(Loader, self.loader), **options)

    async def run(self, *paths: Path, **options: Any) -> Report:
        self.loader.read.clear()
        self.base.added.clear()
        return await self.ingest().run(list(paths) or [self.folder], **options)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "notes")


def states(report: Report) -> dict[str, str]:
    return {Path(row.path).name: row.state for row in report.rows}


async def test_a_folder_is_ingested_in_order_with_vectors(scene: Scene) -> None:
    scene.write("b.md", "# Head\n\nabc abc")
    scene.write("a/z.txt", "dd")
    scene.write("c.txt", "x")
    seen: list[Progress] = []
    report = await scene.run(on_progress=seen.append)
    assert scene.base.added == ["notes/b.md", "notes/c.txt", "notes/a/z.txt"]
    assert report.counts() == {"new": 3}
    assert report.passages == 3
    document, passages, vectors = scene.base.documents[str(scene.folder / "b.md")]
    assert (document.title, document.media_type) == ("Head", "text/markdown")
    assert passages[0].text == "abc abc"
    assert vectors is not None
    assert vectors[0].tolist() == [3, 2, 2, 1]  # with the heading
    assert seen[-1].files_done == seen[-1].files_total == 3
    assert seen[-1].bytes_done == seen[-1].bytes_total
    assert seen[-1].passages == 3


async def test_what_is_unchanged_is_not_read_again(scene: Scene) -> None:
    path = scene.write("a.txt", "one")
    await scene.run()
    assert states(await scene.run()) == {"a.txt": "unchanged"}
    assert scene.loader.read == []
    os.utime(path, (5, 5))  # touched: its content is compared
    assert states(await scene.run()) == {"a.txt": "unchanged"}
    assert scene.loader.read == []
    assert scene.base.states[str(path)].mtime_ns == 5 * 10**9
    scene.write("a.txt", "two", 5)
    assert states(await scene.run()) == {"a.txt": "unchanged"}  # same size and time: believed
    scene.write("a.txt", "three", 5)
    assert states(await scene.run()) == {"a.txt": "changed"}
    assert scene.base.texts() == {"notes/a.txt": "three"}


async def test_a_file_that_was_just_written_is_compared_by_content(scene: Scene) -> None:
    path = scene.write("a.txt", "one", 1000)
    fresh = scene.ingest(clock_ns=lambda: 1001 * 10**9)
    await fresh.run([scene.folder])
    assert scene.base.states[str(path)].mtime_ns == 0
    scene.write("a.txt", "two", 1000)  # within the same tick of its clock
    assert states(await fresh.run([scene.folder])) == {"a.txt": "changed"}


async def test_one_bad_file_does_not_stop_the_rest(scene: Scene) -> None:
    scene.write("a.txt", "good")
    scene.write("b.txt", "")
    scene.write("crash.pdf", "x")
    scene.write("d.bin", b"\0\1\2")
    scene.write("e.pdf", "no pdf")
    scene.write("f.txt", "good too")
    report = await scene.run()
    assert states(report) == {
        "a.txt": "new",
        "b.txt": "skipped",
        "crash.pdf": "failed",
        "d.bin": "skipped",
        "e.pdf": "failed",
        "f.txt": "new",
    }
    assert [row.reason for row in report.rows][1] == "an empty file"
    assert [row.reason for row in report.rows][2] == "its reader crashed on it (signal 11)"


async def test_failed_files_are_tried_again_unless_watched(scene: Scene) -> None:
    scene.write("crash.txt", "x")
    await scene.run()
    assert states(await scene.run(retry_failed=False)) == {"crash.txt": "unchanged"}
    assert scene.loader.read == []
    assert states(await scene.run()) == {"crash.txt": "failed"}
    assert scene.loader.read == ["crash.txt"]


async def test_a_file_that_can_no_longer_be_read_keeps_its_older_document(scene: Scene) -> None:
    scene.write("a.md", "old")
    await scene.run()
    scene.write("a.md", b"\0\0\0")
    report = await scene.run()
    assert states(report) == {"a.md": "failed"}
    assert "what it held before is still found" in report.rows[0].reason
    assert scene.base.texts() == {"notes/a.md": "old"}
    scene.write("a.md", "new again")
    assert states(await scene.run()) == {"a.md": "changed"}


async def test_a_file_that_is_named_says_why_it_is_not_read(scene: Scene) -> None:
    report = await scene.run(scene.write("d.bin", b"\0\1\2"))
    assert (report.rows[0].state, report.rows[0].reason) == (
        "failed",
        "it is a binary file, not text",
    )


async def test_a_run_that_is_broken_off_goes_on_where_it_was(scene: Scene) -> None:
    for name in "abcd":
        scene.write(f"{name}.txt", name * 10)

    def refuse(document: object) -> None:
        if len(scene.base.added) == 2:
            raise ResourceError("the disk is full")

    scene.base.on_add = refuse
    with pytest.raises(ResourceError, match="disk is full"):
        await scene.run()
    assert len(scene.base.documents) == 2
    scene.base.on_add = lambda document: None
    assert states(await scene.run()) == {
        "a.txt": "unchanged",
        "b.txt": "unchanged",
        "c.txt": "new",
        "d.txt": "new",
    }


async def test_a_cancelled_run_ends(scene: Scene) -> None:
    for n in range(20):
        scene.write(f"{n:02}.txt", "x")
    held = asyncio.Event()

    async def hold(*_: object) -> Any:
        held.set()
        await asyncio.Event().wait()

    scene.embedder.embed = hold  # type: ignore[method-assign]
    task = asyncio.create_task(scene.run())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_embedder_that_refuses_a_text_fails_that_file_only(scene: Scene) -> None:
    for name in ("a", "bad", "c"):
        scene.write(f"{name}.txt", f"text {name}")
    scene.embedder.refused["bad"] = UserError("the model does not take this")
    assert states(await scene.run()) == {"a.txt": "new", "bad.txt": "failed", "c.txt": "new"}
    scene.embedder.refused["bad"] = PeerError("the endpoint is away")
    with pytest.raises(PeerError, match="endpoint is away"):
        await scene.run()


@pytest.mark.parametrize(
    "answer",
    [np.zeros((1, 3), np.float32), np.zeros((2, 4), np.float32), np.full((1, 4), np.nan)],
    ids=["dimension", "count", "numbers"],
)
async def test_vectors_that_cannot_be_are_not_stored(scene: Scene, answer: Any) -> None:
    async def embed(*_: object) -> Any:
        return answer

    scene.write("a.txt", "x")
    scene.embedder.embed = embed  # type: ignore[method-assign]
    with pytest.raises(ResourceError, match="choose another"):
        await scene.run()
    assert not scene.base.documents


async def test_passages_of_many_files_are_embedded_together(scene: Scene) -> None:
    for n in range(600):
        scene.write(f"{n:03}.txt", f"file {n}")
    scene.write("z.md", "\n\n".join(f"# H{n}\n\n{'word ' * 60}" for n in range(1100)))
    await scene.run()
    assert scene.embedder.batches[0] == 512
    assert max(scene.embedder.batches) == 512
    assert len(scene.embedder.batches) <= 5


async def test_without_an_embedder_there_are_no_vectors(scene: Scene) -> None:
    scene.write("a.txt", "x")
    await scene.ingest(full_text=True).run([scene.folder])
    assert [vectors for _, _, vectors in scene.base.documents.values()] == [None]


# Sync.


async def test_sync_removes_what_is_gone_and_nothing_else(scene: Scene, tmp_path: Path) -> None:
    other = Scene(tmp_path / "notes2")
    other.base = scene.base
    other.write("o.txt", "other")
    await other.run()
    for name in ("a.txt", "sub/b.txt", "c.txt"):
        scene.write(name, name)
    await scene.run()
    (scene.folder / "sub/b.txt").unlink()
    assert states(await scene.run()) == {"a.txt": "unchanged", "c.txt": "unchanged"}
    assert len(scene.base.documents) == 4  # ingest alone removes nothing
    assert states(await scene.run(sync=True)) == {
        "a.txt": "unchanged",
        "c.txt": "unchanged",
        "b.txt": "removed",
    }
    assert sorted(scene.base.texts()) == ["notes/a.txt", "notes/c.txt", "notes2/o.txt"]


async def test_overlapping_paths_remove_a_file_once(scene: Scene) -> None:
    for name in ("a.txt", "sub/b.txt", "sub/c.txt"):
        scene.write(name, name)
    paths = (scene.folder, scene.folder / "sub")
    await scene.run(*paths)
    (scene.folder / "sub/b.txt").unlink()
    assert (await scene.run(*paths, sync=True)).counts() == {"unchanged": 2, "removed": 1}


async def test_sync_without_paths_goes_through_earlier_ones(scene: Scene) -> None:
    scene.write("a.txt", "x")
    await scene.run()
    scene.write("b.txt", "y")
    report = await scene.ingest().run([], sync=True)
    assert states(report) == {"a.txt": "unchanged", "b.txt": "new"}


async def test_an_empty_or_missing_folder_removes_nothing_unless_told(scene: Scene) -> None:
    path = scene.write("a.txt", "x")
    await scene.run()
    path.unlink()
    for _ in range(2):
        report = await scene.run(sync=True)
        assert states(report) == {"notes": "failed"}
        assert "in case a disk is not mounted" in report.rows[0].reason
        assert scene.base.documents
        if scene.folder.exists():
            scene.folder.rmdir()  # then it is missing
    assert states(await scene.run(sync=True, allow_empty=True)) == {"a.txt": "removed"}
    assert not scene.base.documents


async def test_a_named_file_that_is_gone_is_removed_by_sync(scene: Scene) -> None:
    path = scene.write("a.txt", "x")
    await scene.run(path)
    path.unlink()
    assert states(await scene.run(path)) == {"a.txt": "failed"}
    assert states(await scene.run(path, sync=True)) == {"a.txt": "removed"}


async def test_a_folder_that_cannot_be_listed_keeps_its_documents(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write("sub/a.txt", "x")
    scene.write("b.txt", "y")
    await scene.run()
    listed = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = await scene.run(sync=True, allow_empty=True)
    assert states(report) == {"b.txt": "unchanged", "sub": "failed"}
    assert len(scene.base.documents) == 2


async def test_uploads_have_a_name_and_stay(scene: Scene, tmp_path: Path) -> None:
    upload = tmp_path / "spool"
    upload.write_text("# T\n\ntext", "utf-8")
    ingest = scene.ingest()
    row = await ingest.add_file(upload, "report.md")
    assert (row.path, row.name, row.state, row.passages) == (
        "upload:report.md",
        "report.md",
        "new",
        1,
    )
    upload.write_text("# T\n\nother", "utf-8")
    assert (await ingest.add_file(upload, "report.md")).state == "changed"
    assert (await ingest.add_file(upload, "report.md")).state == "unchanged"
    await ingest.run([], sync=True, allow_empty=True)
    assert scene.base.texts() == {"report.md": "other"}
    upload.write_bytes(b"")
    assert (await ingest.add_file(upload, "empty.md")).reason == "it is empty"


async def test_watching_reports_changes_only(scene: Scene) -> None:
    scene.write("a.txt", "x")
    reports: list[dict[str, str]] = []
    rounds = 0

    async def sleep(seconds: float) -> None:
        nonlocal rounds
        assert seconds >= 1
        rounds += 1
        if rounds == 2:
            scene.write("b.txt", "y")
        if rounds == 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await scene.ingest().watch(
            [scene.folder], lambda report: reports.append(states(report)), poll_s=0.0, sleep=sleep
        )
    assert reports == [{"a.txt": "new"}, {"a.txt": "unchanged", "b.txt": "new"}]


# Walking.


def names(folder: Path, *excludes: str) -> list[str]:
    return [file.name for file in walk([folder], Excludes(excludes)).files]


def test_a_walk_leaves_out_what_is_no_document(scene: Scene) -> None:
    kept = ["README", "a.txt", "src/x.py", "src/y.md"]
    for name in (*kept, ".hidden", ".git/config", "node_modules/x.js", "src/__pycache__/x.pyc"):
        scene.write(name, "x")
    scene.write("env/pyvenv.cfg", "")
    scene.write("env/lib/x.py", "x")
    scene.write("icon.svg", "<svg/>")
    assert names(scene.folder) == [f"notes/{name}" for name in kept]


def test_a_walk_follows_no_links_and_reads_no_pipes(scene: Scene, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.txt").write_text("s", "utf-8")
    scene.write("a.txt", "x")
    (scene.folder / "out").symlink_to(secret)
    (scene.folder / "file").symlink_to(secret / "s.txt")
    (scene.folder / "loop").symlink_to(scene.folder)
    (scene.folder / "broken").symlink_to("nowhere")
    os.mkfifo(scene.folder / "pipe")
    found = walk([scene.folder], Excludes())
    assert [file.name for file in found.files] == ["notes/a.txt"]
    assert sorted((Path(p).name, why) for p, why in found.skipped) == [
        ("broken", "a symbolic link"),
        ("file", "a symbolic link"),
        ("loop", "a symbolic link"),
        ("out", "a symbolic link"),
        ("pipe", "not a regular file"),
    ]
    link = tmp_path / "link"
    link.symlink_to(scene.folder)
    assert names(link) == ["notes/a.txt"]  # one that was asked for is followed


def test_a_walk_finds_each_file_once_and_has_bounds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scene.write("a/b.txt", "x")
    found = walk([scene.folder / "a", scene.folder, path], Excludes())
    assert [file.name for file in found.files] == ["a/b.txt"]
    monkeypatch.setattr("kwaai.vpk.folder.INGEST_DEPTH_MAX", 1)
    assert [why for _, why in walk([scene.folder], Excludes()).unread] == [
        "it lies deeper than 1 folders"
    ]
    monkeypatch.setattr("kwaai.vpk.folder.INGEST_FILES_MAX", 0)
    with pytest.raises(UserError, match="more than 0 files"):
        walk([path], Excludes())


def test_names_that_are_not_utf8_are_told_apart(scene: Scene) -> None:
    for name in (b"\xff.txt", b"\xfe.txt"):
        (scene.folder / os.fsdecode(name)).write_bytes(b"x")
    assert names(scene.folder) == ["notes/\\xfe.txt", "notes/\\xff.txt"]


def test_names_do_not_command_a_terminal(scene: Scene) -> None:
    scene.write("a\x1b[2J\nb.txt", "x")
    assert names(scene.folder) == ["notes/a\ufffd[2J\ufffdb.txt"]


@pytest.mark.parametrize(
    ("patterns", "path", "is_folder", "out"),
    [
        (["*.log"], "a/b.log", False, True),
        (["*.log"], "a/b.logs", False, False),
        (["build/"], "a/build", True, True),
        (["build/"], "build", False, False),
        (["/top.md"], "top.md", False, True),
        (["/top.md"], "a/top.md", False, False),
        (["a/*.md"], "a/x.md", False, True),
        (["a/*.md"], "a/b/x.md", False, False),
        (["a/**/x.md"], "a/x.md", False, True),
        (["a/**/x.md"], "a/b/c/x.md", False, True),
        (["a/**"], "a/b/c", False, True),
        (["**/x"], "a/x", False, True),
        (["*.md", "!keep.md"], "a/keep.md", False, False),
        (["!keep.md", "*.md"], "a/keep.md", False, True),
        (["# comment", ""], "# comment", False, False),
        (["\\#x"], "#x", False, True),
        (["[ab].txt"], "b.txt", False, True),
        (["[!ab].txt"], "b.txt", False, False),
        (["?.txt"], "é.txt", False, True),
        (["?.txt"], "ab.txt", False, False),
        (["a.b"], "axb", False, False),
    ],
)
def test_excludes(patterns: list[str], path: str, is_folder: bool, out: bool) -> None:
    assert Excludes(patterns).leaves_out(path, is_folder) is out


def test_excluded_folders_are_not_gone_into(scene: Scene) -> None:
    for name in ("old/a.txt", "b.txt", "c.log"):
        scene.write(name, "x")
    assert names(scene.folder, "old/", "*.log") == ["notes/b.txt"]


def test_excludes_are_bounded() -> None:
    with pytest.raises(UserError, match="too long"):
        Excludes(["x" * 2000])
    with pytest.raises(UserError, match="more than"):
        Excludes(["x"] * 2000)


@given(st.lists(st.text(max_size=20), max_size=5), st.text(max_size=20))
def test_no_pattern_crashes(patterns: list[str], path: str) -> None:
    with contextlib.suppress(UserError):
        Excludes(patterns).leaves_out(path, False)
