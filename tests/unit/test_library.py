"""The models on this disk: names, near misses, corrupt files, slices that are cut and checked."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from kwaai.errors import FileCorrupt, ModelNotFound, ModelUnsupported, UserError
from kwaai.models.gguf import read_header
from kwaai.models.library import Library, packaged_models
from kwaai.models.slices import cut_embedding, cut_slice
from kwaai.testing.models import TINY, UNTIED, tiny_model
from kwaai.types import LayerRange

RANGES = (LayerRange(0, 2), LayerRange(2, 5), LayerRange(5, 6))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("originals")
    return {
        "tied": tiny_model(directory / "tied.gguf", TINY),
        "untied": tiny_model(directory / "untied.gguf", UNTIED, "Q4_0"),
    }


@pytest.fixture
def library(tmp_path: Path, originals: dict[str, Path]) -> Library:
    models = tmp_path / "models"
    one, many = models / "Acme--Small-GGUF", models / "acme--many"
    one.mkdir(parents=True)
    many.mkdir()
    shutil.copy(originals["tied"], one / "small-Q8_0.gguf")
    shutil.copy(originals["tied"], many / "many.Q8_0.gguf")
    shutil.copy(originals["untied"], many / "many.Q4_0.gguf")
    shutil.copy(originals["untied"], models / "mine.gguf")
    return Library(models, packaged=[("kwaai-demo", originals["tied"])])


def test_lists_everything_by_name(library: Library) -> None:
    entries = library.list()
    assert [entry.name for entry in entries] == [
        "Acme/Small-GGUF",
        "acme/many/many.Q4_0.gguf",
        "acme/many/many.Q8_0.gguf",
        "kwaai-demo",
        "mine",
    ]
    assert all(e.whole and e.head and e.layers == LayerRange(0, 6) for e in entries)
    assert {entry.handle for entry in entries} == {None}


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        ("kwaai-demo", "tied.gguf"),
        ("mine", "mine.gguf"),
        ("MINE", "mine.gguf"),
        ("mine.gguf", "mine.gguf"),
        ("Acme/Small-GGUF", "small-Q8_0.gguf"),
        ("acme/small-gguf:q8_0", "small-Q8_0.gguf"),
        ("small-gguf", "small-Q8_0.gguf"),
        ("acme/many:Q4_0", "many.Q4_0.gguf"),
        ("acme/many/many.Q8_0.gguf", "many.Q8_0.gguf"),
        ("many.Q8_0", "many.Q8_0.gguf"),
    ],
)
def test_finds_by_any_usual_spelling(library: Library, wanted: str, file: str) -> None:
    assert library.find(wanted).path.name == file


def test_finds_by_path_and_handle(library: Library, originals: dict[str, Path]) -> None:
    assert library.find(str(originals["untied"])).name == "untied"
    assert library.find(str(library.directory / "mine.gguf")).name == "mine"
    entry = library.find("mine")
    handle = library.manifest(entry).handle
    assert library.find(handle).path in (entry.path, library.find("acme/many:q4_0").path)
    assert library.find("mine").handle == handle


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("kwaai-dmo", r"Did you mean kwaai-demo\? Models here: .*mine.*shard download"),
        ("acme/smal-gguf", r"Did you mean Acme/Small-GGUF"),
        ("acme/many", r"means several models: acme/many/many.Q4_0.gguf, acme/many/many.Q8_0"),
        ("zzz", r"^no model 'zzz'\. Models here: kwaai-demo"),
        ("/absent/file.gguf", "no model '/absent/file.gguf'"),
        ("sha256:" + "0" * 64, "no model 'sha256:000"),
        ("x" * 100_000, r"no model 'x{256}\.\.\.'"),
        ("a\0.gguf", "no model"),
        ("/" + "x" * 5000, "no model"),
        ("~nobody-at-all/x.gguf", "no model"),
        ("", "no model ''"),
    ],
)
def test_an_unknown_name_gets_help(library: Library, wanted: str, message: str) -> None:
    with pytest.raises(ModelNotFound, match=message):
        library.find(wanted)


def test_an_empty_home_says_so(tmp_path: Path) -> None:
    library = Library(tmp_path / "absent", packaged=[])
    assert library.list() == ()
    with pytest.raises(ModelNotFound, match="There are no models here"):
        library.find("kwaai-demo")


def test_a_corrupt_file_is_reported_and_never_loaded(library: Library) -> None:
    path = library.directory / "mine.gguf"
    path.write_bytes(path.read_bytes()[:-1000])
    shelf = library.look()
    assert "mine" not in [entry.name for entry in shelf.entries]
    assert [broken.path for broken in shelf.broken] == [path]
    assert "it was cut short" in shelf.broken[0].problem
    with pytest.raises(FileCorrupt, match=r"mine\.gguf\.corrupt-1; fetch the model again"):
        library.find("mine")
    assert not path.exists()
    with pytest.raises(ModelNotFound):
        library.find("mine")


def test_a_corrupt_file_elsewhere_stays_where_it_is(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(FileCorrupt, match=r"theirs\.gguf is not a usable GGUF file"):
        library.find(str(path))
    assert path.exists()


def test_slices_on_the_shelf_are_told_from_models(library: Library) -> None:
    directory = library.directory / "acme--part"
    directory.mkdir()
    source = library.directory / "mine.gguf"
    cut_slice(source, directory / "mid.gguf", LayerRange(1, 3), head=False)
    cut_embedding(source, directory / "embedding.gguf")
    part = library.find("acme/part/mid.gguf")
    assert (part.whole, part.head, part.layers) == (False, False, LayerRange(1, 3))
    with pytest.raises(UserError, match="is a part of a model"):
        library.manifest(part)
    assert "acme/part/embedding.gguf" not in [e.name for e in library.list()]
    with pytest.raises(ModelUnsupported, match="the embedding of a model"):
        library.find("acme/part/embedding.gguf")


def test_slices_are_cut_once(library: Library) -> None:
    entry = library.find("mine")
    paths = library.slices_for(entry, RANGES)
    before = [path.stat().st_mtime_ns for path in paths]
    assert [read_header(path).block_count for path in paths] == [2, 3, 1]
    assert [read_header(path).metadata["kwaai.slice.head"] for path in paths] == [
        False,
        False,
        True,
    ]
    assert library.slices_for(entry, RANGES) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert library.slices_for(entry, [LayerRange(0, 6)]) == (entry.path,)


def test_what_a_killed_writer_left_is_removed(library: Library) -> None:
    entry = library.find("mine")
    directory = library.slices_for(entry, RANGES)[0].parent
    (directory / ".0-3.gguf.0123456789ab.part").write_bytes(b"half")
    library.slices_for(entry, RANGES)
    assert not list(directory.glob("*.part"))
    assert not list(directory.glob(".*.part"))


def test_two_names_of_one_model_share_slices(library: Library) -> None:
    one, other = library.find("mine"), library.find("acme/many:q4_0")
    assert library.slices_for(one, RANGES) == library.slices_for(other, RANGES)


def test_a_corrupt_slice_is_set_aside_and_cut_again(library: Library) -> None:
    entry = library.find("mine")
    path = library.slices_for(entry, RANGES)[1]
    good = path.read_bytes()
    path.write_bytes(good[:-5000] + b"\xff" * 5000)
    assert library.slices_for(entry, RANGES)[1].read_bytes() == good
    assert path.with_name(path.name + ".corrupt-1").exists()


def test_a_source_that_changed_is_never_served(
    library: Library, originals: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = library.find("mine")
    stale = library.manifest(entry)
    entry.path.write_bytes(originals["tied"].read_bytes())
    monkeypatch.setattr(Library, "manifest", lambda *_: stale)
    with pytest.raises(FileCorrupt, match="changed under our hands or its disk fails"):
        library.slices_for(entry, RANGES)
    assert not list((library.directory / "slices").glob("*/*.gguf"))


def test_one_writer_for_a_slice(library: Library) -> None:
    entry = library.find("mine")
    results: list[tuple[Path, ...]] = []
    threads = [
        threading.Thread(target=lambda: results.append(library.slices_for(entry, RANGES)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert sorted(p.name for p in results[0][0].parent.glob("*.gguf")) == [
        "0-2.gguf",
        "2-5.gguf",
        "5-6.gguf",
    ]


def test_the_packaged_model_is_found_where_there_is_one() -> None:
    for name, path in packaged_models():
        assert Library(Path("/nonexistent")).find(name).path == path
