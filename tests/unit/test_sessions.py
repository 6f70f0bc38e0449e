"""The table of sessions against a model of it that is a plain dictionary."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kwaai.errors import Busy, ContextExceeded, KwaaiError, UserError, error_from_code
from kwaai.inference.sessions import SESSION_ID_MAX, BadPosition, SessionTable, UnknownSession

SESSIONS, CONTEXT, IDLE_S = 3, 16, 10.0
IDS = st.integers(0, 5)


class Table(RuleBasedStateMachine):
    """`open` is what should be: session -> [sequence, position, last use]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SessionTable(sessions=SESSIONS, context_tokens=CONTEXT, idle_s=IDLE_S)
        self.open: dict[int, tuple[int, int, float]] = {}
        self.now_s = 0.0

    @rule(session=IDS)
    def open_session(self, session: int) -> None:
        if session in self.open:
            with pytest.raises(UserError, match="open already"):
                self.table.open(session, self.now_s)
        elif len(self.open) == SESSIONS:
            with pytest.raises(Busy):
                self.table.open(session, self.now_s)
        else:
            sequence = self.table.open(session, self.now_s)
            assert sequence in range(SESSIONS)
            assert sequence not in {taken for taken, _, _ in self.open.values()}
            self.open[session] = (sequence, 0, self.now_s)

    @rule(session=IDS, position=st.integers(-1, CONTEXT + 1), count=st.integers(-1, CONTEXT + 2))
    def step(self, session: int, position: int, count: int) -> None:
        self._step(session, position, count)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.integers(0, CONTEXT + 1))
    def step_on(self, data: st.DataObject, count: int) -> None:
        session = data.draw(st.sampled_from(sorted(self.open)))
        self._step(session, self.open[session][1], count)

    def _step(self, session: int, position: int, count: int) -> None:
        if session not in self.open:
            with pytest.raises(UnknownSession):
                self.table.check_step(session, position, count)
            return
        sequence, at, _ = self.open[session]
        if count < 1 or position != at or position + count > CONTEXT:
            with pytest.raises((UserError, BadPosition, ContextExceeded)):
                self.table.check_step(session, position, count)
            return
        assert self.table.check_step(session, position, count).sequence == sequence
        assert self.table.check_step(session, position, count).position == at  # it changed nothing
        self.table.advance(session, count, self.now_s)
        self.open[session] = (sequence, at + count, self.now_s)

    @rule(session=IDS, position=st.integers(-1, CONTEXT + 1))
    def rollback(self, session: int, position: int) -> None:
        if session not in self.open:
            with pytest.raises(UnknownSession):
                self.table.rollback(session, position, self.now_s)
            return
        sequence, at, _ = self.open[session]
        if not 0 <= position <= at:
            with pytest.raises(BadPosition):
                self.table.rollback(session, position, self.now_s)
            return
        assert self.table.rollback(session, position, self.now_s) == sequence
        self.open[session] = (sequence, position, self.now_s)

    @rule(session=IDS)
    def close(self, session: int) -> None:
        if session not in self.open:
            with pytest.raises(UnknownSession):
                self.table.close(session)
        else:
            assert self.table.close(session) == self.open.pop(session)[0]

    @rule(seconds=st.floats(0, 2 * IDLE_S))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def expire(self) -> None:
        old = {s for s, (_, _, used_s) in self.open.items() if self.now_s - used_s > IDLE_S}
        assert self.table.expire(self.now_s) == {s: self.open.pop(s)[0] for s in old}

    @invariant()
    def as_many_as_expected(self) -> None:
        assert len(self.table) == len(self.open)


TestTable = Table.TestCase


@pytest.mark.parametrize("session", [-1, SESSION_ID_MAX + 1])
def test_ids_have_64_bits(session: int) -> None:
    table = SessionTable(sessions=1, context_tokens=8, idle_s=1.0)
    with pytest.raises(UserError, match="between 0 and"):
        table.open(session, 0.0)
    table.open(SESSION_ID_MAX, 0.0)
    assert len(table) == 1


def test_refusals_name_what_stands_where() -> None:
    table = SessionTable(sessions=1, context_tokens=8, idle_s=1.0)
    table.open(7, 0.0)
    table.check_step(7, 0, 3)
    table.advance(7, 3, 0.0)
    with pytest.raises(BadPosition, match=r"session 7 stands at position 3, the step starts at 0"):
        table.check_step(7, 0, 1)
    with pytest.raises(ContextExceeded, match="9 tokens do not fit the context of 8"):
        table.check_step(7, 3, 6)
    table.check_step(7, 3, 5)  # to the very end


@pytest.mark.parametrize("kind", [UnknownSession, BadPosition, Busy, ContextExceeded])
def test_errors_survive_the_trip_from_a_worker(kind: type[KwaaiError]) -> None:
    assert type(error_from_code(kind.code, "why", "session")) is kind
