"""Which requests of a channel were seen already: a window of counters for each signer.

A link delivers in order and once; what is refused here is a caller who sends somebody's request
again. Bounded: what was used longest ago is forgotten. docs/protocol/storage.md.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from kwaai import limits
from kwaai.errors import StorageRefused

_WINDOW = limits.STORAGE_COUNTER_WINDOW
_ALL = (1 << _WINDOW) - 1


@dataclass(slots=True)
class _Window:
    highest: int = -1
    seen: int = 0
    """Bit n: whether `highest - n` was."""


class Replays:
    """The counters of all channels. Belongs to one event loop."""

    def __init__(
        self,
        channels_max: int = limits.STORAGE_CHANNELS_MAX,
        signers_max: int = limits.STORAGE_SIGNERS_MAX,
    ) -> None:
        self._channels_max, self._signers_max = channels_max, signers_max
        self._channels: OrderedDict[tuple[str, bytes], OrderedDict[bytes, _Window]] = OrderedDict()

    def take(self, peer: str, nonce: bytes, signer: bytes, counter: int) -> None:
        """Take a counter of a signer on the channel that `peer` has with this `nonce`. Raises
        StorageRefused where it was taken before, or is far below the highest.
        """
        signers = self._channels.setdefault((peer, nonce), OrderedDict())
        self._channels.move_to_end((peer, nonce))
        if len(self._channels) > self._channels_max:
            self._channels.popitem(last=False)
        window = signers.setdefault(signer, _Window())
        signers.move_to_end(signer)
        if len(signers) > self._signers_max:
            signers.popitem(last=False)
        behind = window.highest - counter
        if behind >= _WINDOW or (behind >= 0 and window.seen >> behind & 1):
            raise StorageRefused("a request with this counter has come already")
        if behind < 0:
            shift = min(-behind, _WINDOW)
            window.seen = ((window.seen << shift) | 1) & _ALL
            window.highest = counter
        else:
            window.seen |= 1 << behind
