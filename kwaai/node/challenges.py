"""The challenges that this node gives out: each answers one presentation, in its time.

A challenge carries a tag of this node's key. So one of ours that is used, forgotten or of an
earlier run is known as ours, and refused, however many were given out since.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import threading
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from credentials.challenges import ChallengeBook
from credentials.keys import SecretKey

_NONCE_BYTES: Final = 18
_TAG_BYTES: Final = 12
_PURPOSE: Final = b"kwaai-challenge"


class Challenges:
    """One node's challenges. May be used from several threads."""

    def __init__(self, secret: SecretKey, clock: Callable[[], float]) -> None:
        self._key = blake2b(b"", key=secret.expose_seed(), person=_PURPOSE).digest()
        self._clock = clock
        self._book = ChallengeBook()
        self._lock = threading.Lock()

    def new(self) -> str:
        """Return a fresh challenge, 40 characters."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        challenge = base64.urlsafe_b64encode(nonce + self._tag(nonce)).decode("ascii")
        with self._lock:
            self._book.issue(challenge, self._clock())
        return challenge

    def use(self, challenge: str | None) -> None:
        """Use a challenge up, if it is one of ours: one of the caller's own is the caller's care.

        Raises ChallengeWrong for one of ours that is used, too old, or of an earlier run.
        """
        if challenge is not None and self._is_ours(challenge):
            with self._lock:
                self._book.consume(challenge, self._clock())

    def _is_ours(self, challenge: str) -> bool:
        try:
            raw = base64.urlsafe_b64decode(challenge)
        except (ValueError, binascii.Error):
            return False
        nonce, tag = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
        return hmac.compare_digest(tag, self._tag(nonce))

    def _tag(self, nonce: bytes) -> bytes:
        return blake2b(nonce, key=self._key, digest_size=_TAG_BYTES).digest()
