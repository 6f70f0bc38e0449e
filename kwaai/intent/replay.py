"""Which intents have been seen: each is good once for each use.

Pure: no clock. An intent is acted upon only when it comes from the requester that signed it, so all
that a replay can be is that requester's own; what is forgotten under pressure lets nobody else in.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeAlias

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import Busy
from kwaai.intent.intent import Intent
from kwaai.intent.signed import IntentInvalid

Use: TypeAlias = Literal["cast", "open"]
"""What an intent is shown for: to ask for offers, or to open a session. Each once."""


class ReplayGuard:
    """Remembers nonces until their intents expire. Bounded in all and for each requester."""

    def __init__(
        self,
        per_requester_max: int = limits.INTENT_NONCES_PER_REQUESTER_MAX,
        nonces_max: int = limits.INTENT_NONCES_MAX,
    ) -> None:
        self._per_requester_max, self._nonces_max = per_requester_max, nonces_max
        self._seen: OrderedDict[PeerId, dict[tuple[Use, bytes], float]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """How many nonces are remembered."""
        return self._count

    def take(self, intent: Intent, use: Use, now_s: float) -> None:
        """Note that a verified intent is used. Raises IntentInvalid where it was before, Busy where
        its requester has too many that have not expired.
        """
        key = use, intent.nonce
        seen = self._seen.setdefault(intent.requester, {})
        self._seen.move_to_end(intent.requester)
        if seen.get(key, 0.0) > now_s:
            raise IntentInvalid(
                f"an intent of {intent.requester} was shown before; each is good once",
                "replay",
                peer=intent.requester,
            )
        if len(seen) >= self._per_requester_max:
            self._forget_expired(seen, now_s)
        if len(seen) >= self._per_requester_max:
            raise Busy(
                "you have shown too many intents that still hold: wait",
                retry_after_s=max(1.0, min(seen.values()) - now_s),
            )
        self._count += key not in seen
        seen[key] = intent.expires_s
        while self._count > self._nonces_max:
            _, dropped = self._seen.popitem(last=False)
            self._count -= len(dropped)

    def _forget_expired(self, seen: dict[tuple[Use, bytes], float], now_s: float) -> None:
        for key in [key for key, expires_s in seen.items() if expires_s <= now_s]:
            del seen[key]
            self._count -= 1
