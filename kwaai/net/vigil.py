"""The clock of one link: handshake deadline, pings, silence, measurements, the age of keys.

One timer a link, which sleeps until the next thing is due. Does not seal or send: the link does.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from kwaai import limits
from kwaai.errors import PeerLost, PeerStalled
from kwaai.net.meter import Meter
from kwaai.wire import frames
from kwaai.wire.frames import Reason

_LATE_S = 1.0  # a timer that is later than this says that this process itself stood still
_PROBES_AT_FIRST = 3
_PINGS_AT_FIRST = 2  # beside the one that opens


class Watched(Protocol):
    """What a vigil needs of its link."""

    received_s: float
    """When the last good record came."""

    @property
    def name(self) -> str: ...
    @property
    def channel_count(self) -> int: ...
    @property
    def is_idle_now(self) -> bool:
        """Whether nothing waits to be sent, so that a measurement would say something."""

    def write_record(self, record: bytes) -> None: ...
    def check_keys(self, now_s: float) -> None: ...
    def end(self, error: PeerLost | PeerStalled, reason: Reason | None = None) -> None: ...


class Vigil:
    """Watches one link."""

    def __init__(self, link: Watched, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._loop = loop
        self.meter = Meter()
        self._is_open = False
        self._grace_s = 0.0  # silence counts from here, or from the last record
        self._ping_due_s = 0.0
        self._probed_s = 0.0
        self._probes_left, self._pings_left = _PROBES_AT_FIRST, _PINGS_AT_FIRST
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def connected(self) -> None:
        """Give the handshake its deadline."""
        self._arm(self._loop.time() + limits.LINK_HANDSHAKE_TIMEOUT_S)

    def opened(self) -> None:
        """Begin to ping."""
        now_s = self._loop.time()
        self._is_open = True
        self._link.received_s = self._grace_s = self._probed_s = now_s
        self._ping(now_s)
        self._rearm()

    def busy(self) -> None:
        """Take note that the first channel was opened: silence is noticed sooner from now on."""
        if self._is_open:
            now_s = self._loop.time()
            self._grace_s = now_s
            self._ping_due_s = min(self._ping_due_s, now_s + limits.LINK_PING_S)
            self._rearm()

    def doubt(self) -> None:
        """Ping now, and end the link unless something comes soon."""
        now_s = self._loop.time()
        self._ping(now_s)
        self._grace_s = min(self._grace_s, now_s - self._silence_s + limits.LINK_DOUBT_S)
        self._link.received_s = min(self._link.received_s, self._grace_s)
        self._rearm()

    def ended(self) -> None:
        """Watch no more."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ponged(self, token: bytes) -> None:
        """Take a pong, and measure the bandwidth with the next ping if that is due."""
        self.meter.answered(token, self._link.received_s)
        if self._pings_left:  # one round trip says little, at the start of all
            self._pings_left -= 1
            self._ping(self._loop.time())
            self._rearm()
        elif self._probes_left and self._link.is_idle_now:
            self._probes_left -= 1
            self._probe()

    @property
    def _silence_s(self) -> float:
        return limits.LINK_SILENCE_S if self._link.channel_count else limits.LINK_SILENCE_IDLE_S

    @property
    def _lost_s(self) -> float:
        """When the peer is lost if nothing comes."""
        return max(self._link.received_s, self._grace_s) + self._silence_s

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._tick)

    def _rearm(self) -> None:
        self._arm(min(self._ping_due_s, self._lost_s))

    def _tick(self) -> None:
        self._timer = None
        if not self._is_open:
            seconds = limits.LINK_HANDSHAKE_TIMEOUT_S
            name = self._link.name
            self._link.end(PeerStalled(f"{name} did not finish the handshake within {seconds:g} s"))
            return
        now_s = self._loop.time()
        if now_s - self._due_s > _LATE_S:
            # What the peer sent meanwhile may still wait in the socket.
            self._grace_s = max(self._grace_s, now_s - self._silence_s + limits.LINK_DOUBT_S)
        if now_s >= self._lost_s:
            silent = f"{self._link.name} has sent nothing for {now_s - self._link.received_s:.1f} s"
            self._link.end(PeerLost(silent), Reason.SILENT)
            return
        self._link.check_keys(now_s)
        if self._is_open and now_s >= self._ping_due_s:
            if self._link.channel_count and now_s - self._probed_s >= limits.LINK_PROBE_EVERY_S:
                self._probed_s = now_s
                self._probes_left = 1
            self._ping(now_s)
        if self._is_open:
            self._rearm()

    def _ping(self, now_s: float) -> None:
        is_busy = self._link.channel_count > 0
        self._ping_due_s = now_s + (limits.LINK_PING_S if is_busy else limits.LINK_PING_IDLE_S)
        token = os.urandom(8)
        self.meter.sent(token, now_s)
        self._link.write_record(frames.encode_ping(token))

    def _probe(self) -> None:
        is_far = (self.meter.rtt_s or 0.0) > limits.LINK_PROBE_FAR_S
        left = padding = limits.LINK_PROBE_FAR_BYTES if is_far else limits.LINK_PROBE_BYTES
        token = os.urandom(8)
        self.meter.sent(token, self._loop.time(), padding)
        while left:
            size = min(left, limits.LINK_FRAGMENT_BYTES_MAX)
            self._link.write_record(frames.encode_padding(size))
            left -= size
        self._link.write_record(frames.encode_ping(token))
