"""One answer's session on every part of its path: tokens in, logits (or sampled tokens) out.

First part here, remote hops, last part here; or the whole model here. Chooses no path, samples
nothing, knows no text. Prompts go in pieces, several under way, so that all parts work at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from kwaai.limits import SHARD_PIECE_TOKENS, SHARD_PREFILL_UNDERWAY_MAX
from kwaai.node import kept_rows
from kwaai.node.parts import Part, Ran
from kwaai.node.path_timings import PathTimings
from kwaai.node.remote import RemotePlan, RemoteSession
from kwaai.node.requesters import Requesters
from kwaai.node.spot_check import Recording
from kwaai.wire.messages import CloseReason
from kwaai.wire.requester import Result
from kwaai.wire.step import StepKind, Timing, Tokens
from kwaai.wire.tensors import Rows

Output: TypeAlias = "Rows | tuple[int, ...]"
"""Logits, float32 (outputs, vocab); or, in fast mode, what the last hop sampled."""


class AnswerPath:
    """One answer under way. `open` it, and `close` it in the end, also when that failed."""

    def __init__(self, first: Part, last: Part | None) -> None:
        """`first` takes tokens. `last` gives logits; None where `first` does, or a hop samples."""
        self.first, self.last = first, last
        self.remote: RemoteSession | None = None
        self.position = 0
        self.timings = PathTimings()
        self.recording: Recording | None = None
        """Takes copies of the first rows that went out and came back, where it is wanted."""
        self._first_key, self._last_key = ("home", id(self), 0), ("home", id(self), 1)
        self._loose: deque[asyncio.Future[Ran]] = deque()
        self._arrived: tuple[float, tuple[Timing, ...]] = (0.0, ())

    async def open(self, requesters: Requesters, plan: RemotePlan | None) -> None:
        """Open a session on every part. Raises Busy, WorkerLost, and PeerError with a name."""
        await self.first.open(self._first_key)
        if self.last is not None:
            await self.last.open(self._last_key)
        if plan is not None:
            self.remote = await requesters.open(plan, self._take)

    async def close(self, reason: CloseReason = CloseReason.DONE) -> None:
        """End the session everywhere. Idempotent."""
        if self.remote is not None:
            self.remote.close(reason)
        for future in self._loose:
            if not future.cancel() and not future.cancelled():
                future.exception()  # whoever waited for it has gone
        self._loose.clear()
        closing = [self.first.close(self._first_key)]
        if self.last is not None:
            closing.append(self.last.close(self._last_key))
        # Whoever waits may be cancelled a second time; both parts are given back all the same.
        await asyncio.shield(asyncio.gather(*closing))

    # Steps. One caller at a time.

    async def prefill(self, tokens: Sequence[int], kept: int = 0) -> Output:
        """Append a prompt, of whose tokens the first `kept` are there already; return the output of
        its last token; nothing for a prompt of none.

        Pieces are as long as a batch (as stock llama.cpp's are, so the same numbers come out), or
        shorter for a long prompt through other machines, so that they work at the same time.
        """
        if not len(tokens):
            return ()
        size = self._piece_tokens(len(tokens))
        stops = [*range(kept - kept % size + size, len(tokens), size), len(tokens)]
        pieces = [tokens[start:stop] for start, stop in pairwise((kept, *stops))]
        last = len(pieces) - 1
        under_way: deque[asyncio.Future[Any]] = deque()
        output: Output = ()
        ahead = self._submit(pieces[0], int(last == 0))
        for number, piece in enumerate(pieces):
            ran = await ahead
            if number < last:
                ahead = self._submit(pieces[number + 1], int(number + 1 == last))
            if self.remote is None:
                output = ran.rows
                continue
            kind, outputs = StepKind.PREFILL, int(number == last)
            self._record_sent(ran.rows)
            under_way.append(await self.remote.send(kind, piece, ran.rows, outputs))
            if len(under_way) > SHARD_PREFILL_UNDERWAY_MAX:
                await self._finish(under_way.popleft())
        while under_way:
            output = await self._finish(under_way.popleft())
        return output

    def decode(self, token: int) -> Coroutine[Any, Any, Output]:
        """Append one token; await its output. The first part begins at the call."""
        return self._append(StepKind.DECODE, (token,))

    def verify(self, tokens: Sequence[int]) -> Coroutine[Any, Any, Output]:
        """Append several guessed tokens; await an output for each."""
        return self._append(StepKind.VERIFY, tokens)

    async def rollback(self, position: int) -> None:
        """Forget the positions from `position` on, in every part."""
        await self.first.rollback(self._first_key, position)
        if self.remote is not None:
            await (await self.remote.rollback(position))
        if self.last is not None:
            await self.last.rollback(self._last_key, position)
        self.position = position

    def keepable(self, tokens: int) -> int:
        """Return how many positions of a prompt that was read are worth keeping for others."""
        return kept_rows.keepable(tokens, self._piece_tokens(tokens))

    def usable(self, kept: int, tokens: int) -> int:
        """Return how many of those a prompt of `tokens` that begins like it can be read behind."""
        return kept_rows.usable(kept, tokens, self._piece_tokens(tokens))

    def _append(self, kind: StepKind, tokens: Sequence[int]) -> Coroutine[Any, Any, Output]:
        started_s = time.perf_counter()
        return self._go_on(kind, tokens, self._submit(tokens, len(tokens)), started_s)

    async def _go_on(
        self, kind: StepKind, tokens: Sequence[int], begun: asyncio.Future[Ran], started_s: float
    ) -> Output:
        ran = await begun
        if self.remote is None:
            self.timings.add(time.perf_counter() - started_s, ran)
            return ran.rows
        sent_s = time.perf_counter()
        self._record_sent(ran.rows)
        future = await self.remote.send(kind, tokens, ran.rows, len(tokens))
        answer = await future
        arrived_s, hops = self._arrived
        last = None
        if isinstance(answer, asyncio.Future):
            last = await answer
        ended_s = time.perf_counter()
        self.timings.add(ended_s - started_s, ran, arrived_s - sent_s, hops, last)
        output: Output = answer if last is None else last.rows
        return output

    def _piece_tokens(self, count: int) -> int:
        size = self.first.batch_tokens
        if self.remote is None:
            return size
        if self.last is not None:
            size = min(size, self.last.batch_tokens)
        size = min(size, self.remote.piece_tokens)
        return min(size, SHARD_PIECE_TOKENS) if count > size else size

    def _submit(self, tokens: Sequence[int], outputs: int) -> asyncio.Future[Ran]:
        """Give tokens to the first part."""
        outputs = outputs if self.first.head else 0
        data = np.array(tokens, np.int32)
        future = self.first.submit(self._first_key, self.position, data, outputs)
        self.position += len(tokens)
        self._hold(future)
        return future

    def _take(self, result: Result) -> Any:
        """Take an answer of the last hop, in the link's callback: the last part begins at once."""
        self._arrived = time.perf_counter(), result.timings
        if isinstance(result, Tokens):
            return result.tokens
        if result.rows is None:
            return None
        if self.recording is not None:
            self.recording.came(result.position, result.rows)
        assert self.last is not None  # the requester's session has checked the layers
        future = self.last.submit(self._last_key, result.position, result.rows, result.outputs)
        self._hold(future)
        return future

    def _record_sent(self, rows: Rows) -> None:
        if self.recording is not None and self.remote is not None:
            self.recording.sent(self.remote.position, rows)

    def _hold(self, future: asyncio.Future[Ran]) -> None:
        """Remember a future until it is done: `close` looks after those that nobody waits for."""
        while self._loose and self._loose[0].done():
            self._loose.popleft()
        self._loose.append(future)

    async def _finish(self, future: asyncio.Future[Any]) -> Output:
        answer = await future
        output: Output = (await answer).rows if isinstance(answer, asyncio.Future) else answer
        return output
