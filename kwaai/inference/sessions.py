"""Which session owns which KV sequence of a slice, and what it may do next. Pure; no llama.cpp.

Everything that a request says about ranges, positions and shapes is checked here, before ggml sees
it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kwaai.errors import Busy, ContextExceeded, UserError

SESSION_ID_MAX = 2**64 - 1


class UnknownSession(UserError):
    """The session was never opened here, was closed, or expired: open it and prefill again."""

    code, http_status = "session_unknown", 409


class BadPosition(UserError):
    """A step does not continue where the session stands."""

    code, http_status = "position_invalid", 409


@dataclass(slots=True)
class Session:
    """One KV sequence. `position` is the next position to be written; `used_s` a monotonic time."""

    sequence: int
    position: int
    used_s: float


class SessionTable:
    """Sessions of one worker: opened, advanced, rolled back, closed, expired."""

    def __init__(self, *, sessions: int, context_tokens: int, idle_s: float) -> None:
        self._free = list(range(sessions - 1, -1, -1))
        self._open: dict[int, Session] = {}
        self._context_tokens, self._idle_s = context_tokens, idle_s

    def __len__(self) -> int:
        return len(self._open)

    def open(self, session: int, now_s: float) -> int:
        """Give `session` a sequence of its own and return it. Raises Busy, or UserError for a bad
        id.
        """
        if not 0 <= session <= SESSION_ID_MAX:
            raise UserError(f"a session id is between 0 and 2^64-1, got {session}", param="session")
        if session in self._open:
            raise UserError(f"session {session} is open already", param="session")
        if not self._free:
            raise Busy("every session of this slice is taken; try again later", retry_after_s=1.0)
        sequence = self._free.pop()
        self._open[session] = Session(sequence, 0, now_s)
        return sequence

    def check_step(self, session: int, position: int, count: int) -> Session:
        """Return the session if `count` tokens may be appended at `position`; change nothing.

        Raises UnknownSession, BadPosition or ContextExceeded.
        """
        entry = self._get(session)
        if count < 1:
            raise UserError("a step needs at least one token", param="count")
        if position != entry.position:
            raise BadPosition(
                f"session {session} stands at position {entry.position}, the step starts at "
                f"{position}",
                param="position",
            )
        if position + count > self._context_tokens:
            raise ContextExceeded(
                f"{position + count} tokens do not fit the context of {self._context_tokens}; "
                "shorten the prompt or raise context_tokens"
            )
        return entry

    def advance(self, session: int, count: int, now_s: float) -> None:
        """Record that `count` tokens have been appended."""
        entry = self._get(session)
        entry.position += count
        entry.used_s = now_s

    def rollback(self, session: int, position: int, now_s: float) -> int:
        """Forget positions from `position` on; return the sequence. Raises BadPosition."""
        entry = self._get(session)
        if not 0 <= position <= entry.position:
            raise BadPosition(
                f"session {session} stands at position {entry.position}, cannot roll back to "
                f"{position}",
                param="position",
            )
        entry.position, entry.used_s = position, now_s
        return entry.sequence

    def close(self, session: int) -> int:
        """Give the sequence back and return it, to be cleared. Raises UnknownSession."""
        sequence = self._get(session).sequence
        del self._open[session]
        self._free.append(sequence)
        return sequence

    def expire(self, now_s: float) -> dict[int, int]:
        """Close sessions idle for too long; return each with its sequence, to be cleared."""
        old = [s for s, entry in self._open.items() if now_s - entry.used_s > self._idle_s]
        return {session: self.close(session) for session in old}

    def _get(self, session: int) -> Session:
        try:
            return self._open[session]
        except KeyError:
            raise UnknownSession(
                f"session {session} is not open here: it expired, was closed, or the slice "
                "restarted",
                param="session",
            ) from None
