"""The program of one worker process: serve one slice over a socket until the node goes away.

`python -m kwaai.inference.worker FD` with an inherited socket. It exists because ggml ends the
process on bad input: a crash here costs one slice, not the node. Sequential on purpose: the node
makes batches.

Requests (see `ipc`): load, open, step, rollback, close, reset, ping. A reply is `{"ok": true, ...}`
or `{"error": {code, message, param}}`.
"""

from __future__ import annotations

import gc
import mmap
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from kwaai.errors import KwaaiError, UserError
from kwaai.inference import ipc
from kwaai.inference.sessions import SessionTable
from kwaai.inference.spec import EngineSpec, parse_slice_spec
from kwaai.limits import SESSION_IDLE_S, TRACEBACK_CHARS_MAX

Reply = tuple[ipc.Header | bytes, memoryview | bytes]


class SliceWorker:
    """One slice and its sessions, as request handlers."""

    def __init__(self, spec: dict[str, Any], engine: dict[str, Any]) -> None:
        from kwaai.inference.slice import Slice

        self._spec, self._engine = parse_slice_spec(spec), EngineSpec(**engine)
        self._slice = Slice(self._spec, self._engine)
        self.info = {"backend": self._slice.backend}
        self._sessions = self._new_table()

    def _new_table(self) -> SessionTable:
        return SessionTable(
            sessions=self._engine.sessions,
            context_tokens=self._engine.context_tokens,
            idle_s=SESSION_IDLE_S,
        )

    def handle(self, header: ipc.Header, payload: memoryview) -> Reply:
        """Answer one request. Raises KwaaiError for a refusal; anything else ends the process."""
        op = str(header.get("op"))
        handlers: dict[str, Callable[[ipc.Header, memoryview], Reply]] = {
            "step": self._step,
            "open": self._open,
            "rollback": self._rollback,
            "close": self._close,
            "reset": self._reset,
            "ping": lambda h, p: ({"ok": True, "sessions": len(self._sessions)}, b""),
        }
        if op not in handlers:
            raise UserError(f"a slice worker knows no operation {op!r}", param="op")
        return handlers[op](header, payload)

    def _open(self, header: ipc.Header, payload: memoryview) -> Reply:
        now_s = time.monotonic()
        for sequence in self._sessions.expire(now_s):
            self._slice.clear(sequence)
        self._slice.clear(self._sessions.open(_integer(header, "session"), now_s))
        return {"ok": True}, b""

    def _rollback(self, header: ipc.Header, payload: memoryview) -> Reply:
        position = _integer(header, "position")
        sequence = self._sessions.rollback(_integer(header, "session"), position, time.monotonic())
        self._slice.rollback(sequence, position)
        return {"ok": True}, b""

    def _close(self, header: ipc.Header, payload: memoryview) -> Reply:
        self._slice.clear(self._sessions.close(_integer(header, "session")))
        return {"ok": True}, b""

    def _reset(self, header: ipc.Header, payload: memoryview) -> Reply:
        for sequence in range(self._engine.sessions):
            self._slice.clear(sequence)
        self._sessions = self._new_table()
        return {"ok": True}, b""

    def _step(self, header: ipc.Header, payload: memoryview) -> Reply:
        from kwaai.inference.slice import Part

        started = time.perf_counter()
        wanted = header.get("layers")
        if wanted != [self._spec.layers.start, self._spec.layers.stop]:
            raise UserError(
                f"this slice holds {self._spec.layers}, the step is for {wanted}", param="layers"
            )
        steps = _parse_steps(header)
        total = sum(count for _, _, count, _ in steps)
        if not 0 < total <= self._engine.batch_tokens:
            raise UserError(f"a batch has 1 to {self._engine.batch_tokens} rows, got {total}")
        data = self._check_data(payload, total)
        if self._spec.head and sum(outputs for *_, outputs in steps) > self._slice.outputs_max:
            raise UserError(f"a batch gives logits for at most {self._slice.outputs_max} rows")
        if len({session for session, *_ in steps}) != len(steps):
            raise UserError("a session appears twice in one batch", param="parts")
        parts, at = [], 0
        for session, position, count, outputs in steps:
            entry = self._sessions.check_step(session, position, count)
            if not 0 <= outputs <= count:
                raise UserError(f"{outputs} outputs of {count} rows", param="outputs")
            parts.append(Part(entry.sequence, position, data[at : at + count], outputs))
            at += count
        rows = self._slice.decode(parts)
        now_s = time.monotonic()
        for session, _, count, _ in steps:
            self._sessions.advance(session, count, now_s)
        elapsed_s = time.perf_counter() - started
        reply = b'{"ok":true,"rows":%d,"compute_s":%.6f}' % (len(rows), elapsed_s)
        return reply, rows.data.cast("B") if rows.size else b""

    def _check_data(self, payload: memoryview, rows: int) -> Any:
        takes_tokens = self._spec.whole or self._spec.embedding is not None
        if takes_tokens:
            if len(payload) != rows * 4:
                raise UserError(f"{rows} token ids are {rows * 4} bytes, got {len(payload)}")
            tokens = np.frombuffer(payload, np.int32)
            if tokens.min() < 0 or tokens.max() >= self._spec.vocab:
                raise UserError(f"token ids are between 0 and {self._spec.vocab - 1}")
            return tokens
        expected = rows * self._spec.embd * 4
        if len(payload) != expected:
            raise UserError(
                f"{rows} rows of {self._spec.embd} float32 are {expected} bytes, got {len(payload)}"
            )
        values = np.frombuffer(payload, np.float32).reshape(rows, self._spec.embd)
        if not np.isfinite(values).all():
            raise UserError("hidden states must be finite numbers")
        return values


def _integer(header: ipc.Header, key: str) -> int:
    value = header.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{key} must be an integer", param=key)
    return value


def _parse_steps(header: ipc.Header) -> list[tuple[int, int, int, int]]:
    parts = header.get("parts")
    if not isinstance(parts, list) or not parts:
        raise UserError("a step needs parts", param="parts")
    for part in parts:
        if not isinstance(part, list) or len(part) != 4 or not all(type(v) is int for v in part):
            raise UserError("a part is [session, position, count, outputs]", param="parts")
    return [(p[0], p[1], p[2], p[3]) for p in parts]


def _make_worker(header: ipc.Header) -> Any:
    """Load what the first request asks for: a slice, or the model's text side."""
    role = header.get("role")
    if role == "slice":
        return SliceWorker(header["spec"], header["engine"])
    if role == "text":
        from kwaai.inference.text_worker import TextWorker

        return TextWorker(header["path"], header["template"])
    if role == "stock":
        from kwaai.inference.stock import StockModel

        return StockModel(**header["stock"])
    raise UserError(f"no worker has the role {role!r}", param="role")


def _error_reply(error: KwaaiError) -> ipc.Header:
    return {"error": {"code": error.code, "message": error.message, "param": error.param}}


def serve(stream: ipc.FrameSocket) -> int:
    """Answer requests until the other end closes; return the process's exit code."""
    header, _ = stream.receive()
    try:
        worker = _make_worker(header)
    except KwaaiError as error:
        stream.send(_error_reply(error))
        return 1
    # The boundary of the process: the node hears the reason, then the process ends.
    except Exception as error:
        message = f"{type(error).__name__}: {error}"[:TRACEBACK_CHARS_MAX]
        stream.send({"error": {"code": "worker_lost", "message": message, "param": None}})
        return 1
    stream.send({"ok": True, "pid": os.getpid(), **getattr(worker, "info", {})})
    # What is loaded stays: the collector need not look at it again and again between two passes.
    gc.collect()
    gc.freeze()
    while True:
        try:
            header, payload = stream.receive()
        except EOFError:
            return 0
        try:
            reply, data = worker.handle(header, payload)
        except KwaaiError as error:
            reply, data = _error_reply(error), b""
        text = reply if isinstance(reply, bytes) else ipc.encode_header(reply)
        stream.send_encoded(text, data)


def main() -> int:
    """Entry point of the process. Ends quietly when the node does."""
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        shared = mmap.mmap(int(sys.argv[2]), 0)
        return _run(ipc.FrameSocket(sock, shared))


def _run(stream: ipc.FrameSocket) -> int:
    try:
        return serve(stream)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return 0
    except Exception:  # the boundary of the process: the supervisor reads the last line
        traceback.print_exc()
        return 70


if __name__ == "__main__":
    sys.exit(main())
