"""Which of the waiting steps share the next pass of one slice worker. Pure: no clock, no I/O.

Short steps (decode, verify) come first, one of each session; longer pieces share the rows that are
left, the heaviest session first, then the oldest. A piece runs as one pass's part, in the size that
its caller chose, unless it is larger than a batch. One that did not fit goes first in the next
pass, or, the lighter its session beside the heaviest that waits, after a few: nobody starves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from kwaai.limits import COMPUTE_WEIGHT_MAX

Rows: TypeAlias = npt.NDArray[np.float32]
Data: TypeAlias = "npt.NDArray[np.float32] | npt.NDArray[np.int32]"
"""Rows of hidden states (count, embd), or token ids (count,)."""

SHORT_ROWS = 16  # decode, or verify of a drafted piece: somebody waits for its next token


class Ran(NamedTuple):
    """The rows of one step (its caller's own memory), and seconds: waited, in passes (from asking
    the worker to its answer), and of those computing, as the worker says.
    """

    rows: Rows
    queued_s: float
    pass_s: float
    compute_s: float = 0.0


@dataclass(eq=False, slots=True)
class Piece:
    """A step that waits, or is being computed. `outputs`: of the last rows, in a slice with head.
    `passed_over`: passes in a row that it did not fit.

    `done`: rows computed already, of a piece larger than a batch. `is_alone`: a batch with it was
    refused, so it runs by itself.
    """

    position: int
    data: Data
    outputs: int
    future: asyncio.Future[Ran]
    asked_s: float
    done: int = 0
    passed_over: int = 0
    is_alone: bool = False
    rows: list[Rows] = field(default_factory=list)
    sent_s: float = 0.0
    pass_s: float = 0.0
    compute_s: float = 0.0

    @property
    def end(self) -> int:
        """Where the session stands afterwards."""
        return self.position + len(self.data)

    @property
    def left(self) -> int:
        """Rows to be computed yet."""
        return len(self.data) - self.done

    def outputs_of(self, count: int) -> int:
        """How many of the next `count` rows give outputs."""
        return max(0, min(self.left, self.outputs) - (self.left - count))


@dataclass(eq=False, slots=True)
class Rollback:
    """A rollback that waits for the steps before it."""

    position: int
    future: asyncio.Future[None]

    @property
    def end(self) -> int:
        """Where the session stands afterwards."""
        return self.position


@dataclass(eq=False, slots=True)
class Session:
    """One session of a worker. `weight`: against others, where not all fit a pass. `position`:
    where its cache stands. `used_s`: when, by `time.perf_counter()`. The head of `queue` may be
    under way.
    """

    number: int
    key: Hashable
    weight: int = COMPUTE_WEIGHT_MAX
    position: int = 0
    used_s: float = 0.0
    queue: deque[Piece | Rollback] = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class Part:
    """The next `count` rows of a session's first piece, in a pass; `outputs` of them give some."""

    session: Session
    piece: Piece
    count: int
    outputs: int

    @property
    def data(self) -> Data:
        piece, data = self.piece, self.piece.data
        if self.count == len(data):
            return data
        part: Data = data[piece.done : piece.done + self.count]
        return part


def next_part(session: Session, piece: Piece, batch_tokens: int) -> Part:
    """Return what of `piece` fits a pass of its own."""
    count = min(piece.left, batch_tokens)
    return Part(session, piece, count, piece.outputs_of(count) if piece.outputs else 0)


def plan_batch(
    waiting: Sequence[tuple[Session, Piece]], batch_tokens: int, outputs_max: int
) -> list[Part]:
    """Choose the next pass out of each session's first piece; at least one waits.

    Every piece alone fits: at most `outputs_max` outputs, and more rows than `batch_tokens` are
    taken in several passes.
    """
    ordered = waiting
    if len(waiting) > 1:
        heaviest = max([session.weight for session, _ in waiting])
        ordered = sorted(waiting, key=lambda entry: _precedence(entry, heaviest))
    if len(ordered) == 1 or ordered[0][1].is_alone:
        return [next_part(*ordered[0], batch_tokens)]
    batch, rows, outputs = [], batch_tokens, outputs_max
    for session, piece in ordered:
        part = next_part(session, piece, batch_tokens)
        if part.count <= rows and part.outputs <= outputs:
            batch.append(part)
            rows -= part.count
            outputs -= part.outputs
            piece.passed_over = 0
        else:
            piece.passed_over += 1
    return batch


def _precedence(entry: tuple[Session, Piece], heaviest: int) -> tuple[bool, bool, bool, int, float]:
    """Sort by this: refused in company, passed over often enough, short, heavy; then the oldest.

    Weight says nothing among those that were passed over often enough: else the heavy ones among
    them could keep a light one waiting for ever.
    """
    session, piece = entry
    is_due = piece.passed_over > 0 and piece.passed_over * session.weight >= heaviest
    return (
        not piece.is_alone,
        not is_due,
        piece.left > SHORT_ROWS,
        0 if is_due else -session.weight,
        piece.asked_s,
    )
