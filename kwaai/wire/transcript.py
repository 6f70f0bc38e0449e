"""Running digests of what went into a hop and came out of it, so that two sides can compare what
they saw without keeping it.

Pure: hashes bytes that others sent and received. Signs nothing (`kwaai.intent.receipt`), says
nothing about order (`kwaai.wire.session`). docs/protocol/receipts.md, "Digests".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from kwaai.limits import RECEIPT_MARKS_MAX
from kwaai.wire.step import Step, StepKind
from kwaai.wire.tensors import Dtype

POSITION_ANY: Final = 2**32 - 1
"""`Cover.position` where no rollback was under way at the end."""

_SEED: Final = b"kwaai receipt steps 1\0"
_LEAF = struct.Struct(">BHHQI")  # kind, count, outputs; step; position
_TOKENS_KIND: Final = 255  # no StepKind: tokens are no hidden states
_MARK = struct.Struct(">QIII32s")


class Cover(NamedTuple):
    """Which steps a receipt is about: those below a number that start below a position.

    The last answered step ends it. What was still under way when a session closed has reached some
    hops and not others; a rollback that was (`position`) too.
    """

    steps: int
    position: int = POSITION_ANY


class Mark(NamedTuple):
    """Where a chain stood after a step."""

    step: int
    position: int
    """Of the step's first row."""
    prompt_tokens: int
    """Rows of prompt up to here."""
    answer_tokens: int
    """Outputs asked for up to here."""
    digest: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a chain that takes no more steps."""

    start: bytes
    """The digest of no steps."""
    marks: tuple[Mark, ...]
    """The last ones, oldest first."""
    is_whole: bool
    """Whether none was left out."""

    @property
    def last(self) -> Mark:
        """Where the chain ended."""
        return self.marks[-1] if self.marks else _nothing(self.start)

    def at(self, cover: Cover) -> Mark | None:
        """Return where the chain stood after the steps that `cover` has; None if that is so far
        back that it is not known any more.
        """
        for mark in reversed(self.marks):
            if mark.step < cover.steps and mark.position < cover.position:
                return mark
        return _nothing(self.start) if self.is_whole else None


class StepChain:
    """The digests of one session's steps in one place, each over the one before and its step.

    A rollback to p takes out every step that starts at p or later: what is left depends neither on
    when a cancelled step was stopped nor on guesses that were given up. 52 bytes for each position
    of the context at most.
    """

    __slots__ = ("_answer", "_digest", "_marks", "_prompt", "_start")

    def __init__(self, session: bytes) -> None:
        self._start = hashlib.sha256(_SEED + session).digest()
        """Of the session's id, which only its parties know: nobody else can try a guessed prompt
        against a digest that was published."""
        self._digest = self._start
        self._prompt = self._answer = 0
        self._marks = bytearray()

    def __len__(self) -> int:
        return len(self._marks) // _MARK.size

    def add_step(self, step: Step, tensor: bytes | memoryview) -> None:
        """Add hidden states. `tensor`: their bytes as on the wire."""
        self._add(
            _LEAF.pack(step.kind, step.count, step.outputs, step.step, step.position),
            tensor,
            step,
        )

    def add_tokens(self, step: Step, tokens: tuple[int, ...]) -> None:
        """Add what the last hop sampled for a step (fast mode)."""
        count = len(tokens)
        self._add(
            _LEAF.pack(_TOKENS_KIND, count, count, step.step, step.position),
            struct.pack(f">{count}I", *tokens),
            step,
        )

    def rollback(self, position: int) -> None:
        """Take out the steps that start at `position` or later."""
        size, at = _MARK.size, len(self._marks)
        while at and _MARK.unpack_from(self._marks, at - size)[1] >= position:
            at -= size
        del self._marks[at:]
        last = (
            Mark._make(_MARK.unpack_from(self._marks, at - size)) if at else _nothing(self._start)
        )
        self._prompt, self._answer, self._digest = last[2:]

    def tail(self) -> Tail:
        """Return the end of the chain: of what comes after it a session's two sides may differ by
        the steps under way.
        """
        size = _MARK.size
        begin = max(0, len(self._marks) - RECEIPT_MARKS_MAX * size)
        marks = tuple(map(Mark._make, _MARK.iter_unpack(self._marks[begin:])))
        return Tail(self._start, marks, begin == 0)

    def _add(self, leaf: bytes, data: bytes | memoryview, step: Step) -> None:
        digest = hashlib.sha256(self._digest)
        digest.update(leaf)
        digest.update(data)
        self._digest = digest.digest()
        if step.kind is StepKind.PREFILL:
            self._prompt += step.count
        self._answer += step.outputs
        self._marks += _MARK.pack(
            step.step, step.position, self._prompt, self._answer, self._digest
        )


def _nothing(start: bytes) -> Mark:
    """Return where a chain stands before its first step."""
    return Mark(0, 0, 0, 0, start)


def tensor_of(message: bytes, step: Step) -> memoryview:
    """Return the bytes of the tensor in a STEP, given what was parsed of it."""
    if step.rows is None:
        return memoryview(b"")
    size = step.rows.size * (2 if step.dtype is Dtype.F16 else 4)
    return memoryview(message)[len(message) - size :]
