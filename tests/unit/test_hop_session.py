"""Sessions' order: on a hop, at the requester, and the two together over channels that repeat."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from credentials.keys import SecretKey, peer_id
from kwaai.errors import ContextExceeded, OutputForgotten, PeerMisbehaved
from kwaai.limits import OUTPUT_KEPT_OVERHEAD_BYTES, STEPS_UNDER_WAY_MAX
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.requester import HopPlan, RequesterSession, check_opened, plan_opens
from kwaai.wire.session import (
    TRANSITIONS,
    Event,
    HopSession,
    Ignore,
    Resend,
    Run,
    State,
)
from kwaai.wire.shard import Open, Opened, Privacy, encode, parse_control
from kwaai.wire.step import Step, StepKind, Timing, Tokens
from kwaai.wire.tensors import Dtype

R, A, B, C = [peer_id(SecretKey(bytes([n]) * 32).public) for n in range(1, 5)]
HANDLE = ModelHandle("sha256:" + "5a" * 32)
SESSION = b"0123456789abcdef"
WIDTH = 4
CONTEXT = 64
BATCH = 8


def path(*, fast: bool = False, keep_bytes: int = 1 << 20, dtypes: int = 3) -> tuple[Open, ...]:
    hops = [HopPlan(A, LayerRange(1, 4), ("a:1",)), HopPlan(B, LayerRange(4, 7), ("b:1",))]
    if fast:
        hops[1] = replace(hops[1], layers=LayerRange(4, 9))
    return plan_opens(
        SESSION,
        HANDLE,
        9,
        HopPlan(R, LayerRange(7, 9), ("r:1",)),
        hops,
        context_tokens=CONTEXT,
        sampling={"temperature": 0} if fast else None,
        keep_bytes=keep_bytes,
        dtypes=dtypes,
    )


def hop(index: int = 1, **options: Any) -> HopSession:
    return HopSession(path(**options)[index], R, width=WIDTH, batch_tokens=BATCH)


def step(number: int, position: int, count: int = 1, **fields: Any) -> Step:
    """A step as hop 1 gets it from A."""
    base = Step(
        session=SESSION,
        step=number,
        kind=StepKind.PREFILL,
        handle=HANDLE,
        layers=LayerRange(4, 7),
        position=position,
        count=count,
        outputs=0,
        dtype=Dtype.F32,
        rows=np.full((count, WIDTH), number, np.float32),
    )
    return replace(base, **fields)


def back(number: int, position: int) -> Step:
    return step(number, position, 0, kind=StepKind.ROLLBACK, rows=None)


def finish(session: HopSession, ran: Step) -> bool:
    return session.on_output(ran.step, session.forward(ran, ran.rows, Dtype.F32))


def run(session: HopSession, *steps: Step) -> None:
    for one in steps:
        assert session.on_step(A, one) == Run(one)
        assert finish(session, one)


# Opening.


def test_the_opens_of_a_path_name_one_another() -> None:
    first, last = path()
    assert (first.previous, first.next, last.previous, last.next) == (R, B, A, R)
    assert (first.next_layers, last.next_layers) == (LayerRange(4, 7), LayerRange(7, 9))
    assert (first.next_addresses, last.next_addresses) == (("b:1",), ("r:1",))
    for opened in (*path(), *path(fast=True)):
        assert parse_control(encode(opened)) == opened
    assert [opened.samples for opened in path(fast=True)] == [False, True]
    assert path(fast=True)[0].privacy is Privacy.FAST


def test_one_hop_has_the_requester_on_both_sides() -> None:
    (only,) = plan_opens(
        SESSION,
        HANDLE,
        9,
        HopPlan(R, LayerRange(7, 9)),
        [HopPlan(A, LayerRange(1, 7))],
        context_tokens=CONTEXT,
    )
    assert only.previous == only.next == R
    HopSession(only, R, width=WIDTH, batch_tokens=BATCH)


@pytest.mark.parametrize(
    "opened",
    [
        replace(path()[0], previous=C),
        replace(path()[1], next=C),
        replace(path()[1], previous=R),
        replace(path()[0], next=R),
    ],
)
def test_the_ends_of_a_path_are_the_requesters(opened: Open) -> None:
    with pytest.raises(PeerMisbehaved) as caught:
        HopSession(opened, R, width=WIDTH, batch_tokens=BATCH)
    assert caught.value.peer == R


@pytest.mark.parametrize(
    "fields", [{"hop": 0}, {"session": b"x" * 16}, {"dtype": Dtype.F16}], ids=str
)
def test_an_opened_answers_its_open(fields: dict[str, Any]) -> None:
    asked = path(dtypes=Dtype.F32)[1]
    good = Opened(SESSION, 1, Dtype.F32, 8, 0, 0, 0)
    check_opened(good, asked, B)
    with pytest.raises(PeerMisbehaved) as caught:
        check_opened(replace(good, **fields), asked, B)
    assert caught.value.peer == B


# A hop: what is accepted.


def test_steps_run_once_and_go_on() -> None:
    session = hop()
    assert session.state is State.OPEN
    first, second = step(0, 0, 5), step(1, 5, outputs=1, kind=StepKind.DECODE)
    assert session.on_step(A, first) == Run(first)
    assert session.on_step(A, second) == Run(second)
    assert (session.state, session.under_way, session.position) == (State.RUNNING, 2, 6)
    timing = Timing(1, 2, 3, 4)
    on = session.forward(first, np.zeros((5, WIDTH), np.float32), Dtype.F16, timing)
    assert (on.layers, on.timings, on.dtype) == (LayerRange(7, 9), (timing,), Dtype.F16)
    assert session.on_output(0, on)
    assert finish(session, second)
    assert (session.under_way, session.next_step) == (0, 2)


def test_a_repeat_is_answered_from_store_and_never_run() -> None:
    session = hop()
    one = step(0, 0, 2)
    assert session.on_step(A, one) == Run(one)
    assert session.on_step(A, one) == Ignore()
    output = session.forward(one, one.rows, Dtype.F32)
    assert session.on_output(0, output)
    answer = session.on_step(A, step(0, 0, 2))
    assert isinstance(answer, Resend)
    assert answer.output is output
    assert (session.position, session.next_step) == (2, 1)


def test_a_rollback_moves_back_and_is_repeated_like_any_step() -> None:
    session = hop()
    run(session, step(0, 0, 8), back(1, 3))
    assert session.position == 3
    assert isinstance(session.on_step(A, back(1, 3)), Resend)
    assert isinstance(session.on_step(A, step(0, 0, 8)), Resend)
    run(session, step(2, 3, 2), back(3, 5), back(4, 0))
    assert session.position == 0


def test_outputs_are_kept_within_their_bytes_oldest_dropped() -> None:
    cost = OUTPUT_KEPT_OVERHEAD_BYTES + 4 * WIDTH
    session = hop(keep_bytes=2 * cost)
    run(session, *(step(n, n) for n in range(5)))
    assert session.kept_bytes == 2 * cost
    assert isinstance(session.on_step(A, step(3, 3)), Resend)
    with pytest.raises(OutputForgotten, match="step 2"):
        session.on_step(A, step(2, 2))
    run(session, step(5, 5))


def test_a_hop_may_be_asked_to_keep_nothing() -> None:
    session = hop(keep_bytes=0)
    run(session, step(0, 0))
    assert session.kept_bytes == 0
    with pytest.raises(OutputForgotten):
        session.on_step(A, step(0, 0))


def test_the_last_hop_of_a_fast_path_answers_with_tokens() -> None:
    session = hop(fast=True)
    one = step(0, 0, 3, layers=LayerRange(4, 9), outputs=1)
    session.on_step(A, one)
    tokens = session.forward_tokens(one, [7], Timing(1, 0, 0, 0))
    assert tokens == Tokens(SESSION, 0, 0, (7,), (Timing(1, 0, 0, 0),))
    assert session.on_output(0, tokens)
    assert session.on_step(A, one) == Resend(tokens)
    with pytest.raises(ValueError, match="tokens"):
        session.forward(one, one.rows, Dtype.F32)


# A hop: what is refused.


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (step(2, 4), "step 1 is expected"),
        (step(1, 3), "position 3"),
        (step(1, 5), "position 5"),
        (step(1, 4, session=b"x" * 16), "another session"),
        (step(1, 4, handle=ModelHandle("sha256:" + "00" * 32)), "sha256:00"),
        (step(1, 4, layers=LayerRange(1, 4)), "layers"),
        (step(1, 4, BATCH + 1), "takes 8"),
        (step(1, 4, rows=np.ones((1, WIDTH + 1), np.float32)), "wide"),
        (step(1, 4, rows=np.ones((2, WIDTH), np.float32)), "wide"),
        (step(1, 4, rows=None), "wide"),
        (back(1, 5), "rolls back"),
        (back(7, 5), "rolls back"),
        (step(0, 0, 3), "sent before"),
        (step(0, 0, 4, outputs=1), "sent before"),
        (back(0, 0), "sent before"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_the_order_is_refused_and_changes_nothing(wrong: Step, why: str) -> None:
    session = hop()
    run(session, step(0, 0, 4))
    with pytest.raises(PeerMisbehaved, match=why) as caught:
        session.on_step(A, wrong)
    assert caught.value.peer == A
    assert A in caught.value.message
    assert (session.position, session.next_step, session.under_way) == (4, 1, 0)
    run(session, step(1, 4))


@pytest.mark.parametrize("sender", [R, B, C])
def test_only_the_previous_hop_sends_steps(sender: Any) -> None:
    session = hop()
    with pytest.raises(PeerMisbehaved) as caught:
        session.on_step(sender, step(0, 0))
    assert caught.value.peer == sender
    run(session, step(0, 0))


def test_a_session_keeps_to_its_context() -> None:
    session = hop()
    run(session, *(step(n, n * BATCH, BATCH) for n in range(CONTEXT // BATCH)))
    with pytest.raises(PeerMisbehaved, match="may use 64"):
        session.on_step(A, step(8, CONTEXT))


def test_a_type_that_was_not_agreed_on_is_refused() -> None:
    session = hop(dtypes=Dtype.F32)
    with pytest.raises(PeerMisbehaved, match="F16"):
        session.on_step(A, step(0, 0, dtype=Dtype.F16))


def test_steps_under_way_are_bounded() -> None:
    session = hop()
    for number in range(STEPS_UNDER_WAY_MAX):
        session.on_step(A, step(number, number))
    with pytest.raises(PeerMisbehaved, match="wait"):
        session.on_step(A, step(STEPS_UNDER_WAY_MAX, STEPS_UNDER_WAY_MAX))
    with pytest.raises(PeerMisbehaved, match="wait"):
        session.on_step(A, back(STEPS_UNDER_WAY_MAX, 0))
    assert session.under_way == STEPS_UNDER_WAY_MAX


# Cancelling and closing.


def test_a_cancelled_step_is_not_answered_and_a_rollback_goes_on() -> None:
    session = hop()
    run(session, step(0, 0, 4))
    one, two = step(1, 4), step(2, 5)
    session.on_step(A, one)
    session.on_step(A, two)
    assert session.on_cancel(R, 1) == (1, 2)
    assert session.on_cancel(R, 1) == ()
    assert session.on_step(A, step(3, 6)) == Ignore()
    assert session.on_step(A, two) == Ignore()
    with pytest.raises(PeerMisbehaved):
        session.on_step(A, back(4, 5))
    undo = back(4, 4)
    assert session.on_step(A, undo) == Run(undo)
    assert not finish(session, one)
    session.on_dropped(2)
    assert finish(session, undo)
    run(session, step(5, 4))
    assert session.under_way == 0


def test_a_rollback_may_skip_what_was_cancelled_before_it_came_this_far() -> None:
    session = hop()
    run(session, step(0, 0, 4), back(9, 4), step(10, 4))
    with pytest.raises(OutputForgotten):
        session.on_step(A, step(5, 4))


def test_a_cancel_that_comes_after_its_rollback_does_nothing() -> None:
    session = hop()
    run(session, step(0, 0, 4), step(1, 4), back(2, 4))
    assert session.on_cancel(R, 1) == ()
    run(session, step(3, 4))


def test_a_cancel_outlives_a_rollback_that_was_made_before_it() -> None:
    session = hop()
    run(session, step(0, 0, 4))
    assert session.on_cancel(R, 2) == ()
    run(session, back(1, 4))
    assert session.on_step(A, step(2, 4)) == Ignore()
    run(session, back(3, 4), step(4, 4))


def test_a_cancel_may_come_before_any_step() -> None:
    session = hop()
    assert session.on_cancel(R, 0) == ()
    assert session.state is State.OPEN
    assert session.on_step(A, step(0, 0)) == Ignore()
    run(session, back(1, 0), step(2, 0))


@pytest.mark.parametrize("sender", [A, B, C])
def test_only_the_requester_cancels_and_closes(sender: Any) -> None:
    session = hop()
    with pytest.raises(PeerMisbehaved):
        session.on_cancel(sender, 0)
    with pytest.raises(PeerMisbehaved):
        session.on_close(sender)
    run(session, step(0, 0))


def test_a_closed_session_keeps_nothing_and_ignores_what_comes() -> None:
    session = hop()
    run(session, step(0, 0))
    one = step(1, 1)
    session.on_step(A, one)
    session.on_close(R)
    session.close()
    assert (session.state, session.kept_bytes, session.under_way) == (State.CLOSED, 0, 0)
    assert not session.on_output(1, one)
    assert session.on_step(A, step(0, 0)) == Ignore()
    assert session.on_step(A, step(9, 9)) == Ignore()
    assert session.on_cancel(R, 0) == ()
    with pytest.raises(PeerMisbehaved):
        session.on_step(C, step(0, 0))


def test_outputs_come_in_the_order_of_their_steps() -> None:
    session = hop()
    with pytest.raises(ValueError, match="OPEN has no OUTPUT"):
        session.on_output(0, step(0, 0))
    for number in range(2):
        session.on_step(A, step(number, number))
    with pytest.raises(ValueError, match="step 0 is the oldest"):
        session.on_output(1, step(1, 1))
    session.on_dropped(0)  # not cancelled: still under way
    assert session.under_way == 2


def test_every_state_says_what_each_event_does() -> None:
    missing = {(s, e) for s in State for e in Event} - set(TRANSITIONS)
    assert missing == {(State.OPEN, Event.OUTPUT)}


# The requester.


def requester(*, fast: bool = False, vocab: int | None = 100, dtypes: int = 3) -> RequesterSession:
    return RequesterSession(
        path(fast=fast, dtypes=dtypes), B, width=WIDTH, batch_tokens=BATCH, vocab=vocab
    )


def ask(session: RequesterSession, *tokens: int, outputs: int = 0) -> Step:
    rows = np.full((len(tokens), WIDTH), 0.5, np.float32)
    return session.step(StepKind.PREFILL, tokens, rows, outputs=outputs, dtype=Dtype.F32)


def result(asked: Step, **fields: Any) -> Step:
    return replace(asked, layers=LayerRange(7, 9), **fields)


def test_the_requester_numbers_steps_and_keeps_their_tokens() -> None:
    session = requester()
    first, second = ask(session, 5, 6, 7), ask(session, 8, outputs=1)
    assert [(s.step, s.position, s.layers) for s in (first, second)] == [
        (0, 0, LayerRange(1, 4)),
        (1, 3, LayerRange(1, 4)),
    ]
    assert (session.tokens, session.under_way, session.oldest) == ([5, 6, 7, 8], 2, 0)
    assert session.repeat(0) is first
    good = result(first)
    assert session.on_result(B, good) is good
    assert session.on_result(B, good) is None
    with pytest.raises(ValueError, match="not under way"):
        session.repeat(0)
    undo = session.rollback(2)
    assert (undo.step, undo.position, session.tokens) == (2, 2, [5, 6])
    assert session.on_result(B, result(second)) is not None
    assert session.on_result(B, result(undo)) is not None
    assert session.under_way == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 1},
        {"step": 9},
        {"session": b"x" * 16},
        {"layers": LayerRange(4, 7)},
        {"handle": ModelHandle("sha256:" + "00" * 32)},
        {"kind": StepKind.VERIFY},
        {"position": 1},
        {"outputs": 2},
        {"count": 1, "rows": np.ones((1, WIDTH), np.float32)},
        {"rows": np.ones((2, WIDTH + 1), np.float32)},
        {"kind": StepKind.ROLLBACK, "count": 0, "outputs": 0, "rows": None},
        {"dtype": Dtype.F16},
    ],
    ids=str,
)
def test_an_answer_of_another_shape_is_refused(wrong: dict[str, Any]) -> None:
    session = requester(dtypes=Dtype.F32)
    asked = ask(session, 1, 2, outputs=1)
    ask(session, 3)
    with pytest.raises(PeerMisbehaved) as caught:
        session.on_result(B, replace(result(asked), **wrong))
    assert caught.value.peer == B
    assert B in caught.value.message
    assert session.on_result(B, result(asked)) is not None


def test_answers_come_in_the_order_of_their_steps() -> None:
    session = requester()
    first, second = ask(session, 1), ask(session, 2)
    with pytest.raises(PeerMisbehaved, match="before that to step 0"):
        session.on_result(B, result(second))
    assert session.on_result(B, result(first)) is not None
    assert session.on_result(B, result(second)) is not None


def test_answers_count_only_from_the_last_hop_and_in_its_mode() -> None:
    session, fast = requester(), requester(fast=True)
    asked = ask(session, 1, outputs=1)
    with pytest.raises(PeerMisbehaved, match="last hop"):
        session.on_result(A, result(asked))
    with pytest.raises(PeerMisbehaved, match="only this node"):
        session.on_result(B, Tokens(SESSION, 0, 0, (1,)))
    asked = ask(fast, 1, outputs=1)
    with pytest.raises(PeerMisbehaved, match="not what runs here"):
        fast.on_result(B, result(asked))


@pytest.mark.parametrize("tokens", [(), (1, 2), (100,)])
def test_tokens_are_one_for_each_output_and_of_the_vocabulary(tokens: tuple[int, ...]) -> None:
    session = requester(fast=True)
    ask(session, 1, 2, outputs=1)
    with pytest.raises(PeerMisbehaved):
        session.on_result(B, Tokens(SESSION, 0, 0, tokens))
    with pytest.raises(PeerMisbehaved):
        session.on_result(B, Tokens(SESSION, 0, 1, (99,)))
    assert session.on_result(B, Tokens(SESSION, 0, 0, (99,))) is not None


@pytest.mark.parametrize(
    "mistake",
    [
        lambda s: ask(s),
        lambda s: ask(s, *range(BATCH + 1)),
        lambda s: ask(s, 1, outputs=2),
        lambda s: s.rollback(1),
        lambda s: s.rollback(-1),
        lambda s: s.cancel(0),
        lambda s: s.step(
            StepKind.VERIFY, [1], np.ones((1, WIDTH), np.float32), outputs=0, dtype=Dtype.F32
        ),
        lambda s: s.step(
            StepKind.DECODE, [1], np.ones((1, 9), np.float32), outputs=1, dtype=Dtype.F32
        ),
    ],
)
def test_the_callers_own_mistakes_are_told(mistake: Callable[[RequesterSession], None]) -> None:
    with pytest.raises(ValueError, match=r"step|rollback|outputs"):
        mistake(requester())


def test_the_requester_keeps_to_the_context_and_to_the_bound_of_steps() -> None:
    session = requester()
    for _ in range(STEPS_UNDER_WAY_MAX - 1):
        assert session.can_send
        ask(session, 1)
    assert not session.can_send
    with pytest.raises(ValueError, match="too many"):
        ask(session, 1)
    session.rollback(0)
    with pytest.raises(ValueError, match="too many"):
        session.rollback(0)
    full = requester()
    for _ in range(CONTEXT // BATCH):
        ask(full, *range(BATCH))
    with pytest.raises(ContextExceeded, match="64"):
        ask(full, 1)


def test_what_was_cancelled_is_not_awaited_and_must_be_rolled_back() -> None:
    session = requester()
    first, second, third = ask(session, 1, 2), ask(session, 3), ask(session, 4)
    message = session.cancel(second.step)
    assert (message.from_step, session.position, session.tokens) == (1, 2, [1, 2])
    with pytest.raises(ValueError, match="rollback is due"):
        ask(session, 5)
    for cancelled in (second, third):
        with pytest.raises(ValueError, match="cannot be cancelled"):
            session.cancel(cancelled.step)
    undo = session.rollback(2)
    with pytest.raises(ValueError, match="cannot be cancelled"):
        session.cancel(first.step)
    assert session.on_result(B, result(first)) is not None
    assert session.on_result(B, result(second)) is None
    assert session.on_result(B, result(undo)) is not None
    assert session.on_result(B, result(third)) is None
    assert session.under_way == 0


# A hop against a naive model: a list of what was run, and nothing forgotten.


class HopMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.session = hop()
        self.ran: list[Step] = []
        self.position = 0
        self.done = 0
        self.closed = False

    @rule(count=st.integers(1, BATCH))
    def next_step(self, count: int) -> None:
        one = step(len(self.ran), self.position, count)
        if self.closed:
            assert self.session.on_step(A, one) == Ignore()
        elif self.position + count > CONTEXT or len(self.ran) - self.done >= STEPS_UNDER_WAY_MAX:
            with pytest.raises(PeerMisbehaved):
                self.session.on_step(A, one)
        else:
            assert self.session.on_step(A, one) == Run(one)
            self.ran.append(one)
            self.position += count

    @rule(position=st.integers(0, CONTEXT))
    @precondition(lambda self: not self.closed)
    def rollback(self, position: int) -> None:
        undo = back(len(self.ran), position)
        if position > self.position or len(self.ran) - self.done >= STEPS_UNDER_WAY_MAX:
            with pytest.raises(PeerMisbehaved):
                self.session.on_step(A, undo)
        else:
            assert self.session.on_step(A, undo) == Run(undo)
            self.ran.append(undo)
            self.position = position

    @rule(offset=st.integers(-9, 9), position=st.integers(0, CONTEXT))
    @precondition(lambda self: not self.closed)
    def any_step(self, offset: int, position: int) -> None:
        number = max(0, len(self.ran) + offset)
        if number == len(self.ran):
            return
        one = step(number, position)
        same = number < len(self.ran) and (one.kind, one.position, one.count) == (
            self.ran[number].kind,
            self.ran[number].position,
            self.ran[number].count,
        )
        if not same:
            with pytest.raises(PeerMisbehaved):
                self.session.on_step(A, one)

    @rule(data=st.data())
    @precondition(lambda self: self.ran and not self.closed)
    def repeat(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.ran) - 1))
        answer = self.session.on_step(A, self.ran[number])
        if number >= self.done:
            assert answer == Ignore()
        else:
            assert isinstance(answer, Resend)
            assert answer.output.step == number

    @rule()
    @precondition(lambda self: self.done < len(self.ran))
    def output(self) -> None:
        assert finish(self.session, self.ran[self.done]) is not self.closed
        self.done += 1

    @rule()
    @precondition(lambda self: len(self.ran) > 4)
    def close(self) -> None:
        self.session.on_close(R)
        self.closed = True

    @invariant()
    def agrees(self) -> None:
        if self.closed:
            assert (self.session.under_way, self.session.kept_bytes) == (0, 0)
            return
        assert self.session.position == self.position
        assert self.session.next_step == len(self.ran)
        assert self.session.under_way == len(self.ran) - self.done


HopMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHopAgainstModel = HopMachine.TestCase


# Requester and two hops together. Channels keep order (links do), workers take their time,
# anything may be sent twice, and cancels overtake steps. Each hop's KV is a list of tokens: at the
# end all of them must be the requester's tokens.


class Node:
    """A hop with a worker: a queue of steps, run one at a time at a moment of the seed's choice."""

    def __init__(self, index: int, previous: str) -> None:
        self.session = hop(index)
        self.previous = previous
        self.queue: deque[Step] = deque()
        self.kv: list[int] = []

    def receive(self, one: Step, send: Callable[[Step], None]) -> None:
        match self.session.on_step(self.previous, one):
            case Run(ran):
                self.queue.append(ran)
            case Resend(output):
                assert isinstance(output, Step)
                send(output)

    def work(self, send: Callable[[Step], None]) -> None:
        ran = self.queue.popleft()
        if ran.rows is None:
            assert ran.position <= len(self.kv)
            del self.kv[ran.position :]
        else:
            assert ran.position == len(self.kv), "a step ran twice, or not at all"
            self.kv.extend(int(value) for value in ran.rows[:, 0])
        output = self.session.forward(ran, ran.rows, Dtype.F32)
        if self.session.on_output(ran.step, output):
            send(output)


class Swarm:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.home = requester()
        self.nodes = [Node(0, R), Node(1, A)]
        self.channels: list[deque[Step]] = [deque(), deque(), deque()]
        self.cancels: list[deque[int]] = [deque(), deque()]
        self.answered: list[int] = []

    def send(self, channel: int, message: Step) -> None:
        self.channels[channel].append(message)

    def deliver(self, channel: int) -> None:
        if not self.channels[channel]:
            return
        message = self.channels[channel].popleft()
        if channel < 2:
            self.nodes[channel].receive(message, lambda out: self.send(channel + 1, out))
        elif self.home.on_result(B, message) is not None:
            self.answered.append(message.step)

    def work(self, index: int) -> None:
        if self.nodes[index].queue:
            self.nodes[index].work(lambda out: self.send(index + 1, out))

    def cancel(self, index: int) -> None:
        """Deliver a cancel; take what it names out of the worker's queue, or leave it there."""
        if not self.cancels[index]:
            return
        node = self.nodes[index]
        for number in node.session.on_cancel(R, self.cancels[index].popleft()):
            queued = [one for one in node.queue if one.step == number]
            if queued and self.rng.random() < 0.5:
                # From the back only: what is before a dropped step has run or still runs.
                tail = node.queue[-1].step == number
                if tail:
                    node.queue.pop()
                    node.session.on_dropped(number)

    def act(self) -> None:
        home, rng = self.home, self.rng
        match rng.randrange(12):
            case 0 | 1 | 2 if home.can_send and home.position < CONTEXT - BATCH:
                tokens = [rng.randrange(100) for _ in range(rng.randint(1, BATCH))]
                rows = np.array([[token] * WIDTH for token in tokens], np.float32)
                self.send(0, home.step(StepKind.PREFILL, tokens, rows, outputs=1, dtype=Dtype.F32))
            case 3 if home.under_way < STEPS_UNDER_WAY_MAX:
                self.send(0, home.rollback(rng.randint(0, home.position)))
            case 4 if home.under_way and home.oldest is not None:
                self.send(0, home.repeat(home.oldest))
            case 5 if home.oldest is not None and rng.random() < 0.5:
                try:
                    message = home.cancel(rng.randrange(home.oldest, home.next_step))
                except ValueError:
                    return  # one that lies before a rollback
                for channel in self.cancels:
                    channel.append(message.from_step)
                self.send(0, home.rollback(home.position))
            case 6 | 7:
                self.deliver(rng.randrange(3))
            case 8 | 9:
                self.work(rng.randrange(2))
            case 10:
                self.cancel(rng.randrange(2))
            case _:
                self.deliver(rng.randrange(3))

    def settle(self) -> None:
        while any(self.channels) or any(node.queue for node in self.nodes) or any(self.cancels):
            for index in range(2):
                self.cancel(index)
                self.work(index)
            for channel in range(3):
                self.deliver(channel)


@pytest.mark.parametrize("seed", range(40))
def test_every_hop_ends_with_the_requesters_tokens(seed: int) -> None:
    swarm = Swarm(random.Random(seed))
    for _ in range(400):
        swarm.act()
    swarm.settle()
    assert swarm.home.under_way == 0, f"seed {seed}"
    assert swarm.answered == sorted(set(swarm.answered)), f"seed {seed}"
    for node in swarm.nodes:
        assert node.kv == swarm.home.tokens, f"seed {seed}"
        assert node.session.position == swarm.home.position, f"seed {seed}"


@given(st.integers(0, 2**32))
def test_every_hop_ends_with_the_requesters_tokens_for_any_seed(seed: int) -> None:
    test_every_hop_ends_with_the_requesters_tokens(seed)
