"""How a run is planned: the cut, the numbers that are budgeted, and what each worker is told."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kwaai.config import Config
from kwaai.errors import ModelUnsupported, OutOfMemory, UserError
from kwaai.inference.spec import encode_slice_spec, parse_slice_spec
from kwaai.limits import BATCH_TOKENS_MAX
from kwaai.models.library import Library, ModelEntry
from kwaai.models.slices import cut_slice
from kwaai.node import plan as plan_module
from kwaai.node.plan import RunPlan, available_bytes, plan_run, slice_specs
from kwaai.testing.families import write_family
from kwaai.testing.models import tiny_model
from kwaai.types import LayerRange


@pytest.fixture
def library(tmp_path: Path) -> Library:
    tiny_model(tmp_path / "tiny.gguf")
    return Library(tmp_path)


@pytest.fixture
def entry(library: Library) -> ModelEntry:
    return library.find("tiny")


def plan(entry: ModelEntry, slices: int | None = None, **options: Any) -> RunPlan:
    local, sessions = options.pop("local", False), options.pop("sessions", 2)
    return plan_run(entry, Config(**options), slices=slices, local=local, sessions=sessions)


@pytest.mark.parametrize(("slices", "local"), [(None, False), (1, False), (None, True), (3, True)])
def test_one_process_for_the_whole_model(
    entry: ModelEntry, slices: int | None, local: bool
) -> None:
    got = plan(entry, slices, local=local)
    assert got.ranges == (LayerRange(0, 6),)
    assert not got.is_chain


def test_a_chain_covers_the_model_in_order(entry: ModelEntry) -> None:
    got = plan(entry, 3)
    assert got.is_chain
    assert [r.start for r in got.ranges[1:]] == [r.stop for r in got.ranges[:-1]]
    assert (got.ranges[0].start, got.ranges[-1].stop) == (0, 6)


@pytest.mark.parametrize("slices", [0, 7, -1])
def test_a_cut_that_cannot_be(entry: ModelEntry, slices: int) -> None:
    with pytest.raises(UserError, match="ask for 1 to 6"):
        plan(entry, slices)


def test_a_cut_that_the_family_forbids(tmp_path: Path) -> None:
    write_family("cohere2", tmp_path / "cohere.gguf")
    entry = Library(tmp_path).find("cohere")
    plan(entry, 2)
    with pytest.raises(ModelUnsupported):
        plan(entry, entry.layers.stop)


def test_a_part_of_a_model_cannot_answer(tmp_path: Path, entry: ModelEntry) -> None:
    cut_slice(entry.path, tmp_path / "part.gguf", LayerRange(1, 3), False)
    with pytest.raises(ModelUnsupported, match=r"holds only layers \[1,3\).*shard download"):
        plan(Library(tmp_path).find("part"))


def test_the_context_is_what_is_asked_for_but_not_more_than_trained(entry: ModelEntry) -> None:
    assert plan(entry).engine.context_tokens == 512
    engine = plan(entry, context_tokens=100, sessions=3, threads=2, use_gpu=False).engine
    assert (engine.context_tokens, engine.sessions, engine.threads) == (100, 3, 2)
    assert (engine.gpu_layers, engine.batch_tokens) == (0, BATCH_TOKENS_MAX)
    assert plan(entry).engine.gpu_layers == -1


def test_what_does_not_fit_is_refused_with_the_numbers(entry: ModelEntry) -> None:
    with pytest.raises(OutOfMemory) as caught:
        plan(entry, memory_limit_mb=16)
    words = caught.value.message
    for part in ("tiny", "weights", "KV cache", "compute buffers", "20% on top", "15.3 MiB are"):
        assert part in words
    assert "lower context_tokens (512)" in words
    assert "max_sessions (2)" in words


def test_the_budget_grows_with_sessions_context_and_processes(entry: ModelEntry) -> None:
    base = plan(entry).memory.needed_bytes
    assert plan(entry, sessions=4).memory.needed_bytes > base
    assert plan(entry, context_tokens=64).memory.needed_bytes < base
    assert plan(entry, 3).memory.needed_bytes > base


def test_workers_are_told_what_their_file_is(library: Library, entry: ModelEntry) -> None:
    got = plan(entry, 3)
    specs = slice_specs(got, library, None)
    assert [spec.layers for spec in specs] == [*got.ranges]
    assert [spec.head for spec in specs] == [False, False, True]
    assert [spec.embedding is not None for spec in specs] == [True, False, False]
    assert all(Path(spec.path).is_file() and spec.path != str(entry.path) for spec in specs)
    assert not any(spec.whole for spec in specs)
    first = specs[0].embedding
    assert first is not None
    assert (first.path, first.vocab, first.embd) == (str(entry.path), 300, 256)
    [whole] = slice_specs(plan(entry), library, None)
    assert whole.whole
    assert whole.path == str(entry.path)
    for spec in (*specs, whole):
        encoded = encode_slice_spec(spec)
        assert parse_slice_spec(json.loads(json.dumps(encoded))) == spec
        assert encoded == asdict(spec)


class TestAvailable:
    """Free memory, a container's limit and the setting: the smallest counts."""

    @pytest.fixture(autouse=True)
    def _group(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.group = tmp_path
        monkeypatch.setattr(plan_module, "_CGROUP", tmp_path)
        memory = type("Memory", (), {"available": 8_000_000_000})
        monkeypatch.setattr("psutil.virtual_memory", memory)

    def limit(self, most: str, used: int, cached: int) -> None:
        (self.group / "memory.max").write_text(f"{most}\n")
        (self.group / "memory.current").write_text(f"{used}\n")
        (self.group / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nslab 3\n")

    def test_no_limit(self) -> None:
        assert available_bytes(Config()) == 8_000_000_000
        self.limit("max", 5_000_000_000, 0)
        assert available_bytes(Config()) == 8_000_000_000

    def test_a_containers_limit(self) -> None:
        self.limit("2000000000", 1_500_000_000, 0)
        assert available_bytes(Config()) == 500_000_000

    def test_cached_files_are_given_back(self) -> None:
        self.limit("2000000000", 1_500_000_000, 1_200_000_000)
        assert available_bytes(Config()) == 1_700_000_000

    def test_more_used_than_allowed(self) -> None:
        self.limit("1000", 5_000, 0)
        assert available_bytes(Config()) == 0

    def test_the_setting(self) -> None:
        assert available_bytes(Config(memory_limit_mb=100)) == 100_000_000
        self.limit("50000000", 0, 0)
        assert available_bytes(Config(memory_limit_mb=100)) == 50_000_000
