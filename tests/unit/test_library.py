"""The models on this disk: names, near misses, corrupt files, slices that are cut and checked."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from kwaai.errors import FileCorrupt, ModelNotFound, ModelUnsupported, UserError
from kwaai.models.gguf import read_header
from kwaai.models.gguf_write import write_gguf
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
    assert all(e.whole and e.layers == LayerRange(0, 6) for e in entries)
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
    assert (part.whole, part.held, part.layers) == (False, "[1,3)", LayerRange(0, 6))
    with pytest.raises(UserError, match=r"is not whole.*shard download acme/part/mid\.gguf"):
        library.manifest(part)
    embedding = library.find("acme/part/embedding.gguf")
    assert (embedding.whole, embedding.held) == (False, "embedding")
    with pytest.raises(ModelUnsupported, match="holds only its embedding, the model has 6 layers"):
        embedding.check_whole()


@pytest.fixture
def parts(library: Library) -> Path:
    """What `shard download acme/parts:Q4_0` leaves for two ranges and the embedding."""
    directory = library.directory / "acme--parts" / "parts.Q4_0.gguf.slices"
    directory.mkdir(parents=True)
    source = library.directory / "mine.gguf"
    cut_embedding(source, directory / "embedding.gguf")
    cut_slice(source, directory / "4-6-head.gguf", LayerRange(4, 6), head=True)
    cut_slice(source, directory / "0-4.gguf", LayerRange(0, 4), head=False)
    (directory / "embedding.gguf.download.json").write_text("{}")
    (directory / ".0-4.gguf.lock").touch()
    return directory


def test_parts_that_were_fetched_are_one_model(library: Library, parts: Path) -> None:
    [entry] = [e for e in library.list() if not e.whole]
    assert entry.name == "acme/parts"
    assert entry.held == "[0,4) [4,6)+head embedding"
    assert (entry.path, entry.layers, entry.handle) == (parts, LayerRange(0, 6), None)
    assert entry.nbytes == sum(path.stat().st_size for path in parts.glob("*.gguf"))
    for spelling in ("acme/parts", "ACME/parts:q4_0", "parts.Q4_0", "parts", "parts.q4_0.gguf"):
        assert library.find(spelling) == entry
    with pytest.raises(
        ModelUnsupported,
        match=r"acme/parts cannot run from here: this machine holds only layers \[0,4\) "
        r"\[4,6\)\+head embedding, the model has 6 layers; fetch all of it: "
        r"`kwaainet shard download acme/parts/parts\.Q4_0\.gguf`",
    ):
        entry.check_whole()


def test_the_hubs_own_path_is_what_fetches_the_rest(library: Library, parts: Path) -> None:
    record = {"source": {"repository": "acme/parts", "path": "Q4_0/parts.gguf"}}
    (parts / "0-4.gguf.download.json").write_text(json.dumps(record))
    assert library.find("acme/parts").spec == "acme/parts/Q4_0/parts.gguf"


def test_a_whole_file_takes_the_name_of_its_repository(library: Library, parts: Path) -> None:
    mine = library.directory / "mine.gguf"
    shutil.copy(mine, parts.parent / "other.gguf")
    assert library.find("acme/parts").path.name == "other.gguf"
    held = {entry.name: entry.held for entry in library.list() if "parts" in entry.name}
    assert held == {
        "acme/parts": "[0,6)",
        "acme/parts/parts.Q4_0.gguf": "[0,4) [4,6)+head embedding",
    }
    shutil.copy(mine, parts.with_name("parts.Q4_0.gguf"))
    assert sorted(e.name for e in library.list() if "parts" in e.name) == [
        "acme/parts/other.gguf",
        "acme/parts/parts.Q4_0.gguf",
    ]
    (parts.parent / "other.gguf").unlink()
    entry = library.find("acme/parts")
    assert (entry.whole, entry.held, len(entry.parts)) == (True, "[0,6)", 3)
    entry.check_whole()


def test_a_name_beats_another_models_file_name(library: Library) -> None:
    directory = library.directory / "acme--mine"
    directory.mkdir()
    shutil.copy(library.directory / "mine.gguf", directory / "mine.gguf")
    assert library.find("mine").path == library.directory / "mine.gguf"
    assert library.find("acme/mine").path == directory / "mine.gguf"


def test_only_an_embedding(library: Library, parts: Path) -> None:
    for path in parts.glob("*-*.gguf"):
        path.unlink()
    entry = library.find("acme/parts")
    assert (entry.held, entry.layers) == ("embedding", LayerRange(0, 6))
    assert library.find(str(parts / "embedding.gguf")).held == "embedding"
    assert list(parts.glob("*.corrupt-*")) == []


def test_parts_that_name_their_model_are_found_by_handle(library: Library, parts: Path) -> None:
    mine = library.find("mine")
    handle = library.manifest(mine).handle
    cut_slice(mine.path, parts / "0-4.gguf", LayerRange(0, 4), False, handle)
    assert library.find("acme/parts").handle is None  # the other parts do not say
    for name in ("embedding.gguf", "4-6-head.gguf"):
        (parts / name).unlink()
    assert library.find("acme/parts").handle == handle
    assert library.find(handle).whole
    mine.path.unlink()
    (library.directory / "acme--many" / "many.Q4_0.gguf").unlink()
    assert library.find(handle).name == "acme/parts"


def test_a_corrupt_part_is_set_aside_and_the_others_stay(library: Library, parts: Path) -> None:
    bad = parts / "0-4.gguf"
    bad.write_bytes(bad.read_bytes()[:-1000])
    assert [broken.path for broken in library.look().broken] == [bad]
    assert library.find("acme/parts").held == "[4,6)+head embedding"
    assert (parts / "0-4.gguf.corrupt-1").exists()
    for path in parts.glob("*.gguf"):
        path.write_bytes(b"GGUF")
    with pytest.raises(FileCorrupt, match=r"corrupt-1; fetch the model again"):
        library.find("acme/parts")
    with pytest.raises(ModelNotFound):
        library.find("acme/parts")


@pytest.mark.parametrize("key", ["kwaai.slice.start", "kwaai.slice.block_count"])
def test_a_slice_that_does_not_say_what_it_is(library: Library, parts: Path, key: str) -> None:
    header, data = read_header(parts / "0-4.gguf"), (parts / "0-4.gguf").read_bytes()
    kv = {k: v for k, v in header.raw_kv.items() if k != key}
    start = header.data_start
    tensors = [
        (t.name, t.dims, t.ggml_type, data[start + t.offset : start + t.offset + t.nbytes])
        for t in header.tensors
    ]
    write_gguf(parts / "0-4.gguf", kv, tensors)
    [broken] = library.look().broken
    assert broken.path == parts / "0-4.gguf"
    assert "it does not say" in broken.problem


def test_a_file_that_cannot_be_read_is_named(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("kwaai.models.library.read_header", refused)
    with pytest.raises(UserError, match=r"mine\.gguf cannot be read: Permission denied"):
        library.find("mine")
    assert "Permission denied" in library.look().broken[0].problem


def test_a_hub_may_write_the_suffix_in_capitals(library: Library) -> None:
    directory = library.directory / "acme--loud"
    directory.mkdir()
    shutil.copy(library.directory / "mine.gguf", directory / "LOUD.GGUF")
    assert library.find("acme/loud").path == library.find("loud").path == directory / "LOUD.GGUF"


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
