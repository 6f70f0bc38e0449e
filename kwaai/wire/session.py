"""One session on one hop: which step may come from whom, what is repeated, what is forgotten.

Pure: takes parsed messages, answers what to do. Runs no model, sends nothing, reads no clock. The
requester's side is kwaai.wire.requester. docs/protocol/shard.md, "Order of steps".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from credentials.keys import PeerId
from kwaai.errors import OutputForgotten, PeerMisbehaved
from kwaai.limits import OUTPUT_KEPT_OVERHEAD_BYTES, OUTPUTS_KEPT_BYTES_MAX, STEPS_UNDER_WAY_MAX
from kwaai.wire.shard import Open
from kwaai.wire.step import Step, StepKind, Timing, Tokens
from kwaai.wire.tensors import Dtype, Rows

Output: TypeAlias = Step | Tokens


class State(Enum):
    """Where a session stands."""

    OPEN = auto()
    """No step has been accepted yet."""
    RUNNING = auto()
    CLOSED = auto()
    """Whatever still comes is ignored: it was under way when the session ended."""


class Event(Enum):
    """What changes a session."""

    STEP = auto()
    """A new step was accepted."""
    OUTPUT = auto()
    """A step has run."""
    CANCEL = auto()
    CLOSE = auto()


TRANSITIONS: Final = {
    (State.OPEN, Event.STEP): State.RUNNING,
    (State.OPEN, Event.CANCEL): State.OPEN,
    (State.OPEN, Event.CLOSE): State.CLOSED,
    (State.RUNNING, Event.STEP): State.RUNNING,
    (State.RUNNING, Event.OUTPUT): State.RUNNING,
    (State.RUNNING, Event.CANCEL): State.RUNNING,
    (State.RUNNING, Event.CLOSE): State.CLOSED,
    (State.CLOSED, Event.STEP): State.CLOSED,
    (State.CLOSED, Event.OUTPUT): State.CLOSED,
    (State.CLOSED, Event.CANCEL): State.CLOSED,
    (State.CLOSED, Event.CLOSE): State.CLOSED,
}
"""A pair that is not here is a mistake of the caller, not of a peer: ValueError."""


@dataclass(frozen=True, slots=True)
class Run:
    """Give the step to the slice, after all that were given before; then call `on_output`."""

    step: Step


@dataclass(frozen=True, slots=True)
class Resend:
    """The step has run before: send this stored output again, and run nothing."""

    output: Output


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to do: the step runs already, was cancelled, or the session is closed."""


Answer: TypeAlias = Run | Resend | Ignore
_Fingerprint: TypeAlias = tuple[StepKind, int, int, int]


def _fingerprint(step: Step) -> _Fingerprint:
    return (step.kind, step.position, step.count, step.outputs)


@dataclass(slots=True)
class _UnderWay:
    what: _Fingerprint
    cancelled: bool = False


class HopSession:
    """The order of one session's steps on one hop.

    Every check is made before anything changes: after PeerMisbehaved the session is as it was, and
    it is the caller who closes it, or only drops the message of a peer that is not part of it.
    """

    def __init__(
        self,
        opened: Open,
        requester: PeerId,
        *,
        width: int,
        batch_tokens: int,
        keep_bytes: int = OUTPUTS_KEPT_BYTES_MAX,
    ) -> None:
        """opened: what `requester` (the sender of the OPEN) asked for. width: of a row of hidden
        states. batch_tokens: as told in OPENED. keep_bytes: of outputs, at most; less if OPEN says.

        Raises PeerMisbehaved if the OPEN puts others than the requester at the path's ends.
        """
        if (opened.hop == 0) != (opened.previous == requester) or (
            opened.is_last != (opened.next == requester)
        ):
            raise PeerMisbehaved(
                f"the open of hop {opened.hop} of {opened.hops} has the requester {requester} at "
                "another place than the ends of the path",
                peer=requester,
            )
        self.opened: Final = opened
        self.requester: Final = requester
        self.state = State.OPEN
        self.position = 0
        """Where the next rows go."""
        self.next_step = 0
        """The number that is expected next."""
        self.kept_bytes = 0
        self._width, self._batch_tokens = width, batch_tokens
        self._keep_bytes = min(keep_bytes, opened.keep_bytes, OUTPUTS_KEPT_BYTES_MAX)
        self._under_way: dict[int, _UnderWay] = {}
        self._kept: OrderedDict[int, tuple[_Fingerprint, Output]] = OrderedDict()
        self._cancelled_from: int | None = None
        self._last_rollback = -1

    @property
    def under_way(self) -> int:
        """Steps that were given to the slice and have no output yet."""
        return len(self._under_way)

    def on_step(self, sender: PeerId, step: Step) -> Answer:
        """Say what to do with a step that arrived.

        Raises PeerMisbehaved for a step that may not come now, or not from `sender`, and
        OutputForgotten for a repeat of one whose output is not kept any more.
        """
        if sender != self.opened.previous:
            raise PeerMisbehaved(
                f"{sender} sent a step of a session in which {self.opened.previous} comes before "
                "this hop",
                peer=sender,
            )
        if self.state is State.CLOSED:
            return Ignore()
        self._check_address(step)
        if self._is_cancelled(step):
            return Ignore()
        if step.step < self.next_step:
            return self._on_repeat(step)
        self._check_new(step)
        self._move(Event.STEP)
        self._accept(step)
        return Run(step)

    def on_output(self, number: int, output: Output) -> bool:
        """Keep a step's output. Return whether to send it: not if cancelled or closed meanwhile.

        Raises ValueError if `number` is not the oldest step under way.
        """
        closed = self._move(Event.OUTPUT) is State.CLOSED
        if closed:
            return False
        entry = self._take_oldest(number)
        if entry.cancelled:
            return False
        self._keep(number, entry.what, output)
        return True

    def on_cancel(self, sender: PeerId, from_step: int) -> tuple[int, ...]:
        """Stop answering steps from `from_step` on, until a rollback comes.

        Returns the steps under way that nobody wants now. Whoever can still take one out of the
        slice's queue calls `on_dropped`; the others end in `on_output` as ever.
        Raises PeerMisbehaved unless the requester sent it.
        """
        self._check_requester(sender, "cancel")
        if self._move(Event.CANCEL) is State.CLOSED or from_step <= self._last_rollback:
            return ()  # it crossed the rollback that undoes what it is about
        if self._cancelled_from is None or from_step < self._cancelled_from:
            self._cancelled_from = from_step
        unwanted = [
            (number, entry)
            for number, entry in self._under_way.items()
            if number >= from_step and not entry.cancelled
        ]
        for _, entry in unwanted:
            entry.cancelled = True
        if unwanted:
            self.position = min(self.position, unwanted[0][1].what[1])
        return tuple(number for number, _ in unwanted)

    def on_dropped(self, number: int) -> None:
        """Note that a cancelled step was taken out of the queue and never runs."""
        entry = self._under_way.get(number)
        if entry is not None and entry.cancelled:
            del self._under_way[number]

    def on_close(self, sender: PeerId) -> None:
        """Close because the requester says so. Raises PeerMisbehaved if another does."""
        self._check_requester(sender, "close")
        self.close()

    def close(self) -> None:
        """End the session and forget what was kept. Idempotent."""
        self.state = self._move(Event.CLOSE)
        self._under_way.clear()
        self._kept.clear()
        self.kept_bytes = 0

    def forward(
        self, step: Step, rows: Rows | None, dtype: Dtype, timing: Timing | None = None
    ) -> Step:
        """Return the step that goes to the next: this hop's rows (None: a rollback), its timing."""
        layers = self.opened.next_layers
        if layers is None:
            raise ValueError("the last hop of a fast path sends tokens")
        timings = step.timings if timing is None else (*step.timings, timing)
        return Step(  # replace() takes twice as long
            step.session,
            step.step,
            step.kind,
            step.handle,
            layers,
            step.position,
            step.count,
            step.outputs,
            dtype,
            rows,
            timings,
        )

    def forward_tokens(
        self, step: Step, tokens: Sequence[int], timing: Timing | None = None
    ) -> Tokens:
        """Return what the last hop of a fast path sends for a step: a token for each output."""
        timings = step.timings if timing is None else (*step.timings, timing)
        return Tokens(step.session, step.step, step.position, tuple(tokens), timings)

    def _move(self, event: Event) -> State:
        target = TRANSITIONS.get((self.state, event))
        if target is None:
            raise ValueError(f"a session that is {self.state.name} has no {event.name}")
        self.state = target
        return target

    def _check_requester(self, sender: PeerId, what: str) -> None:
        if sender != self.requester:
            raise PeerMisbehaved(
                f"{sender} sent a {what} for a session of {self.requester}", peer=sender
            )

    def _check_address(self, step: Step) -> None:
        opened = self.opened
        if step.session != opened.session:
            raise self._misbehaved(step, "is of another session than its channel")
        if step.handle != opened.handle:
            raise self._misbehaved(step, f"is for {step.handle}, the session for {opened.handle}")
        if step.layers != opened.layers:
            raise self._misbehaved(
                step, f"is for layers {step.layers}, this hop runs {opened.layers}"
            )

    def _is_cancelled(self, step: Step) -> bool:
        return (
            self._cancelled_from is not None
            and step.step >= self._cancelled_from
            and step.kind is not StepKind.ROLLBACK
        )

    def _on_repeat(self, step: Step) -> Answer:
        running = self._under_way.get(step.step)
        kept = self._kept.get(step.step)
        if running is None and kept is None:
            raise OutputForgotten(
                f"step {step.step} of a session is asked for again, and its output is not kept "
                "any more; start the request anew"
            )
        known = running.what if running is not None else kept[0] if kept is not None else None
        if known != _fingerprint(step):
            raise self._misbehaved(step, "was sent before with another position, count or kind")
        if kept is not None:
            return Resend(kept[1])
        return Ignore()  # its answer goes out once, when it is there

    def _check_new(self, step: Step) -> None:
        """Raise PeerMisbehaved unless `step` may be run next."""
        if len(self._under_way) >= STEPS_UNDER_WAY_MAX:
            raise self._misbehaved(step, f"comes while {STEPS_UNDER_WAY_MAX} wait for their turn")
        if step.kind is StepKind.ROLLBACK:
            # Numbers may be left out: of steps that were cancelled before they came this far.
            if step.position > self.position:
                raise self._misbehaved(
                    step, f"rolls back to {step.position}, the session stands at {self.position}"
                )
            return
        if step.step != self.next_step:
            raise self._misbehaved(step, f"comes when step {self.next_step} is expected")
        if step.position != self.position:
            raise self._misbehaved(
                step, f"starts at position {step.position}, the session stands at {self.position}"
            )
        if step.position + step.count > self.opened.context_tokens:
            raise self._misbehaved(
                step,
                f"ends at position {step.position + step.count}, the session may use "
                f"{self.opened.context_tokens}",
            )
        if step.count > self._batch_tokens:
            raise self._misbehaved(
                step, f"has {step.count} rows, this hop takes {self._batch_tokens}"
            )
        if step.rows is None or step.rows.shape != (step.count, self._width):
            raise self._misbehaved(
                step, f"has rows {step.width} wide, this model's are {self._width}"
            )
        if not step.dtype & self.opened.dtypes:
            raise self._misbehaved(step, f"has {step.dtype.name} rows, which were not agreed on")

    def _accept(self, step: Step) -> None:
        if step.kind is StepKind.ROLLBACK:
            self.position = step.position
            self._last_rollback = step.step
            if self._cancelled_from is not None and step.step >= self._cancelled_from:
                self._cancelled_from = None
        else:
            self.position += step.count
        self.next_step = step.step + 1
        self._under_way[step.step] = _UnderWay(_fingerprint(step))

    def _take_oldest(self, number: int) -> _UnderWay:
        oldest = next(iter(self._under_way), None)
        if oldest != number:
            raise ValueError(f"the output of step {number} came when step {oldest} is the oldest")
        return self._under_way.pop(number)

    def _keep(self, number: int, what: _Fingerprint, output: Output) -> None:
        self._kept[number] = (what, output)
        self.kept_bytes += _cost(output)
        while self.kept_bytes > self._keep_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self.kept_bytes -= _cost(dropped)

    def _misbehaved(self, step: Step, what: str) -> PeerMisbehaved:
        previous = self.opened.previous
        return PeerMisbehaved(f"step {step.step} from {previous} {what}", peer=previous)


def _cost(output: Output) -> int:
    return output.kept_bytes + OUTPUT_KEPT_OVERHEAD_BYTES
