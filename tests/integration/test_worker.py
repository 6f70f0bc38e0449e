"""Real worker processes over a small random model: what they refuse, and that they survive it."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kwaai.config import Config
from kwaai.inference import ipc
from kwaai.inference.ipc import PREFIX, FrameSocket, Header, make_shared
from kwaai.inference.spec import EngineSpec, SliceSpec, encode_slice_spec
from kwaai.models.library import Library
from kwaai.node.plan import plan_run, slice_specs
from kwaai.testing.families import write_family
from kwaai.testing.parts import EMBD, VOCAB

CONTEXT, SESSIONS, ROWS = 24, 3, 16
ENGINE = EngineSpec(CONTEXT, SESSIONS, threads=1, batch_tokens=ROWS)
PROMPT = (1, 40, 7, 255, 9)
SHARED_BYTES = 4 * ROWS * max(EMBD, VOCAB)
Floats = npt.NDArray[np.float32]


class Asked:
    """A worker process and this end of its stream, without a supervisor."""

    def __init__(self, spec: SliceSpec | None = None, *, before: str = "") -> None:
        ours, theirs = socket.socketpair()
        descriptor, memory = make_shared(SHARED_BYTES)
        self.bare, self.stream = ours, FrameSocket(ours, memory)
        code = f"{before}\nimport sys\nfrom kwaai.inference.worker import main\nsys.exit(main())"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), str(descriptor)],
                pass_fds=[theirs.fileno(), descriptor],
                stderr=subprocess.PIPE,
            )
        os.close(descriptor)
        if spec is not None:
            load = {"role": "slice", "spec": encode_slice_spec(spec)}
            reply, _ = self.ask(load | {"engine": dataclasses.asdict(ENGINE)})
            assert reply["ok"], reply
            assert reply["pid"] == self.process.pid

    def ask(self, header: Header, payload: bytes = b"") -> tuple[Header, bytes]:
        self.stream.send(header, payload)
        reply, data = self.stream.receive(60.0)
        return reply, bytes(data)

    def did(self, op: str, **fields: int) -> Header:
        reply, _ = self.ask({"op": op, **fields})
        assert reply.get("ok"), reply
        return reply

    def refusal(self, header: Header, payload: bytes = b"") -> tuple[str, str]:
        reply, data = self.ask(header, payload)
        assert "ok" not in reply
        assert data == b""
        return reply["error"]["code"], reply["error"]["message"]

    def end(self) -> tuple[int, str]:
        """Close the stream; return the exit code and what was written."""
        self.stream.close()
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors.decode()


class Chain:
    """Workers in layer order: tokens in, logits out."""

    def __init__(self, specs: Sequence[SliceSpec], *, before: str = "") -> None:
        self.specs = specs
        self.workers = [Asked(spec, before=before) for spec in specs]

    def all(self, op: str, **fields: int) -> None:
        for worker in self.workers:
            worker.did(op, **fields)

    def step(self, *parts: tuple[int, int, Sequence[int], int]) -> Floats:
        """parts: (session, position, tokens, outputs). Returns (outputs, vocab)."""
        data = np.array([t for _, _, tokens, _ in parts for t in tokens], np.int32).tobytes()
        described = [[s, position, len(tokens), n] for s, position, tokens, n in parts]
        for spec, worker in zip(self.specs, self.workers, strict=True):
            reply, data = worker.ask(step_header(spec, described), data)
            assert reply.get("ok"), reply
            assert reply["compute_s"] >= 0
        return np.frombuffer(data, np.float32).reshape(-1, VOCAB)

    def refused(self, *parts: tuple[int, int, Sequence[int], int]) -> tuple[str, str]:
        data = np.array([t for _, _, tokens, _ in parts for t in tokens], np.int32).tobytes()
        described = [[s, position, len(tokens), n] for s, position, tokens, n in parts]
        return self.workers[0].refusal(step_header(self.specs[0], described), data)


def step_header(spec: SliceSpec, parts: Any) -> Header:
    return {"op": "step", "layers": [spec.layers.start, spec.layers.stop], "parts": parts}


def ids(*tokens: int) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)


def floats(rows: int, value: float = 0.5) -> bytes:
    return np.full((rows, EMBD), value, np.float32).tobytes()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    write_family("llama", path / "random.gguf")
    return path


def specs_of(directory: Path, slices: int) -> list[SliceSpec]:
    library = Library(directory)
    entry = library.find("random")
    plan = plan_run(entry, Config(), slices=slices, local=False, sessions=SESSIONS)
    return slice_specs(plan, library, None)


@pytest.fixture(scope="module")
def chain(directory: Path) -> Iterator[Chain]:
    chain = Chain(specs_of(directory, 3))
    yield chain
    for worker in chain.workers:
        assert worker.end() == (0, "")


@pytest.fixture(scope="module")
def whole(directory: Path) -> Iterator[Chain]:
    whole = Chain(specs_of(directory, 1))
    yield whole
    assert whole.workers[0].end() == (0, "")


@pytest.fixture(autouse=True)
def _no_session_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"chain", "whole"} & set(request.fixturenames):
        for worker in request.getfixturevalue(name).workers:
            assert worker.process.poll() is None, "a worker has died"
            worker.did("reset")
            assert worker.did("ping")["sessions"] == 0


def test_a_chain_of_processes_equals_the_whole_to_the_bit(chain: Chain, whole: Chain) -> None:
    for engine in (chain, whole):
        engine.all("open", session=1)
    for position, tokens, outputs in ((0, PROMPT, len(PROMPT) - 2), (5, (33,), 1), (6, (2, 3), 1)):
        mine = chain.step((1, position, tokens, outputs))
        assert mine.shape == (outputs, VOCAB)
        assert np.array_equal(mine, whole.step((1, position, tokens, outputs)))


def test_shared_memory_changes_no_bit(
    directory: Path, whole: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the smallest payload goes through it, both ways."""
    monkeypatch.setattr(ipc, "INLINE_BYTES_MAX", 0)
    before = "from kwaai.inference import ipc; ipc.INLINE_BYTES_MAX = 0"
    shared = Chain(specs_of(directory, 3), before=before)
    for engine in (shared, whole):
        engine.all("open", session=1)
    for position, tokens, outputs in ((0, PROMPT, len(PROMPT) - 2), (5, (33,), 1), (6, (2, 3), 1)):
        mine = shared.step((1, position, tokens, outputs)).copy()
        assert np.array_equal(mine, whole.step((1, position, tokens, outputs)))
    header = step_header(shared.specs[1], [[1, 8, 1, 0]])
    assert "finite" in shared.workers[1].refusal(header, floats(1, np.nan))[1]
    for worker in shared.workers:
        assert worker.end() == (0, "")


@pytest.mark.parametrize("engine", ["chain", "whole"])
def test_rollback_then_the_same_again_to_the_bit(
    engine: str, request: pytest.FixtureRequest
) -> None:
    chain: Chain = request.getfixturevalue(engine)
    chain.all("open", session=2**64 - 1)
    session = 2**64 - 1
    chain.step((session, 0, PROMPT, 0))
    first = [chain.step((session, 5 + i, (token,), 1)).copy() for i, token in enumerate((8, 9, 10))]
    chain.all("rollback", session=session, position=5)
    other = chain.step((session, 5, (300,), 1)).copy()
    assert not np.array_equal(other, first[0])
    chain.all("rollback", session=session, position=5)
    again = [chain.step((session, 5 + i, (token,), 1)).copy() for i, token in enumerate((8, 9, 10))]
    assert all(map(np.array_equal, first, again))
    chain.all("rollback", session=session, position=0)
    chain.step((session, 0, PROMPT, 0))
    assert np.array_equal(chain.step((session, 5, (8,), 1)), first[0])


def test_sessions_do_not_see_each_other(chain: Chain) -> None:
    prompts: tuple[tuple[int, ...], ...] = (PROMPT, (1, 200, 201), (1, 5))
    alone = []
    for prompt in prompts:
        chain.all("open", session=0)
        chain.step((0, 0, prompt, 0))
        alone.append(chain.step((0, len(prompt), (77,), 1)).copy())
        chain.all("close", session=0)
    for session in range(3):
        chain.all("open", session=session)
    chain.step(*((session, 0, prompt, 0) for session, prompt in enumerate(prompts)))
    chain.all("close", session=1)
    chain.all("open", session=9)  # in the sequence of another, whose cells must be empty
    chain.step((9, 0, prompts[1], 0))
    order = (9, 0, 2)
    positions = [(9, 3), (0, 5), (2, 2)]
    mixed = chain.step(*((session, position, (77,), 1) for session, position in positions))
    expected = [alone[{9: 1, 0: 0, 2: 2}[session]][0] for session in order]
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-3)
    assert [row.argmax() for row in mixed] == [row.argmax() for row in expected]


def test_a_context_can_be_filled_to_its_end(chain: Chain) -> None:
    chain.all("open", session=1)
    chain.step((1, 0, [5] * ROWS, 0))
    chain.step((1, ROWS, [5] * (CONTEXT - ROWS), 1))
    code, words = chain.refused((1, CONTEXT, [5], 1))
    assert code == "context_length_exceeded"
    assert "25 tokens do not fit the context of 24" in words


def test_sessions_are_bounded_and_given_back(chain: Chain) -> None:
    worker = chain.workers[0]
    for session in range(SESSIONS):
        worker.did("open", session=session)
    assert worker.refusal({"op": "open", "session": 9})[0] == "busy"
    code, words = worker.refusal({"op": "open", "session": 0})
    assert (code, words) == ("invalid_request", "session 0 is open already")
    worker.did("close", session=0)
    worker.did("open", session=9)
    code, _ = worker.refusal({"op": "close", "session": 0})
    assert code == "session_unknown"


@pytest.mark.parametrize(
    ("parts", "payload", "code", "words"),
    [
        ([[1, 0, 2, 0]], ids(5), "invalid_request", "2 token ids are 8 bytes, got 4"),
        ([[1, 0, 1, 0]], ids(5) + b"x", "invalid_request", "1 token ids are 4 bytes, got 5"),
        ([[1, 0, 1, 0]], b"", "invalid_request", "got 0"),
        ([[1, 0, 1, 0]], floats(1), "invalid_request", "1 token ids are 4 bytes"),
        ([[1, 0, 2, 0]], ids(0, -1), "invalid_request", "between 0 and 319"),
        ([[1, 0, 2, 0]], ids(VOCAB, 0), "invalid_request", "between 0 and 319"),
        ([[1, 0, 2, 0]], struct.pack("<2f", 1.0, 2.0), "invalid_request", "between 0 and 319"),
        ([[1, 1, 1, 0]], ids(5), "position_invalid", "stands at position 0"),
        ([[1, -1, 1, 0]], ids(5), "position_invalid", "starts at -1"),
        ([[1, 2**70, 1, 0]], ids(5), "position_invalid", "stands at position 0"),
        ([[7, 0, 1, 0]], ids(5), "session_unknown", "session 7 is not open"),
        ([[1, 0, 1, 0], [1, 1, 1, 0]], ids(5, 5), "invalid_request", "twice in one batch"),
        ([[1, 0, ROWS + 1, 0]], ids(*[5] * 17), "invalid_request", "1 to 16 rows, got 17"),
        ([[1, 0, 0, 0]], b"", "invalid_request", "1 to 16 rows, got 0"),
        ([[1, 0, -1, 0], [2, 0, 2, 0]], ids(5), "invalid_request", "at least one token"),
        ([[1, 0, 1, 2]], ids(5), "invalid_request", "2 outputs of 1 rows"),
        ([[1, 0, 1, -1]], ids(5), "invalid_request", "-1 outputs of 1 rows"),
        ([[1, 0, 1]], ids(5), "invalid_request", "a part is"),
        ([[1, 0, 1, 0.0]], ids(5), "invalid_request", "a part is"),
        ([[1, 0, True, 0]], ids(5), "invalid_request", "a part is"),
        ([["1", 0, 1, 0]], ids(5), "invalid_request", "a part is"),
        ([], b"", "invalid_request", "needs parts"),
        (None, b"", "invalid_request", "needs parts"),
    ],
)
def test_a_bad_step_is_refused_and_changes_nothing(
    chain: Chain, parts: Any, payload: bytes, code: str, words: str
) -> None:
    worker, spec = chain.workers[0], chain.specs[0]
    worker.did("open", session=1)
    worker.did("open", session=2)
    got, message = worker.refusal(step_header(spec, parts), payload)
    assert (got, words in message) == (code, True), message
    reply, data = worker.ask(step_header(spec, [[1, 0, 1, 0]]), ids(5))
    assert (reply["ok"], reply["rows"], len(data)) == (True, 1, 4 * EMBD)


@pytest.mark.parametrize("layers", [None, [0, 8], [5, 3], "[0,3)", 3, []])
def test_a_step_for_other_layers_is_refused(chain: Chain, layers: Any) -> None:
    worker = chain.workers[1]
    worker.did("open", session=1)
    header = {"op": "step", "layers": layers, "parts": [[1, 0, 1, 0]]}
    assert "the step is for" in worker.refusal(header, floats(1))[1]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (floats(1, np.nan), "finite"),
        (floats(1, np.inf), "finite"),
        (floats(1)[:-4], "1 rows of 96 float32 are 384 bytes, got 380"),
        (np.full(EMBD, 0.5, np.float16).tobytes(), "got 192"),
        (np.full(EMBD, 0.5, np.float64).tobytes(), "got 768"),
        (floats(2), "got 768"),
        (ids(5), "got 4"),
    ],
)
def test_bad_hidden_states_are_refused(chain: Chain, payload: bytes, words: str) -> None:
    for worker, spec in zip(chain.workers[1:], chain.specs[1:], strict=True):
        worker.did("open", session=1)
        header = step_header(spec, [[1, 0, 1, 1]])
        code, message = worker.refusal(header, payload)
        # Numbers that are none come from a faulty machine or file, not from whoever asks.
        fault = "peer_failed" if words == "finite" else "invalid_request"
        assert (code, words in message) == (fault, True), message
        assert worker.ask(header, floats(1))[0]["ok"]


def test_more_logits_than_the_buffers_hold_are_refused(chain: Chain) -> None:
    worker, spec = chain.workers[-1], chain.specs[-1]
    worker.did("open", session=1)
    _, words = worker.refusal(step_header(spec, [[1, 0, 4, 4]]), floats(4))
    assert words == "a batch gives logits for at most 3 rows"
    reply, data = worker.ask(step_header(spec, [[1, 0, 4, 3]]), floats(4))
    assert (reply["rows"], len(data)) == (3, 3 * 4 * VOCAB)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"op": "load"},
        {"op": None},
        {"op": ["step"]},
        {"op": "open"},
        {"op": "open", "session": "1"},
        {"op": "open", "session": 1.0},
        {"op": "open", "session": True},
        {"op": "open", "session": -1},
        {"op": "open", "session": 2**64},
        {"op": "close", "session": 5},
        {"op": "rollback", "session": 5, "position": 0},
        {"op": "rollback", "session": 1},
        {"op": "rollback", "session": 1, "position": 1},
        {"op": "rollback", "session": 1, "position": -1},
    ],
)
def test_a_bad_request_is_refused(chain: Chain, header: Header) -> None:
    worker = chain.workers[0]
    worker.did("open", session=1)
    code, message = worker.refusal(header)
    assert code in {"invalid_request", "session_unknown", "position_invalid"}
    assert message


def test_forgotten_sessions_expire(directory: Path) -> None:
    spec = specs_of(directory, 3)[0]
    worker = Asked(spec, before="from kwaai import limits; limits.SESSION_IDLE_S = 0.0")
    for session in range(3 * SESSIONS):
        worker.did("open", session=session)
        assert worker.did("ping")["sessions"] == 1
    code, words = worker.refusal(step_header(spec, [[0, 0, 1, 0]]), ids(5))
    assert (code, "expired" in words) == ("session_unknown", True)
    assert worker.end() == (0, "")


def broken(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "empty":
        data = b""
    elif how == "garbage":
        data = bytes(range(256)) * 64
    elif how == "truncated header":
        data = data[:2000]
    elif how == "truncated tensors":
        data = data[: len(data) * 3 // 4]
    elif how == "flipped header":
        data = data[:24] + bytes(byte ^ 0xFF for byte in data[24:600]) + data[600:]
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how", ["empty", "garbage", "truncated header", "truncated tensors", "flipped header", "absent"]
)
@pytest.mark.parametrize("slices", [1, 3])
def test_a_broken_model_file_is_an_error(
    directory: Path, tmp_path: Path, how: str, slices: int
) -> None:
    spec = specs_of(directory, slices)[-1]
    path = tmp_path / "broken.gguf"
    if how != "absent":
        path.write_bytes(Path(spec.path).read_bytes())
        broken(path, how)
    worker = Asked()
    load = encode_slice_spec(dataclasses.replace(spec, path=str(path)))
    header = {"role": "slice", "spec": load, "engine": dataclasses.asdict(ENGINE)}
    code, message = worker.refusal(header)
    assert code == "model_unsupported"
    assert f"cannot load {path}" in message
    assert "\n" not in message
    assert worker.end() == (1, "")


def test_a_file_that_is_another_models_is_an_error(directory: Path) -> None:
    spec = specs_of(directory, 3)[0]
    worker = Asked()
    load = encode_slice_spec(dataclasses.replace(spec, embd=EMBD * 2))
    header = {"role": "slice", "spec": load, "engine": dataclasses.asdict(ENGINE)}
    assert f"of width {EMBD}" in worker.refusal(header)[1]
    assert worker.end() == (1, "")


def test_an_embedding_past_the_end_of_its_file_is_an_error(directory: Path) -> None:
    spec = specs_of(directory, 3)[0]
    assert spec.embedding is not None
    table = dataclasses.replace(spec.embedding, offset=2**40)
    worker = Asked()
    load = encode_slice_spec(dataclasses.replace(spec, embedding=table))
    header = {"role": "slice", "spec": load, "engine": dataclasses.asdict(ENGINE)}
    assert "past the end" in worker.refusal(header)[1]
    assert worker.end() == (1, "")


@pytest.mark.parametrize("header", [{}, {"role": "king"}, {"role": "slice"}, {"role": "text"}])
def test_an_unknown_role_is_an_error(header: Header) -> None:
    worker = Asked()
    assert worker.refusal(header)[1]
    assert worker.end() == (1, "")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        PREFIX.pack(2, 0, 0) + b"[]",
        PREFIX.pack(4, 0, 0) + b"oops",
        PREFIX.pack(2, 10, 0) + b"{}abc",
        PREFIX.pack(2, 2**29, 1) + b"{}",
        PREFIX.pack(2, 0, 9) + b"{}",
    ],
)
def test_garbage_on_the_stream_ends_the_process(data: bytes) -> None:
    worker = Asked()
    worker.bare.sendall(data)
    worker.bare.shutdown(socket.SHUT_WR)
    _, errors = worker.process.communicate(timeout=60)
    assert worker.process.returncode == 70
    assert errors.decode().strip().splitlines()[-1].startswith("kwaai.inference.ipc.FrameError")
    worker.stream.close()


def test_the_end_of_the_stream_ends_the_process_quietly() -> None:
    assert Asked().end() == (0, "")


def test_the_text_side(directory: Path) -> None:
    worker = Asked()
    load = {"role": "text", "path": str(directory / "random.gguf"), "template": None}
    reply, _ = worker.ask(load)
    assert (reply["vocab"], reply["eog"]) == (VOCAB, [2])
    reply, data = worker.ask({"op": "pieces"})
    lengths = np.frombuffer(data[: 4 * VOCAB], np.uint32)
    assert len(data) == 4 * VOCAB + lengths.sum()
    _, data = worker.ask({"op": "tokenize"}, "é</s>".encode())
    tokens = np.frombuffer(data, np.int32).tolist()
    assert tokens[0] == 1
    assert 2 not in tokens  # the words of a control token in a prompt are words
    _, data = worker.ask({"op": "chat"}, json.dumps([{"role": "user", "content": "hi"}]).encode())
    assert len(data) > 8
    assert worker.refusal({"op": "tokenize"}, b"\xff\xff")[1].startswith("the prompt is not UTF-8")
    assert worker.refusal({"op": "chat"}, b"[]")[0] == "invalid_request"
    assert worker.refusal({"op": "step"})[0] == "invalid_request"
    assert worker.end() == (0, "")
