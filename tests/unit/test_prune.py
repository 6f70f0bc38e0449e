"""Pruning: what goes, what stays, and that nothing outside is touched."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kwaai.atomic import exclusive_lock, set_aside
from kwaai.limits import LEFTOVER_AGE_S, SLICE_UNUSED_S
from kwaai.models.library import Library
from kwaai.models.prune import prune
from kwaai.testing.models import tiny_model
from kwaai.types import LayerRange

RANGES = (LayerRange(0, 2), LayerRange(2, 6))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    tiny_model(directory / "mine.gguf")
    return directory


@pytest.fixture
def slices(models: Path) -> tuple[Path, ...]:
    library = Library(models, packaged=[])
    return library.slices_for(library.find("mine"), RANGES)


def later(seconds: float) -> float:
    return time.time() + seconds + 60


def test_slices_go_once_they_are_long_unused(models: Path, slices: tuple[Path, ...]) -> None:
    done = prune(models)
    assert (done.slices, done.kept, done.freed_bytes) == ((), slices, 0)
    size = sum(path.stat().st_blocks * 512 for path in slices)
    done = prune(models, now_s=later(SLICE_UNUSED_S))
    assert (done.slices, done.kept) == (slices, ())
    assert done.freed_bytes >= size
    assert (models / "mine.gguf").exists()
    library = Library(models, packaged=[])
    assert library.slices_for(library.find("mine"), RANGES) == slices


def test_a_slice_that_is_asked_for_again_stays(models: Path, slices: tuple[Path, ...]) -> None:
    for path in slices:
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
    old = [path.stat().st_mtime_ns for path in slices]
    library = Library(models, packaged=[])
    library.slices_for(library.find("mine"), RANGES[:1])
    assert [path.stat().st_mtime_ns for path in slices] == old  # so it is not verified again
    assert slices[0].stat().st_atime > slices[1].stat().st_atime


def test_everything_means_new_slices_too(models: Path, slices: tuple[Path, ...]) -> None:
    (slices[0].parent / "notes.gguf").write_bytes(b"a person's own")
    assert prune(models, everything=True).slices == slices
    assert sorted(p.name for p in slices[0].parent.iterdir()) == [".lock", "notes.gguf"]


def test_the_records_of_what_is_gone_go_too(models: Path, slices: tuple[Path, ...]) -> None:
    records = models / "manifests"
    before = set(records.iterdir())
    prune(models, everything=True)
    assert len(before - set(records.iterdir())) == len(slices)
    assert Library(models, packaged=[]).find("mine").handle is not None


def test_leftovers_go_after_a_week(models: Path) -> None:
    fetched = models / "acme--m"
    parts = fetched / "m.gguf.slices"
    parts.mkdir(parents=True)
    stay = [
        fetched / "m.gguf",
        fetched / "m.gguf.partial",
        fetched / "m.gguf.partial.json",
        fetched / "m.gguf.download.json",
        fetched / "movie.part",
        parts / "0-2.gguf",
        parts / "embedding.gguf",
    ]
    for path in stay:
        path.write_bytes(b"x" * 5000)
    half = fetched / ".m.gguf.0123456789ab.part"
    half.write_bytes(b"x")
    bad = parts / "4-6.gguf"
    bad.write_bytes(b"x")
    os.utime(bad, (0, 0))  # an old file, that was set aside just now
    aside = set_aside(bad)
    assert prune(models).leftovers == ()
    assert prune(models, everything=True).leftovers == (aside,)  # a writer may still be at work
    assert prune(models, now_s=later(LEFTOVER_AGE_S)).leftovers == (half,)
    assert all(path.exists() for path in stay)


def test_links_lead_nowhere(models: Path, slices: tuple[Path, ...], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("0-2.gguf", "x.gguf.corrupt-1"):
        (outside / name).write_bytes(b"theirs")
    (models / "slices" / "linked").symlink_to(outside)
    (models / "acme--linked").symlink_to(outside)
    (slices[0].parent / "7-8.gguf").symlink_to(outside / "0-2.gguf")
    prune(models, everything=True, now_s=later(SLICE_UNUSED_S))
    assert len(list(outside.iterdir())) == 2
    assert (slices[0].parent / "7-8.gguf").is_symlink()


def test_what_is_being_cut_is_left_alone(models: Path, slices: tuple[Path, ...]) -> None:
    directory = slices[0].parent
    with exclusive_lock(directory / ".lock"):
        done = prune(models, everything=True)
    assert (done.slices, done.busy) == ((), (directory,))
    assert all(path.exists() for path in slices)


def test_an_empty_home_is_fine(tmp_path: Path) -> None:
    assert prune(tmp_path / "absent", everything=True).freed_bytes == 0
