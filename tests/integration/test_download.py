"""Downloads from a real HTTP server on loopback that breaks, lies and refuses when told to."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kwaai.atomic import exclusive_lock
from kwaai.errors import (
    AccessDenied,
    DiskFull,
    DownloadFailed,
    FileCorrupt,
    KwaaiError,
    Locked,
    ModelNotFound,
    ModelUnsupported,
    UserError,
)
from kwaai.limits import HUB_GAP_BYTES_MAX, HUB_HEADER_PIECE_BYTES, HUB_REDIRECTS_MAX
from kwaai.models.download import Downloaded, download_model
from kwaai.models.fetch_slice import BY_WHOLE, NO_MANIFEST
from kwaai.models.fetch_whole import BY_HASH, BY_SIZE
from kwaai.models.gguf import read_header
from kwaai.models.gguf_types import GGMLType
from kwaai.models.gguf_write import Tensor, Typed, write_gguf
from kwaai.models.http_client import Patience, Transport
from kwaai.models.hub import Hub
from kwaai.models.hub_names import parse_model_ref
from kwaai.models.hub_settings import HubSettings
from kwaai.models.library import Library
from kwaai.models.manifest import build_manifest
from kwaai.models.progress import Progress
from kwaai.models.slices import cut_embedding, cut_slice
from kwaai.models.verify import verify_slice
from kwaai.testing.hub import ALWAYS, LoopbackHub
from kwaai.types import LayerRange

EMBD, FEED_FORWARD, LAYERS = 32, 1024, 8
REPOSITORY, FILE = "acme/tiny-GGUF", "tiny-Q4_K_M.gguf"


def write_model(path: Path, *, vocabulary: int = 300, seed: int = 0, tied: bool = False) -> None:
    """Write a llama of random bytes: about 200 KiB a layer, a header as large as its vocabulary."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (EMBD, vocabulary)}
    for n in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{n}.{name}.weight"] = (EMBD, EMBD)
        shapes |= {f"blk.{n}.{name}.weight": (EMBD,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{n}.{x}.weight": (EMBD, FEED_FORWARD) for x in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{n}.ffn_down.weight"] = (FEED_FORWARD, EMBD)
    shapes["output_norm.weight"] = (EMBD,)
    if not tied:
        shapes["output.weight"] = (EMBD, vocabulary)
    tensors: list[Tensor] = []
    for name, dims in shapes.items():
        kind = GGMLType.F32 if len(dims) == 1 else GGMLType.F16
        nbytes = int(np.prod(dims)) * (4 if kind == GGMLType.F32 else 2)
        tensors.append((name, dims, kind, rng.bytes(nbytes)))
    kv: dict[str, bytes | Typed] = {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 512,
        "llama.embedding_length": EMBD,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"<t{n:06d}>" for n in range(vocabulary)],
        "tokenizer.ggml.scores": [0.5] * vocabulary,
    }
    write_gguf(path, kv, tensors)


@pytest.fixture(scope="session")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    write_model(path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def hub(tmp_path: Path, model_bytes: bytes) -> Iterator[LoopbackHub]:
    repository = tmp_path / "repositories" / REPOSITORY
    repository.mkdir(parents=True)
    (repository / FILE).write_bytes(model_bytes)
    (repository / "README.md").write_text("A tiny model.")
    with LoopbackHub(tmp_path / "repositories") as hub:
        yield hub


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


Fetch = Callable[..., Downloaded]


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def fetch(hub: LoopbackHub, models: Path, tmp_path: Path, waits: list[float]) -> Fetch:
    """Return download_model pointed at the hub, with a sleep that only takes notes."""

    def fetch(
        spec: str = REPOSITORY,
        *,
        attempts: int = 3,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> Downloaded:
        patience = Patience(
            attempts, waits.append, clock=lambda: 0.0, now=lambda: 0.0, jitter=lambda: 1.0
        )
        return download_model(
            spec,
            models,
            env=hub.env(tmp_path / "hf", **(env or {})),
            patience=patience,
            lock_timeout_s=0.0,
            **options,
        )

    return fetch


def final(models: Path) -> Path:
    return models / "acme--tiny-GGUF" / FILE


def leftovers(models: Path) -> list[str]:
    """Return every file that is neither a model, nor a record of one, nor a lock."""
    return sorted(
        p.name
        for p in models.rglob("*")
        if p.is_file()
        and not p.name.endswith((".gguf", ".gguf.download.json"))
        and not p.name.endswith(".lock")
    )


# --- the whole file ------------------------------------------------------------------------------


def test_a_whole_model_comes_verified(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    reports: list[Progress] = []
    got = fetch(progress=reports.append)
    assert got.paths == (final(models),)
    assert final(models).read_bytes() == model_bytes
    assert got.verified == BY_HASH
    assert (got.fetched_bytes, got.resumed_bytes) == (len(model_bytes), 0)
    assert hub.bytes_served == len(model_bytes)
    assert leftovers(models) == []
    assert reports[-1].phase == "done"
    done = [r.done_bytes for r in reports if r.phase == "fetching"]
    assert done == sorted(done)
    assert done[-1] == len(model_bytes)
    (entry,) = Library(models, packaged=()).list()
    assert entry.name == REPOSITORY
    assert entry.whole


def test_what_is_here_is_not_fetched_again(fetch: Fetch, hub: LoopbackHub, models: Path) -> None:
    fetch()
    hub.seen.clear()
    assert fetch().fetched_bytes == 0
    (models / "acme--tiny-GGUF" / f"{FILE}.download.json").unlink()
    got = fetch()  # without its record the file is hashed
    assert (got.fetched_bytes, got.verified) == (0, BY_HASH)
    assert hub.files_asked() == []


def test_a_spoilt_file_is_set_aside_and_fetched_again(
    fetch: Fetch, models: Path, model_bytes: bytes
) -> None:
    fetch()
    final(models).write_bytes(model_bytes[:-1] + b"!")
    fetch()
    assert final(models).read_bytes() == model_bytes
    assert leftovers(models) == [f"{FILE}.corrupt-1"]


def test_a_new_version_replaces_the_old_one(
    fetch: Fetch, hub: LoopbackHub, models: Path, tmp_path: Path
) -> None:
    fetch()
    write_model(hub.root / REPOSITORY / FILE, seed=1)
    fetch()
    assert final(models).read_bytes() == (hub.root / REPOSITORY / FILE).read_bytes()
    assert leftovers(models) == []


def test_a_connection_that_breaks_is_taken_up_again(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes, waits: list[float]
) -> None:
    hub.faults.break_after = [300_000, 0, 200_000]
    hub.faults.no_answer = 1
    got = fetch()
    assert final(models).read_bytes() == model_bytes
    assert hub.bytes_served == got.fetched_bytes == len(model_bytes)
    assert [s.range for s in hub.files_asked()] == [
        None,
        f"bytes=300000-{len(model_bytes) - 1}",
        f"bytes=300000-{len(model_bytes) - 1}",
        f"bytes=500000-{len(model_bytes) - 1}",
    ]
    assert waits == [0.5, 0.5, 1.0, 0.5]


def test_an_interrupted_download_is_continued_by_the_next(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    hub.faults.break_after = [700_000]
    with pytest.raises(DownloadFailed, match="gave up after 1 attempts: run the same command"):
        fetch(attempts=1)
    assert not final(models).exists()
    assert leftovers(models) == [f"{FILE}.partial", f"{FILE}.partial.json"]
    got = fetch()
    assert got.resumed_bytes == 700_000
    assert hub.bytes_served == len(model_bytes)
    assert final(models).read_bytes() == model_bytes
    assert leftovers(models) == []


def test_a_caller_can_stop_and_go_on(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    def stop(progress: Progress) -> None:
        if progress.done_bytes == progress.total_bytes and progress.phase == "fetching":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(progress=stop)
    assert not final(models).exists()
    assert fetch().resumed_bytes == len(model_bytes)
    assert hub.bytes_served == len(model_bytes)


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from kwaai.models.download import download_model
from kwaai.models.http_client import Patience
from kwaai.types import LayerRange

def kill(progress):
    if progress.phase == "fetching" and progress.done_bytes > 500_000:
        os.kill(os.getpid(), signal.SIGKILL)

ticks = itertools.count()
layers = LayerRange(0, 4) if sys.argv[2] == "layers" else None
download_model(sys.argv[1], Path(sys.argv[3]), layers=layers, progress=kill,
               patience=Patience(clock=lambda: float(next(ticks))))
"""


@pytest.mark.parametrize("what", ["whole", "layers"])
def test_a_killed_process_leaves_what_the_next_can_use(
    fetch: Fetch, hub: LoopbackHub, models: Path, tmp_path: Path, what: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, REPOSITORY, what, str(models)],
        env={**os.environ, **hub.env(tmp_path / "hf"), "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not list(models.rglob("*.gguf"))
    layers = LayerRange(0, 4) if what == "layers" else None
    got = fetch(layers=layers)  # the lock went with the process
    source = hub.root / REPOSITORY / FILE
    if layers is None:
        assert got.resumed_bytes > 500_000
        assert got.paths[0].read_bytes() == source.read_bytes()
    else:
        cut_slice(source, tmp_path / "cut.gguf", layers, False)
        assert got.paths[0].read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    assert leftovers(models) == []


def test_a_partial_of_an_older_version_is_not_used(
    fetch: Fetch, hub: LoopbackHub, models: Path
) -> None:
    hub.faults.break_after = [700_000]
    with pytest.raises(DownloadFailed):
        fetch(attempts=1)
    write_model(hub.root / REPOSITORY / FILE, seed=1)
    assert fetch().resumed_bytes == 0
    assert final(models).read_bytes() == (hub.root / REPOSITORY / FILE).read_bytes()


def test_wrong_bytes_are_set_aside_and_fetched_once_more(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    hub.faults.wrong_bytes = 1
    fetch()
    assert final(models).read_bytes() == model_bytes
    assert leftovers(models) == [f"{FILE}.partial.corrupt-1"]


def test_wrong_bytes_twice_are_an_error_that_names_them(
    fetch: Fetch, hub: LoopbackHub, models: Path
) -> None:
    hub.faults.wrong_bytes = ALWAYS
    with pytest.raises(
        FileCorrupt, match=r"the hub states [0-9a-f]{64}\. Set aside as .*corrupt-2"
    ):
        fetch()
    assert not final(models).exists()
    assert not Library(models, packaged=()).list()


def test_a_server_without_ranges_sends_everything_again(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    hub.faults.ignore_range = ALWAYS
    hub.faults.break_after = [400_000]
    got = fetch()
    assert final(models).read_bytes() == model_bytes
    assert got.fetched_bytes == 400_000 + len(model_bytes)


@pytest.mark.parametrize("fault", ["changed_etag", "wrong_content_range", "longer_body"])
def test_one_answer_that_does_not_fit_is_survived(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes, fault: str
) -> None:
    hub.faults.break_after = [400_000]
    with pytest.raises(DownloadFailed):
        fetch(attempts=1)
    setattr(hub.faults, fault, 1)
    got = fetch()
    assert final(models).read_bytes() == model_bytes
    assert got.resumed_bytes == (0 if fault == "changed_etag" else 400_000)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("changed_etag", "changed on the hub while it was fetched, again: try again later"),
        ("wrong_content_range", "got Content-Range bytes 400001-"),
        ("longer_body", "gave up after 3 attempts"),
        ("unannounced_extra", "sends more of .* than it announced"),
        ("no_answer", "closed the connection without an answer"),
    ],
)
def test_answers_that_never_fit_are_an_error(
    fetch: Fetch, hub: LoopbackHub, models: Path, fault: str, message: str
) -> None:
    hub.faults.break_after = [400_000]
    with pytest.raises(DownloadFailed):
        fetch(attempts=1)
    setattr(hub.faults, fault, ALWAYS)
    with pytest.raises(DownloadFailed, match=message):
        fetch()
    assert not final(models).exists()


def test_a_file_without_a_hash_is_verified_by_what_there_is(
    fetch: Fetch, hub: LoopbackHub, models: Path
) -> None:
    hub.faults.no_linked_headers = ALWAYS
    assert fetch().verified == BY_HASH  # from the repository's tree
    shutil.rmtree(models)
    hub.faults.no_tree = True
    assert fetch().verified == BY_SIZE
    assert json.loads((final(models).parent / f"{FILE}.download.json").read_text())["verified"] == (
        BY_SIZE
    )


# --- before a gigabyte is fetched ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind", "message"),
    [
        (b"NOPE" + bytes(100), FileCorrupt, "does not start with GGUF"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, FileCorrupt, "tensors, .* are allowed"),
    ],
)
def test_a_file_that_is_no_model_is_refused_early(
    fetch: Fetch,
    hub: LoopbackHub,
    models: Path,
    head: bytes,
    kind: type[KwaaiError],
    message: str,
) -> None:
    (hub.root / REPOSITORY / FILE).write_bytes(head + bytes(8_000_000))
    reports: list[Progress] = []
    for options in ({}, {"layers": LayerRange(0, 1)}):
        with pytest.raises(kind, match=message):
            fetch(progress=reports.append, **options)
    assert max(report.done_bytes for report in reports) <= 3 * HUB_HEADER_PIECE_BYTES
    assert not Library(models, packaged=()).list()


def test_a_truncated_model_on_the_hub_is_refused(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    (hub.root / REPOSITORY / FILE).write_bytes(model_bytes[:500_000])
    with pytest.raises(FileCorrupt, match="cut short"):
        fetch()
    with pytest.raises(FileCorrupt, match="cut short"):
        fetch(layers=LayerRange(0, 1))
    (hub.root / REPOSITORY / FILE).write_bytes(model_bytes[:1000])
    with pytest.raises(FileCorrupt, match="ends inside its header"):
        fetch(layers=LayerRange(0, 1))


def test_a_model_that_cannot_be_run_is_refused_and_not_kept(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    (hub.root / REPOSITORY / FILE).write_bytes(
        model_bytes.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0xxxxx")
    )
    with pytest.raises((ModelUnsupported, FileCorrupt)):
        fetch()
    assert not final(models).exists()


# --- the disk ------------------------------------------------------------------------------------


def test_a_full_disk_is_noticed_before_a_byte_is_fetched(
    fetch: Fetch, hub: LoopbackHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(DiskFull, match=r"needs 2 MiB more on the disk of .*, 1 MiB are free"):
        fetch()
    assert hub.files_asked() == []


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
from kwaai.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("more", [[], ["--blocks", "4"]])
def test_a_file_that_the_disk_cannot_hold(
    hub: LoopbackHub, tmp_path: Path, more: list[str]
) -> None:
    home = tmp_path / "home"
    env = {
        **os.environ,
        **hub.env(tmp_path / "hf"),
        "KWAAINET_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", LIMITED, "shard", "download", REPOSITORY, *more]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    error = done.stderr.splitlines()[-1]
    assert done.returncode == DiskFull.exit_code, done.stderr
    assert error.startswith("kwaainet: error: the file is larger than this disk's format")
    assert not list(home.rglob("*.gguf"))
    kept = [path for path in home.rglob("*.partial") if str(path) in error]
    assert len(kept) == 1


@pytest.mark.parametrize("layers", [None, LayerRange(0, 4)])
def test_a_disk_that_fills_up_keeps_what_came(
    fetch: Fetch,
    hub: LoopbackHub,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    layers: LayerRange | None,
) -> None:
    written, pwrite = [0], os.pwrite

    def limited(descriptor: int, data: Any, offset: int) -> int:
        if written[0] + len(data) > 500_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        written[0] += len(data)
        return pwrite(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", limited)
        with pytest.raises(DiskFull, match=r"kept in .*\.partial\. Free some space, then run"):
            fetch(layers=layers)
    assert not list(models.rglob("*.gguf"))
    got = fetch(layers=layers)
    assert got.resumed_bytes > 100_000
    if layers is None:
        assert got.fetched_bytes + got.resumed_bytes == final(models).stat().st_size
    assert leftovers(models) == []


def test_one_writer_per_file(fetch: Fetch, models: Path) -> None:
    fetch()
    with (
        exclusive_lock(models / "acme--tiny-GGUF" / f".{FILE}.lock"),
        pytest.raises(Locked, match=f"in use by process {os.getpid()}"),
    ):
        fetch()


# --- another program's cache ---------------------------------------------------------------------


def snapshot(hub: LoopbackHub, home: Path) -> Path:
    commit = hub.commit(REPOSITORY)
    path = home / "hub" / "models--acme--tiny-GGUF" / "snapshots" / commit / FILE
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("layers", [None, LayerRange(2, 4)])
def test_a_complete_snapshot_is_used(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path, model_bytes: bytes, layers: LayerRange | None
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(model_bytes)
    snapshot(hub, tmp_path / "hf").symlink_to(blob)
    got = fetch(layers=layers)
    assert (got.fetched_bytes, hub.files_asked()) == (0, [])
    assert got.verified == (BY_WHOLE if layers else BY_HASH)
    if layers is None:
        assert got.paths[0].read_bytes() == model_bytes
        assert not got.paths[0].is_symlink()


def test_a_snapshot_that_is_not_the_hubs_file_is_left_alone(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path, model_bytes: bytes
) -> None:
    path = snapshot(hub, tmp_path / "hf")
    path.write_bytes(model_bytes[:-1] + b"!")
    assert fetch().fetched_bytes == len(model_bytes)
    assert path.read_bytes()[-1:] == b"!"


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "head", "tied"),
    [
        (LayerRange(0, 2), False, False),
        (LayerRange(3, 5), False, False),
        (LayerRange(6, 8), True, False),
        (LayerRange(6, 8), True, True),
        (LayerRange(0, 8), True, False),
    ],
)
def test_a_slice_comes_as_if_it_was_cut_here(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path, layers: LayerRange, head: bool, tied: bool
) -> None:
    source = hub.root / REPOSITORY / FILE
    write_model(source, tied=tied)
    got = fetch(layers=layers, head=head)
    cut_slice(source, tmp_path / "cut.gguf", layers, head)
    assert got.paths[0].read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    assert got.paths[0].name == f"{layers.start}-{layers.stop}{'-head' if head else ''}.gguf"
    assert got.verified == NO_MANIFEST
    size = got.paths[0].stat().st_size
    assert hub.bytes_served == got.fetched_bytes
    assert hub.bytes_served <= size + HUB_HEADER_PIECE_BYTES + 2 * HUB_GAP_BYTES_MAX
    record = json.loads(Path(f"{got.paths[0]}.download.json").read_text())
    assert record["verified_groups"] == []
    assert f"blk.{layers.start}" in record["unverified_groups"]


def test_the_embedding_comes_alone_or_beside(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path
) -> None:
    (path,) = fetch(embedding=True).paths
    cut_embedding(hub.root / REPOSITORY / FILE, tmp_path / "cut.gguf")
    assert path.read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    got = fetch(layers=LayerRange(0, 1), embedding=True)
    assert [p.name for p in got.paths] == ["0-1.gguf", "embedding.gguf"]
    assert hub.bytes_served < 3 * HUB_HEADER_PIECE_BYTES + 300_000


def test_a_long_header_comes_in_growing_pieces(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path
) -> None:
    source = hub.root / REPOSITORY / FILE
    write_model(source, vocabulary=30_000)
    assert read_header(source).data_start > 2 * HUB_HEADER_PIECE_BYTES
    (path,) = fetch(layers=LayerRange(1, 2)).paths
    cut_slice(source, tmp_path / "cut.gguf", LayerRange(1, 2), False)
    assert path.read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    pieces = [s.range for s in hub.files_asked()]
    first, second = HUB_HEADER_PIECE_BYTES, 2 * HUB_HEADER_PIECE_BYTES
    assert pieces[:3] == [
        f"bytes=0-{first - 1}",
        f"bytes={first}-{second - 1}",
        f"bytes={second}-{2 * second - 1}",
    ]


def test_an_interrupted_slice_keeps_its_finished_tensors(
    fetch: Fetch, hub: LoopbackHub, models: Path, tmp_path: Path
) -> None:
    layers = LayerRange(2, 6)
    hub.faults.break_after = [ALWAYS, 400_000]
    with pytest.raises(DownloadFailed):
        fetch(layers=layers, attempts=1)
    directory = models / "acme--tiny-GGUF" / f"{FILE}.slices"
    finished = json.loads((directory / "2-6.gguf.partial.json").read_text())["finished"]
    assert 10 < len(finished) < 36
    # One finished tensor is spoilt on the disk meanwhile: it is noticed, and fetched again.
    spoilt = directory / "2-6.gguf.partial"
    data = bytearray(spoilt.read_bytes())
    data[100_000] ^= 1
    spoilt.write_bytes(data)
    got = fetch(layers=layers)
    cut_slice(hub.root / REPOSITORY / FILE, tmp_path / "cut.gguf", layers, False)
    assert got.paths[0].read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    assert got.resumed_bytes > 200_000
    assert leftovers(models) == []
    assert fetch(layers=layers).fetched_bytes <= HUB_HEADER_PIECE_BYTES  # its header only


def publish_manifest(hub: LoopbackHub, path: Path | None = None) -> str:
    manifest = build_manifest(path or hub.root / REPOSITORY / FILE)
    (hub.root / REPOSITORY / f"{FILE}.kwaai.json").write_bytes(manifest.encoded)
    return manifest.handle


def test_a_published_manifest_vouches_for_each_group(fetch: Fetch, hub: LoopbackHub) -> None:
    handle = publish_manifest(hub)
    got = fetch(layers=LayerRange(6, 8), head=True, embedding=True)
    assert got.handle == handle
    assert handle in got.verified
    for path in got.paths:
        verify_slice(path, build_manifest(hub.root / REPOSITORY / FILE))
    record = json.loads(Path(f"{got.paths[0]}.download.json").read_text())
    assert record["verified_groups"] == ["blk.6", "blk.7", "head"]
    assert record["unverified_groups"] == []


def test_a_slice_that_is_not_what_the_manifest_says_is_not_kept(
    fetch: Fetch, hub: LoopbackHub, models: Path, model_bytes: bytes
) -> None:
    publish_manifest(hub)
    wrong = bytearray(model_bytes)
    wrong[300_000] ^= 1
    (hub.root / REPOSITORY / FILE).write_bytes(wrong)
    with pytest.raises(FileCorrupt, match=r"content of blk\.1 is wrong.*Set aside as .*corrupt-2"):
        fetch(layers=LayerRange(0, 3))
    assert not (models / "acme--tiny-GGUF" / f"{FILE}.slices" / "0-3.gguf").exists()
    (hub.root / REPOSITORY / FILE).write_bytes(model_bytes)
    assert fetch(layers=LayerRange(0, 3)).handle is not None


def test_wrong_bytes_once_in_a_slice(fetch: Fetch, hub: LoopbackHub, models: Path) -> None:
    publish_manifest(hub)

    def spoil(progress: Progress) -> None:
        if progress.phase == "fetching" and progress.done_bytes == 0:
            hub.faults.wrong_bytes = 1 if not leftovers_aside(models) else 0

    got = fetch(layers=LayerRange(0, 3), progress=spoil)
    assert got.handle is not None
    assert leftovers(models) == ["0-3.gguf.partial.corrupt-1"]


def leftovers_aside(models: Path) -> list[Path]:
    return list(models.rglob("*.corrupt-*"))


def test_a_manifest_of_another_file_is_noticed_before_tensors_come(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path
) -> None:
    write_model(tmp_path / "other.gguf", vocabulary=301, tied=True)
    publish_manifest(hub, tmp_path / "other.gguf")
    with pytest.raises(FileCorrupt, match=r"manifest|model"):
        fetch(layers=LayerRange(7, 8), head=True)
    assert hub.bytes_served < 4 * HUB_HEADER_PIECE_BYTES
    (hub.root / REPOSITORY / f"{FILE}.kwaai.json").write_text("{}")
    with pytest.raises(FileCorrupt, match=r"kwaai\.json: the manifest is wrong"):
        fetch(layers=LayerRange(0, 1))


def test_a_server_without_ranges_cannot_give_layers(
    fetch: Fetch, hub: LoopbackHub, models: Path
) -> None:
    hub.faults.ignore_range = ALWAYS
    with pytest.raises(DownloadFailed, match="does not serve ranges"):
        fetch(layers=LayerRange(0, 1))


def test_a_file_that_changes_under_a_slice_is_started_over(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.gguf"
    write_model(changed, seed=5)

    def change(progress: Progress) -> None:
        if progress.phase == "fetching" and changed.exists():
            changed.rename(hub.root / REPOSITORY / FILE)

    got = fetch(layers=LayerRange(1, 3), progress=change)
    cut_slice(hub.root / REPOSITORY / FILE, tmp_path / "cut.gguf", LayerRange(1, 3), False)
    assert got.paths[0].read_bytes() == (tmp_path / "cut.gguf").read_bytes()


def test_layers_of_a_model_that_is_here_are_cut(
    fetch: Fetch, hub: LoopbackHub, tmp_path: Path
) -> None:
    fetch()
    hub.seen.clear()
    got = fetch(layers=LayerRange(4, 8), head=True)
    assert (got.fetched_bytes, hub.files_asked(), got.verified) == (0, [], BY_WHOLE)
    cut_slice(hub.root / REPOSITORY / FILE, tmp_path / "cut.gguf", LayerRange(4, 8), True)
    assert got.paths[0].read_bytes() == (tmp_path / "cut.gguf").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": LayerRange(4, 9)}, "the model has 8"),
        ({"layers": LayerRange(0, 4), "head": True}, "the head belongs behind layer 7"),
        ({"head": True}, "the head comes with the last layers"),
    ],
)
def test_layers_that_are_not_there(
    fetch: Fetch, models: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fetch(**options)
    assert leftovers(models) == []


# --- a hub that refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("acme/nothing", r"acme/nothing does not exist at .*, or is private: then set HF_TOKEN"),
        (f"{REPOSITORY}@v9", "tiny-GGUF@v9 does not exist"),
        (f"{REPOSITORY}:Q8_0", "no file with quantisation Q8_0. Its GGUF files: tiny-Q4_K_M"),
        (f"{REPOSITORY}/x.gguf", "has no file x.gguf. Its GGUF files: tiny-Q4_K_M.gguf"),
    ],
)
def test_what_does_not_exist_is_named(fetch: Fetch, spec: str, message: str) -> None:
    with pytest.raises(ModelNotFound, match=message):
        fetch(spec)


def test_a_gated_model_says_what_to_do(fetch: Fetch, hub: LoopbackHub) -> None:
    hub.faults.gated = True
    with pytest.raises(AccessDenied, match=r"accept its licence .*, and set HF_TOKEN"):
        fetch()
    with pytest.raises(AccessDenied, match="the token that is set does not give access"):
        fetch(env={"HF_TOKEN": "hf_other"})


def test_the_token_goes_to_the_hub_and_nowhere_else(fetch: Fetch, hub: LoopbackHub) -> None:
    hub.faults.token = "hf_secret"
    with pytest.raises(AccessDenied, match="set HF_TOKEN"):
        fetch()
    fetch(env={"HF_TOKEN": "hf_secret"}, layers=LayerRange(0, 1))
    sent = {(s.server, s.authorization) for s in hub.seen[-4:]}
    assert sent == {("hub", "Bearer hf_secret"), ("cdn", None)}


def test_a_token_is_not_sent_in_clear_over_a_network() -> None:
    assert not Transport("http://hub.example", "hf_secret", Patience()).has_token
    assert Transport("https://hub.example", "hf_secret", Patience()).has_token
    assert Transport("http://127.0.0.1:1", "hf_secret", Patience()).has_token


def test_a_busy_hub_is_waited_for(
    fetch: Fetch, hub: LoopbackHub, waits: list[float], model_bytes: bytes
) -> None:
    hub.faults.retry_after = "7"
    hub.faults.statuses = [429, 503, 0, 0, 502]
    assert fetch().fetched_bytes == len(model_bytes)
    assert waits == [7.0, 7.0, 7.0]


def test_a_hub_that_stays_busy_is_reported(
    fetch: Fetch, hub: LoopbackHub, waits: list[float]
) -> None:
    hub.faults.statuses = [503] * 20
    with pytest.raises(DownloadFailed, match="status 503; gave up after 3 attempts"):
        fetch()
    assert waits == [0.5, 1.0]
    hub.faults.retry_after = "86400"
    with pytest.raises(DownloadFailed, match="asks to wait 86400 s") as caught:
        fetch()
    assert caught.value.retry_after_s == 86400.0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "does not speak a model hub's API"),
        (b"[]", "does not speak a model hub's API"),
        (b'{"siblings": 3}', "does not speak a model hub's API"),
        (b"[" * 100_000, "does not speak a model hub's API"),
        (b'{"siblings": [3, {"rfilename": 4}, {}]}', "no GGUF file"),
    ],
)
def test_an_endpoint_that_is_no_hub_is_named(
    fetch: Fetch, hub: LoopbackHub, body: bytes, message: str
) -> None:
    hub.faults.api_body = body
    with pytest.raises(KwaaiError, match=message):
        fetch()


def test_an_endless_answer_is_cut_off(
    fetch: Fetch, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwaai.models.hub.HUB_JSON_BYTES_MAX", 1000)
    hub.faults.api_body = b" " * 100_000
    with pytest.raises(DownloadFailed, match="more than the 1000 bytes allowed"):
        fetch()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("oversize_header", "does not answer in proper HTTP"),
        ("compressed", "answers compressed although it was asked not to"),
    ],
)
def test_answers_that_are_not_fit_to_read_are_refused(
    fetch: Fetch, hub: LoopbackHub, fault: str, message: str
) -> None:
    setattr(hub.faults, fault, ALWAYS)
    with pytest.raises(DownloadFailed, match=message):
        fetch()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file:///etc/passwd", "not an http or https address"),
        ("http://user:word@127.0.0.1/", "user name or password"),
        ("{path}?{n}", f"redirects more than {HUB_REDIRECTS_MAX} times"),
    ],
)
def test_redirects_to_nowhere_are_refused(
    fetch: Fetch, hub: LoopbackHub, target: str, message: str
) -> None:
    hub.faults.redirect_to = target
    with pytest.raises(DownloadFailed, match=message):
        fetch()


def test_a_refused_connection_names_the_endpoint(models: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
        with pytest.raises(
            DownloadFailed, match=rf"{endpoint}: the connection is refused.*HF_ENDP"
        ):
            download_model(REPOSITORY, models, env=env)
    assert not models.exists()


def test_an_unknown_host_names_the_endpoint(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    env = {"HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(tmp_path)}
    with pytest.raises(DownloadFailed, match=r"hub\.invalid: its name is not known here \(DNS\)"):
        download_model(REPOSITORY, models, env=env)


def test_a_network_that_goes_away_for_a_while_is_waited_for(
    fetch: Fetch,
    hub: LoopbackHub,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    model_bytes: bytes,
) -> None:
    asked, getaddrinfo = [0], socket.getaddrinfo

    def patchy(*arguments: Any, **options: Any) -> Any:
        asked[0] += 1
        if asked[0] in (3, 4):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return getaddrinfo(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", patchy)
    assert fetch().fetched_bytes == len(model_bytes)
    assert waits == [0.5, 1.0]


def test_the_environments_proxy_is_used(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", hub.endpoint)
    settings = HubSettings("http://hub.invalid", None, tmp_path)
    found = Hub(settings).repository(parse_model_ref(REPOSITORY))
    assert FILE in found.paths
