"""Challenges of a verifier: each is good for one presentation, within its time.

Draws no randomness and knows no clock: both come from the caller. Not for several threads at once:
the caller has a lock. VC Data Integrity 1.0 section 2.1, `challenge`.
"""

from __future__ import annotations

from credentials.errors import ChallengeWrong
from credentials.limits import (
    CHALLENGE_CHARS_MAX,
    CHALLENGE_CHARS_MIN,
    CHALLENGE_TTL_S,
    CHALLENGES_MAX,
)


class ChallengeBook:
    """The challenges that were given out and not used: bounded, single use, with an end."""

    def __init__(
        self, *, ttl_s: float = CHALLENGE_TTL_S, entries_max: int = CHALLENGES_MAX
    ) -> None:
        self._ttl_s = ttl_s
        self._entries_max = entries_max
        self._given_s: dict[str, float] = {}  # oldest first

    def issue(self, challenge: str, now_s: float) -> None:
        """Note a challenge that is given out now. When the book is full the oldest is forgotten.

        Raises ChallengeWrong for one that is too short to be random, too long, or out already.
        """
        if not CHALLENGE_CHARS_MIN <= len(challenge) <= CHALLENGE_CHARS_MAX:
            raise ChallengeWrong(
                f"a challenge has {CHALLENGE_CHARS_MIN} to {CHALLENGE_CHARS_MAX} random characters"
            )
        self._forget(now_s)
        if challenge in self._given_s:
            raise ChallengeWrong("this challenge is given out already")
        if len(self._given_s) >= self._entries_max:
            del self._given_s[next(iter(self._given_s))]
        self._given_s[challenge] = now_s

    def consume(self, challenge: str | None, now_s: float) -> None:
        """Use a challenge up. Raises ChallengeWrong if it was not given out, is used or too old."""
        self._forget(now_s)
        if challenge is None or self._given_s.pop(challenge, None) is None:
            raise ChallengeWrong(
                "the challenge is not one of this verifier's, was used before, or is older than "
                f"{self._ttl_s:.0f} s; ask for a new one"
            )

    def __len__(self) -> int:
        return len(self._given_s)

    def __contains__(self, challenge: str) -> bool:
        return challenge in self._given_s

    def _forget(self, now_s: float) -> None:
        """Drop what is too old. A clock that was set back does not keep challenges for longer."""
        while self._given_s:
            oldest = next(iter(self._given_s))
            if 0 <= now_s - self._given_s[oldest] < self._ttl_s:
                return
            del self._given_s[oldest]
