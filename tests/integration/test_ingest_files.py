"""Real files through the real reading process: large, hostile, broken; parsers that misbehave."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from kwaai import limits
from kwaai.errors import DocumentInvalid
from kwaai.testing.documents import make_bomb, make_docx, make_pdf
from kwaai.testing.ingest import MemoryBase
from kwaai.vpk.documents.chunk import chunk
from kwaai.vpk.documents.loader import Loader, loader_timeout_s, open_regular
from kwaai.vpk.ingest import Ingest

LARGE_PAGES = 400
IMAGE_BYTES = 512 * limits.KIB


@pytest.fixture
async def loader() -> AsyncIterator[Loader]:
    loader = Loader()
    yield loader
    await loader.close()


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "kwaai.vpk.documents.loader_worker" in child.cmdline()
    ]


def write_large_pdf(path: Path) -> None:
    """A PDF of 200 MB: a page of text and a picture's bytes, again and again."""
    data = make_pdf([[f"Page {n} tells of topic {n * n}."] for n in range(LARGE_PAGES)])
    body, tail = data[: data.rindex(b"xref\n0")], data[data.rindex(b"xref\n0") :]
    count = body.count(b" obj\n")
    entries = tail[: tail.index(b"trailer")].splitlines(keepends=True)[2:]
    with path.open("wb") as file:
        file.write(body)
        for n in range(LARGE_PAGES):
            entries.append(b"%010d 00000 n \n" % file.tell())
            file.write(b"%d 0 obj\n<</Length %d>>\nstream\n" % (count + 1 + n, IMAGE_BYTES))
            file.write(os.urandom(64) * (IMAGE_BYTES // 64))
            file.write(b"\nendstream\nendobj\n")
        start = file.tell()
        size = len(entries)
        file.write(b"xref\n0 %d\n%s" % (size, b"".join(entries)))
        file.write(b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (size, start))


@pytest.mark.parametrize("library", ["pypdfium2", "pypdf"])
async def test_a_pdf_of_200_mb(
    loader: Loader, tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "pypdf":
        monkeypatch.setenv("PYTHONPATH", fake_pdfium(tmp_path, "raise ImportError"))
    path = tmp_path / "large.pdf"
    write_large_pdf(path)
    assert path.stat().st_size > 200_000_000
    document = await loader.load(path)
    assert len(document.blocks) == LARGE_PAGES
    assert {passage.page for passage in chunk(document)} <= set(range(1, LARGE_PAGES + 1))
    assert "topic 159201." in document.text
    (process,) = children()
    assert process.memory_info().rss < 500 * limits.MIB


async def test_one_process_reads_many_files(loader: Loader, tmp_path: Path) -> None:
    for name, data in (("a.pdf", make_pdf([["one"]])), ("b.docx", make_docx()), ("c.md", b"# c")):
        (tmp_path / name).write_bytes(data)
    assert not children()
    pids = set()
    for name in ("a.pdf", "b.docx", "c.md", "a.pdf"):
        assert (await loader.load(tmp_path / name)).text
        pids |= {child.pid for child in children()}
    assert len(pids) == 1
    await loader.close()
    assert not children()


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("bomb.docx", make_bomb(300 * limits.MIB), "zip bomb"),
        ("huge.docx", make_bomb(600 * limits.MIB), "more than"),
        ("cut.docx", make_docx()[:5000], "broken"),
        ("cut.pdf", make_pdf([["x"]])[:150], "broken|no text"),
        ("empty.txt", b"", "empty"),
        ("binary.txt", os.urandom(100_000), "binary"),
        ("deep.html", b"<div>" * 300_000, "no text"),
        ("deep.json", b"[" * 1_000_000 + b"]" * 1_000_000, None),
        ("latin.txt", "Grüße aus Zürich".encode("latin-1"), None),
        ("quotes.md", b"# " + b" " * 500_000 + b"x\n\n" + b"[" * 100_000 + b"*a " * 50_000, None),
        ("quotes.txt", b"." * 500_000 + b"\"'" * 100_000, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_hostile_files(
    loader: Loader, tmp_path: Path, name: str, data: bytes, why: str | None
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    if why is None:
        document = await loader.load(path)
        for passage in chunk(document):
            assert document.text[passage.start : passage.stop] == passage.text
    else:
        with pytest.raises(DocumentInvalid, match=why):
            await loader.load(path)
    path.write_bytes(b"")
    (tmp_path / "next.txt").write_text("the next file is read", "utf-8")
    assert (await loader.load(tmp_path / "next.txt")).text == "the next file is read"


async def test_what_is_no_file_is_refused(loader: Loader, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(DocumentInvalid, match="not a regular file"):
            await loader.load(path)
    with pytest.raises(FileNotFoundError):
        await loader.load(tmp_path / "nothing")
    with (tmp_path / "sparse.pdf").open("wb") as file:
        file.truncate(limits.DOCUMENT_BYTES_MAX + 1)
    with pytest.raises(DocumentInvalid, match="more than"):
        open_regular(tmp_path / "sparse.pdf")


# Parsers that misbehave: a library of that name which does it on purpose.


def fake_pdfium(tmp_path: Path, body: str) -> str:
    folder = tmp_path / "fake"
    folder.mkdir(exist_ok=True)
    (folder / "pypdfium2.py").write_text(body, "utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed on it \(signal 11\)"),
        ("import os; os._exit(3)", r"crashed on it \(exit code 3\)"),
        ("x = bytearray(8 << 30)", "more memory"),
        ("import sys; sys.exit('out')", "crashed on it"),
        ("raise KeyError('odd')", "reader failed.*KeyError"),
        ("import os, sys; os.write(int(sys.argv[1]), b'x' * 100); os._exit(0)", "crashed on it"),
        ("def f():\n    f()\nf()", "reader failed.*RecursionError"),
        (
            "with open('written', 'w') as file: file.write('x' * 10)",
            "reader failed.*File too large",
        ),
    ],
)
async def test_a_parser_that_breaks_harms_its_file_only(
    loader: Loader, tmp_path: Path, body: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", fake_pdfium(tmp_path, body))
    (tmp_path / "a.pdf").write_bytes(make_pdf([["x"]]))
    (tmp_path / "b.txt").write_text("fine", "utf-8")
    base = MemoryBase()
    report = await Ingest(base, None, loader).run([tmp_path / "a.pdf", tmp_path / "b.txt"])
    assert [row.state for row in report.rows] == ["failed", "new"]
    with pytest.raises(DocumentInvalid, match=why):
        await loader.load(tmp_path / "a.pdf")


async def test_a_parser_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", fake_pdfium(tmp_path, "while True: pass"))
    (tmp_path / "a.pdf").write_bytes(make_pdf([["x"]]))
    (tmp_path / "b.txt").write_text("fine", "utf-8")
    loader = Loader(timeout_s=2.0)
    try:
        with pytest.raises(DocumentInvalid, match="more than 2 s"):
            await loader.load(tmp_path / "a.pdf")
        assert not children()
        assert (await loader.load(tmp_path / "b.txt")).text == "fine"
    finally:
        await loader.close()


def test_deadlines_grow_with_the_file() -> None:
    assert loader_timeout_s(0) == limits.LOADER_TIMEOUT_S
    assert loader_timeout_s(10 * limits.MIB) > loader_timeout_s(limits.MIB)
    assert loader_timeout_s(limits.DOCUMENT_BYTES_MAX) == limits.LOADER_TIMEOUT_S_MAX


async def test_a_folder_of_everything(loader: Loader, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    files = {
        "a.md": b"# Boats\n\nThe boat is blue.",
        "b.docx": make_docx(),
        "c.pdf": make_pdf([["A page of text."]]),
        "d.csv": b"name,age\nBob,3\n",
        "e.py": b"def f():\n    return 1\n",
        "f.html": b"<h1>H</h1><p>text",
        "g.png": b"\x89PNG\r\n\x1a\n\0\0\0",
        "h.txt": b"",
        "i.xlsx": make_docx(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    base = MemoryBase()
    ingest = Ingest(base, None, loader)
    report = await ingest.run([folder], sync=True)
    assert {Path(row.path).name: row.state for row in report.rows if row.state != "new"} == {
        "g.png": "skipped",
        "h.txt": "skipped",
        "i.xlsx": "failed",
    }
    assert len(base.documents) == 6
    again = await ingest.run([folder], sync=True, retry_failed=False)
    assert again.counts().keys() <= {"unchanged", "skipped", "failed"}
    assert again.counts()["unchanged"] >= 6
