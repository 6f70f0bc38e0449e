"""One slice and its sessions as request handlers: what a worker process answers.

Every request is checked before llama.cpp sees it, because ggml ends the process on bad shapes. Runs
in the worker; moves no bytes itself.

Requests: open, step, rollback, close, reset, ping. A step carries `layers` [start, stop), which
must be the slice's own, and `parts`, a list of [session, position, count, outputs].
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kwaai.errors import ModelUnsupported, PeerError, UserError
from kwaai.inference.ipc import Header
from kwaai.inference.sessions import SessionTable
from kwaai.inference.slice import Part, Slice, SliceError
from kwaai.inference.spec import EngineSpec, parse_slice_spec
from kwaai.limits import SESSION_IDLE_S

Reply = tuple[Header | bytes, memoryview | bytes]


class SliceWorker:
    """One slice and its sessions, as request handlers."""

    def __init__(self, spec: dict[str, Any], engine: dict[str, Any]) -> None:
        self._spec, self._engine = parse_slice_spec(spec), EngineSpec(**engine)
        try:
            self._slice = Slice(self._spec, self._engine)
        except SliceError as error:
            raise ModelUnsupported(f"llama.cpp will not run this model: {error}") from None
        self.info = {"backend": self._slice.backend}
        self._sessions = self._new_table()
        self._handlers: dict[str, Callable[[Header, memoryview], Reply]] = {
            "step": self._step,
            "open": self._open,
            "rollback": self._rollback,
            "close": self._close,
            "reset": self._reset,
            "ping": self._ping,
        }

    def _new_table(self) -> SessionTable:
        return SessionTable(
            sessions=self._engine.sessions,
            context_tokens=self._engine.context_tokens,
            idle_s=SESSION_IDLE_S,
        )

    def handle(self, header: Header, payload: memoryview) -> Reply:
        """Answer one request. Raises KwaaiError for a refusal; anything else ends the process."""
        handler = self._handlers.get(str(header.get("op")))
        if handler is None:
            raise UserError(f"a slice worker knows no operation {header.get('op')!r}", param="op")
        return handler(header, payload)

    def _ping(self, header: Header, payload: memoryview) -> Reply:
        return {"ok": True, "sessions": len(self._sessions)}, b""

    def _open(self, header: Header, payload: memoryview) -> Reply:
        now_s = time.monotonic()
        expired = self._sessions.expire(now_s)
        for sequence in expired.values():
            self._slice.clear(sequence)
        self._slice.clear(self._sessions.open(_integer(header, "session"), now_s))
        return {"ok": True, "expired": list(expired)}, b""

    def _rollback(self, header: Header, payload: memoryview) -> Reply:
        position = _integer(header, "position")
        sequence = self._sessions.rollback(_integer(header, "session"), position, time.monotonic())
        self._slice.rollback(sequence, position)
        return {"ok": True}, b""

    def _close(self, header: Header, payload: memoryview) -> Reply:
        self._slice.clear(self._sessions.close(_integer(header, "session")))
        return {"ok": True}, b""

    def _reset(self, header: Header, payload: memoryview) -> Reply:
        for sequence in range(self._engine.sessions):
            self._slice.clear(sequence)
        self._sessions = self._new_table()
        return {"ok": True}, b""

    def _step(self, header: Header, payload: memoryview) -> Reply:
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
            raise PeerError("a slice got hidden states that are not finite numbers")
        return values


def _integer(header: Header, key: str) -> int:
    value = header.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{key} must be an integer", param=key)
    return value


def _parse_steps(header: Header) -> list[tuple[int, int, int, int]]:
    parts = header.get("parts")
    if not isinstance(parts, list) or not parts:
        raise UserError("a step needs parts", param="parts")
    for part in parts:
        if not isinstance(part, list) or len(part) != 4 or not all(type(v) is int for v in part):
            raise UserError("a part is [session, position, count, outputs]", param="parts")
    return [(p[0], p[1], p[2], p[3]) for p in parts]
