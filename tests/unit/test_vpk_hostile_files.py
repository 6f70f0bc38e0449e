"""Files that are traps: without an end, waiting, changing while they are read, with names that
would drive a terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_vpk_ingest import Scene, states

from kwaai.cli.output import one_line, safe_for_terminal
from kwaai.cli.rag_query import _show_passages
from kwaai.errors import DocumentInvalid
from kwaai.limits import MIB
from kwaai.vpk import ingest_run

_ENDLESS = Path("/proc/self/pagemap")  # of no size, and 256 GB long


@pytest.mark.skipif(not _ENDLESS.exists(), reason="a file of Linux")
def test_file_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_run, "DOCUMENT_BYTES_MAX", 8 * MIB)
    with pytest.raises(DocumentInvalid, match="no end"):
        ingest_run._read_digest(_ENDLESS, is_wanted=True)


async def test_traps_among_files_stop_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "notes")
    scene.write("good.txt", "foxes run", 1000.0)
    os.mkfifo(scene.folder / "pipe.txt")
    (scene.folder / "zero.txt").symlink_to("/dev/zero")
    (scene.folder / "loop").symlink_to(scene.folder)
    (scene.folder / "passwd.txt").symlink_to("/etc/passwd")
    scene.write("esc\x1b]0;owned\x07.txt", "owls fly", 1000.0)
    report = await scene.run()
    said = states(report)
    assert said["good.txt"] == "new"
    assert {said[name] for name in ("pipe.txt", "zero.txt", "loop", "passwd.txt")} == {"skipped"}
    names = [row.name for row in report.rows if row.state == "new"]
    assert all(name.isprintable() for name in names)
    again = await scene.run(scene.folder / "pipe.txt", scene.folder / "good.txt")
    assert states(again)["good.txt"] == "unchanged"


HOSTILE = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\r\x9b31m\u202egpj.exe\x00\x08"


def test_passages_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever wrote a document, or shares a base, wrote its names, headings and passages."""
    hit = {
        "number": 1,
        "document": HOSTILE,
        "page": 1,
        "heading": [HOSTILE],
        "text": f"before {HOSTILE}\nafter",
        "score": 0.5,
        "vector_rank": 1,
        "text_rank": None,
        "similarity": 0.1,
        "host": HOSTILE,
    }
    fetch = {"host": HOSTILE, "objects": 1, "bytes": 1, "ms": 1.0, "failed": HOSTILE}
    explained = {"candidates": 1, "bytes": 1, "stages_ms": [["scan", 1.0]], "fetches": [fetch]}
    _show_passages({"hits": [hit], "degraded": [HOSTILE], "explained": explained})
    shown = capsys.readouterr()
    assert "after" in shown.out
    for text in (shown.out, shown.err):
        assert all(sign.isprintable() or sign == "\n" for sign in text)


@pytest.mark.parametrize("shows", [one_line, safe_for_terminal])
def test_no_control_character_passes(shows: object) -> None:
    every = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x202E, 0x2066, 0xE0001]))
    shown = shows(f"a{every}b")  # type: ignore[operator]
    assert all(sign.isprintable() or sign in "\n\t" for sign in shown)
