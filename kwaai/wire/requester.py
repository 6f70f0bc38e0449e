"""The requester's side of a session: who is asked to open what, which steps are under way, which
answers may come.

Pure: makes messages and checks messages. Runs no model, sends nothing, reads no clock, draws no
session id. The hops' side is kwaai.wire.session. docs/protocol/shard.md, "Order of steps".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from credentials.keys import PeerId
from kwaai.errors import ContextExceeded, PeerMisbehaved
from kwaai.limits import OUTPUTS_KEPT_BYTES_MAX, STEPS_UNDER_WAY_MAX
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.shard import ANY_DTYPE, Cancel, Open, Opened, Privacy
from kwaai.wire.step import Step, StepKind, Tokens
from kwaai.wire.tensors import Dtype, Rows, rows_max

Result: TypeAlias = Step | Tokens


@dataclass(frozen=True, slots=True)
class HopPlan:
    """One remote hop of a path, as it is to be opened."""

    peer: PeerId
    layers: LayerRange
    addresses: tuple[str, ...] = ()
    """Its link addresses, host:port: told to the hop before it."""


def plan_opens(
    session: bytes,
    handle: ModelHandle,
    block_count: int,
    requester: HopPlan,
    hops: Sequence[HopPlan],
    *,
    context_tokens: int,
    sampling: Mapping[str, Any] | None = None,
    dtypes: int = ANY_DTYPE,
    keep_bytes: int = OUTPUTS_KEPT_BYTES_MAX,
    intent: bytes = b"",
) -> tuple[Open, ...]:
    """Return the OPEN for each hop, in the path's order.

    requester: this node; its `layers` are the last ones of the model, which it runs itself.
    sampling: makes it a fast path, whose last hop holds the head and samples by it; the requester's
    `layers` are not looked at then. intent: signed, for every hop.
    """
    opens = []
    for hop, plan in enumerate(hops):
        following = hops[hop + 1] if hop + 1 < len(hops) else requester
        samples = sampling is not None and following is requester
        opens.append(
            Open(
                session=session,
                handle=handle,
                layers=plan.layers,
                block_count=block_count,
                hop=hop,
                hops=len(hops),
                previous=hops[hop - 1].peer if hop else requester.peer,
                next=following.peer,
                next_layers=None if samples else following.layers,
                next_addresses=following.addresses,
                context_tokens=context_tokens,
                dtypes=dtypes,
                privacy=Privacy.PRIVATE if sampling is None else Privacy.FAST,
                sampling=sampling if samples else None,
                keep_bytes=keep_bytes,
                intent=intent,
            )
        )
    return tuple(opens)


def check_opened(opened: Opened, asked: Open, peer: PeerId) -> None:
    """Raise PeerMisbehaved unless `opened` answers the OPEN that `peer` was sent."""
    if opened.session != asked.session or opened.hop != asked.hop:
        raise PeerMisbehaved(
            f"{peer} answers an open of hop {asked.hop} as hop {opened.hop}", peer=peer
        )
    if not opened.dtype & asked.dtypes:
        raise PeerMisbehaved(
            f"{peer} wants to send {opened.dtype.name}, which it was not offered", peer=peer
        )


@dataclass(slots=True)
class _Asked:
    step: Step
    cancelled: bool = False


class RequesterSession:
    """Numbers and positions of one session's steps, and what is still to be answered.

    Mistakes of the caller raise ValueError; answers that the protocol forbids PeerMisbehaved.
    """

    def __init__(
        self,
        opens: Sequence[Open],
        last_hop: PeerId,
        *,
        width: int,
        batch_tokens: int,
        vocab: int | None = None,
    ) -> None:
        """opens: of all hops, in order. last_hop: the only peer whose answers count. width: of a
        row of hidden states. batch_tokens: the least of all hops' OPENED. vocab: tokens at and
        above it are refused (fast mode).
        """
        first, last = opens[0], opens[-1]
        self.session: Final = first.session
        self.last_hop: Final = last_hop
        self.piece_tokens: Final = min(batch_tokens, rows_max(width))
        """The most rows that one step may have."""
        self.position = 0
        """Where the next rows go."""
        self.next_step = 0
        self.tokens: list[int] = []
        """The token at each position, so that the answer could be taken up elsewhere."""
        self._handle, self._layers = first.handle, first.layers
        self._result_layers = last.next_layers
        self._context_tokens, self._dtypes = first.context_tokens, first.dtypes
        self._width, self._vocab = width, vocab
        self._asked: dict[int, _Asked] = {}
        self._last_rollback = -1
        self._rollback_due = False

    @property
    def under_way(self) -> int:
        """Steps whose answer is still to come."""
        return len(self._asked)

    @property
    def can_send(self) -> bool:
        """Whether one more step may be made now. One place is left free for a rollback."""
        return len(self._asked) < STEPS_UNDER_WAY_MAX - 1 and not self._rollback_due

    @property
    def oldest(self) -> int | None:
        """The step whose answer must come next."""
        return next((number for number, asked in self._asked.items() if not asked.cancelled), None)

    def step(
        self, kind: StepKind, tokens: Sequence[int], rows: Rows, *, outputs: int, dtype: Dtype
    ) -> Step:
        """Return the next step to send to the first hop.

        tokens: those that the rows stand for, kept here and never sent. rows: float32
        (len(tokens), width), what the requester's first layers made of them. outputs: for how many
        of the last ones an answer is wanted. dtype: for the link to the first hop.

        Raises ContextExceeded when they do not fit the session; ValueError for a wrong shape, and
        when `can_send` is False.
        """
        count = len(tokens)
        if not self.can_send or kind is StepKind.ROLLBACK:
            raise ValueError("no step can be made now: too many under way, or a rollback is due")
        if rows.shape != (count, self._width) or not 1 <= count <= self.piece_tokens:
            raise ValueError(f"a step of {count} tokens got rows of {rows.shape}")
        least, most = {StepKind.DECODE: (1, 1), StepKind.VERIFY: (1, count)}.get(kind, (0, count))
        if not least <= outputs <= most or (kind is StepKind.DECODE and count != 1):
            raise ValueError(f"a {kind.name} of {count} tokens cannot have {outputs} outputs")
        if self.position + count > self._context_tokens:
            raise ContextExceeded(
                f"{self.position + count} tokens do not fit the session's {self._context_tokens}; "
                "shorten the prompt or raise context_tokens"
            )
        step = self._make(kind, self.position, count, outputs, dtype, rows)
        self.position += count
        self.tokens.extend(tokens)
        return step

    def rollback(self, position: int) -> Step:
        """Return the step that makes every hop forget the positions from `position` on."""
        if not 0 <= position <= self.position:
            raise ValueError(f"a rollback to {position} from {self.position}")
        if len(self._asked) >= STEPS_UNDER_WAY_MAX:
            raise ValueError("a rollback while too many steps are under way")
        step = self._make(StepKind.ROLLBACK, position, 0, 0, Dtype.F32, None)
        self.position = position
        del self.tokens[position:]
        self._last_rollback = step.step
        self._rollback_due = False
        return step

    def cancel(self, from_step: int) -> Cancel:
        """Give up the steps from `from_step` on; a rollback must follow before any other step.

        Raises ValueError for one that is answered, cancelled, or older than the last rollback.
        """
        first = self._asked.get(from_step)
        if first is None or first.cancelled or from_step <= self._last_rollback:
            raise ValueError(f"step {from_step} cannot be cancelled")
        for number, asked in self._asked.items():
            asked.cancelled = asked.cancelled or number >= from_step
        self.position = first.step.position
        del self.tokens[self.position :]
        self._rollback_due = True
        return Cancel(self.session, from_step)

    def repeat(self, number: int) -> Step:
        """Return a step whose answer is still to come, to be sent again as it was."""
        asked = self._asked.get(number)
        if asked is None:
            raise ValueError(f"step {number} is not under way")
        return asked.step

    def on_result(self, sender: PeerId, result: Result) -> Result | None:
        """Return an answer that counts; None for one that came twice or was given up.

        Raises PeerMisbehaved for an answer from elsewhere, to a step that was never made, out of
        order, or of another shape than was asked for.
        """
        if sender != self.last_hop:
            raise PeerMisbehaved(
                f"{sender} answers a session whose last hop is {self.last_hop}", peer=sender
            )
        number = result.step
        if result.session != self.session or number >= self.next_step:
            raise self._misbehaved(number, "was never asked for")
        asked = self._asked.get(number)
        if asked is None:
            return None
        if asked.cancelled:
            del self._asked[number]
            return None
        if number != self.oldest:
            raise self._misbehaved(number, f"came before that to step {self.oldest}")
        self._check_result(result, asked.step)
        for passed in [n for n in self._asked if n <= number]:
            del self._asked[passed]
        return result

    def _make(
        self,
        kind: StepKind,
        position: int,
        count: int,
        outputs: int,
        dtype: Dtype,
        rows: Rows | None,
    ) -> Step:
        step = Step(
            session=self.session,
            step=self.next_step,
            kind=kind,
            handle=self._handle,
            layers=self._layers,
            position=position,
            count=count,
            outputs=outputs,
            dtype=dtype,
            rows=rows,
        )
        self._asked[step.step] = _Asked(step)
        self.next_step += 1
        return step

    def _check_result(self, result: Result, asked: Step) -> None:
        number = asked.step
        if result.position != asked.position:
            raise self._misbehaved(
                number, f"is for position {result.position}, not {asked.position}"
            )
        if isinstance(result, Tokens):
            self._check_tokens(result, asked)
        else:
            self._check_rows(result, asked)

    def _check_tokens(self, result: Tokens, asked: Step) -> None:
        if self._result_layers is not None:
            raise self._misbehaved(asked.step, "has tokens, which only this node may choose")
        if len(result.tokens) != asked.outputs:
            raise self._misbehaved(
                asked.step, f"has {len(result.tokens)} tokens, not {asked.outputs}"
            )
        if self._vocab is not None and any(token >= self._vocab for token in result.tokens):
            raise self._misbehaved(asked.step, f"has a token beyond the {self._vocab} of the model")

    def _check_rows(self, result: Step, asked: Step) -> None:
        if result.layers != self._result_layers or result.handle != self._handle:
            raise self._misbehaved(
                asked.step, f"is for layers {result.layers} of {result.handle}, not what runs here"
            )
        shape = (result.kind, result.count, result.outputs, result.width)
        width = 0 if asked.rows is None else self._width
        if shape != (asked.kind, asked.count, asked.outputs, width):
            raise self._misbehaved(
                asked.step,
                f"is a {result.kind.name} of {result.count} rows of {result.width} with "
                f"{result.outputs} outputs, not a {asked.kind.name} of {asked.count} of {width} "
                f"with {asked.outputs}",
            )
        if not result.dtype & self._dtypes:
            raise self._misbehaved(
                asked.step, f"has {result.dtype.name} rows, which were not agreed on"
            )

    def _misbehaved(self, number: int, what: str) -> PeerMisbehaved:
        return PeerMisbehaved(
            f"the answer of {self.last_hop} to step {number} {what}", peer=self.last_hop
        )
