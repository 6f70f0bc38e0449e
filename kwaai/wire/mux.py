"""Many channels over one link: messages in pieces, credit, whose turn it is. Without I/O.

Takes and gives the plaintext of records; does not seal, read a clock or wait. Whoever owns the
socket calls `next_record` while it takes more, and `receive` with what it opened. The rules are in
docs/protocol/link.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from kwaai import limits
from kwaai.wire import frames
from kwaai.wire.channels import (
    ChannelState,
    Event,
    Goodbye,
    KeyUpdated,
    Message,
    Outgoing,
    Part,
    Ponged,
    Ready,
    Refused,
)
from kwaai.wire.codec import WireError
from kwaai.wire.frames import CHANNEL_BYTES, CONTROL

_CHARGE = limits.LINK_MESSAGE_CHARGE_BYTES
_ROOM = limits.LINK_RECORD_BYTES_MAX
_FRAGMENT_MAX = limits.LINK_FRAGMENT_BYTES_MAX
_OVERHEAD = frames.DATA_OVERHEAD_BYTES


class Mux:
    """One end of a link."""

    def __init__(self) -> None:
        self._channels: dict[bytes, ChannelState] = {}
        self._express: deque[ChannelState] = deque()
        self._bulk: deque[ChannelState] = deque()
        self._express_turns = 0
        self._answers: deque[bytes] = deque()
        self._told: dict[bytes, None] = {}
        self.finished: list[Outgoing] = []
        """Messages whose last piece went into a record; the owner empties it."""
        self.dropped_pieces = 0
        """Pieces for channels that are not open."""
        self.control = self.open(CONTROL, None, limits.LINK_CONTROL_WINDOW_BYTES)

    # Channels.

    def open(
        self, channel: bytes, owner: object, window: int = limits.LINK_WINDOW_BYTES
    ) -> ChannelState:
        """Take messages for a channel from now on. An id is used once in a link's life."""
        if len(channel) != CHANNEL_BYTES or channel in self._channels:
            raise ValueError("a channel's id has 16 bytes, and is opened once")
        state = self._channels[channel] = ChannelState(channel, window, owner)
        return state

    def close(self, state: ChannelState) -> list[Outgoing]:
        """Forget a channel; return the messages that will not be sent."""
        if not state.is_open:
            return []
        state.is_open = False
        del self._channels[state.id]
        state.partial, state.partial_bytes = [], 0
        return self.abandon(state)

    def abandon(self, state: ChannelState) -> list[Outgoing]:
        """Send nothing more of what waits on a channel; return it."""
        waiting = list(state.queue)
        if waiting and waiting[0].started:
            self.answer(frames.encode_abort(state.id))
        state.queue.clear()
        return waiting

    def end(self) -> list[Outgoing]:
        """Return all that waits, and send nothing more."""
        waiting = [outgoing for state in self._channels.values() for outgoing in state.queue]
        for state in self._channels.values():
            state.queue.clear()
            state.partial = []
        self._answers.clear()
        return waiting

    @property
    def channel_count(self) -> int:
        """Channels that the upper layer has opened."""
        return len(self._channels) - 1

    # Sending.

    @property
    def has_output(self) -> bool:
        """Whether `next_record` has something to give."""
        return bool(self._answers or self._express or self._bulk)

    def whole_record(self, state: ChannelState, parts: Sequence[Part], nbytes: int) -> bytes | None:
        """Return the record of a message that may go at once, or None when it must be queued."""
        charge = nbytes + _CHARGE
        if (
            charge > state.credit
            or nbytes > _FRAGMENT_MAX
            or state.queue
            or state.is_refused
            or not state.is_open
            or self._express
            or self._bulk
            or self._answers
        ):
            return None
        state.credit -= charge
        return b"".join((frames.data_head(frames.WHOLE, state.id, nbytes), *parts))

    def queue(self, state: ChannelState, parts: Sequence[Part], nbytes: int) -> Outgoing | None:
        """Put a message behind the channel's others; None when too many wait there."""
        if len(state.queue) >= limits.LINK_SENDS_WAITING_MAX:
            return None
        outgoing = Outgoing(state, parts, nbytes)
        state.queue.append(outgoing)
        self._schedule(state)
        return outgoing

    def cancel(self, outgoing: Outgoing) -> None:
        """Take a message back. What the peer has of it is forgotten there."""
        state = outgoing.channel
        if outgoing not in state.queue:
            return
        if outgoing.started:
            self.answer(frames.encode_abort(state.id))
        state.queue.remove(outgoing)
        self._schedule(state)

    def answer(self, frame: bytes) -> None:
        """Send a small frame before any message. Raises WireError when the peer reads none."""
        if len(self._answers) >= limits.LINK_ANSWERS_MAX:
            raise WireError("it asks for more answers than it reads")
        self._answers.append(frame)

    def grant(self, state: ChannelState, nbytes: int, messages: int = 1) -> bool:
        """Give credit back for consumed messages; whether a frame waits to be sent."""
        if not state.is_open:
            return False
        granted = state.consumed(nbytes, messages)
        if granted:
            self.answer(frames.encode_credit(state.id, granted))
        return bool(granted)

    def _schedule(self, state: ChannelState) -> None:
        """Give a channel a place in a ring when its first message can go on."""
        if state.is_scheduled or not state.queue:
            return
        first = state.queue[0]
        needed = first.left  # a control message is never cut
        if state is not self.control:
            needed = min(needed, limits.LINK_FRAGMENT_BYTES_MIN)
        if not first.started:
            needed += _CHARGE
        if state.credit >= needed:
            state.is_scheduled = True
            self._ring(state).append(state)

    def _ring(self, state: ChannelState) -> deque[ChannelState]:
        is_small = state.queue[0].left <= limits.LINK_EXPRESS_BYTES_MAX
        return self._express if is_small or state is self.control else self._bulk

    def _next_channel(self) -> ChannelState | None:
        """Return whose turn it is: small messages first, longer ones never starve."""
        if self._bulk and (
            not self._express or self._express_turns >= limits.LINK_EXPRESS_TURNS_MAX
        ):
            self._express_turns = 0
            state = self._bulk.popleft()
        elif self._express:
            self._express_turns += 1
            state = self._express.popleft()
        else:
            return None
        state.is_scheduled = False
        return state

    def next_record(self) -> bytes:
        """Return the plaintext of the next record, b"" when there is nothing to send."""
        parts: list[Part] = []
        size = 0
        while self._answers and len(parts) < limits.LINK_FRAMES_MAX // 2 and size < _ROOM // 2:
            parts.append(self._answers.popleft())
            size += len(parts[-1])
        frame_count = len(parts)
        while frame_count < limits.LINK_FRAMES_MAX:
            room = _ROOM - size - frames.DATA_OVERHEAD_BYTES
            if room <= limits.LINK_FRAGMENT_BYTES_MIN:
                break
            state = self._next_channel()
            if state is None:
                break
            if not state.queue:  # its messages were cancelled
                continue
            if frame_count and min(state.queue[0].left, limits.LINK_FRAGMENT_BYTES_MAX) > room:
                self._put_back(state)  # whole in the next record rather than cut for this one
                break
            taken = self._take_fragment(state, min(room, limits.LINK_FRAGMENT_BYTES_MAX))
            self._schedule(state)
            if taken:
                size += sum(map(len, taken))
                parts += taken
                frame_count += 1
        return b"".join(parts)

    def _put_back(self, state: ChannelState) -> None:
        """Return the turn that a channel could not use."""
        self._ring(state).appendleft(state)
        state.is_scheduled = True

    def _take_fragment(self, state: ChannelState, room: int) -> list[Part]:
        """Return a frame with the next piece of a channel's first message, [] without credit."""
        outgoing = state.queue[0]
        charge = 0 if outgoing.started else _CHARGE
        nbytes = min(outgoing.left, room, state.credit - charge)
        if nbytes < min(outgoing.left, limits.LINK_FRAGMENT_BYTES_MIN):
            return []
        kind = frames.DATA
        if not outgoing.started:
            kind |= 1
        if nbytes == outgoing.left:
            kind |= 2
            state.queue.popleft()
            self.finished.append(outgoing)
        outgoing.started = True
        state.credit -= nbytes + charge
        return [frames.data_head(kind, state.id, nbytes), *outgoing.take(nbytes)]

    # Receiving.

    def receive_whole(self, data: bytes) -> ChannelState | None:
        """Take a record that is one message in one frame, as most are: its bytes are
        `data[DATA_OVERHEAD_BYTES:]`. None when it is anything else: give it to `receive`.
        """
        if frames.whole_bytes(data) is None:
            return None
        state = self._channels.get(data[4:_OVERHEAD])
        if state is None or state.partial:
            return None
        charge = len(data) - _OVERHEAD + _CHARGE
        if state.used + charge > state.window:
            return None
        state.used += charge
        state.delivered += charge
        return state

    def receive(self, data: bytes) -> list[Event]:
        """Take the plaintext of one record. Raises WireError; the link must then end."""
        events: list[Event] = []
        for kind, start, stop in frames.split_frames(data):
            if kind >= frames.DATA:
                self._on_data(kind, data, start, stop, events)
            elif kind == frames.PING:
                self.answer(frames.encode_pong(data[start:stop]))
            elif kind == frames.PONG:
                events.append(Ponged(data[start:stop]))
            elif kind == frames.CREDIT:
                self._on_credit(*frames.parse_credit(data, start))
            elif kind == frames.CLOSED:
                self._on_closed(data[start:stop], events)
            elif kind == frames.KEY_UPDATE:
                if stop != len(data):
                    raise WireError("a key update is not the last frame of its record")
                events.append(KeyUpdated())
            elif kind == frames.GOODBYE:
                events.append(Goodbye(*frames.parse_goodbye(data[start:stop])))
            elif kind == frames.READY:
                events.append(Ready())
        return events

    def _on_data(self, kind: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        body = start + CHANNEL_BYTES
        channel = data[start:body]
        state = self._channels.get(channel)
        if state is None:
            if kind != frames.ABORT:
                self._drop(channel)
            return
        if kind == frames.ABORT:
            self._on_abort(state)
            return
        nbytes = stop - body
        is_first, is_last = kind & 1, kind & 2
        state.used += nbytes + (_CHARGE if is_first else 0)
        if state.used > state.window:
            raise WireError("it sends more than it was given credit for")
        if bool(is_first) == bool(state.partial):
            raise WireError("the pieces of a message are out of order")
        if is_first and is_last:
            message = data[body:stop]
        else:
            if state is self.control:
                raise WireError("a message on the control channel comes in pieces")
            state.partial_bytes += nbytes
            if state.partial_bytes > limits.LINK_MESSAGE_BYTES_MAX:
                raise WireError(f"a message has over {limits.LINK_MESSAGE_BYTES_MAX} bytes")
            # A view would keep the whole record in memory for a small piece of it.
            is_most = nbytes * 2 > len(data)
            state.partial.append(memoryview(data)[body:stop] if is_most else data[body:stop])
            if not is_last:
                return
            message = b"".join(state.partial)
            state.partial, state.partial_bytes = [], 0
        state.delivered += len(message) + _CHARGE
        events.append(Message(state, message))

    def _on_abort(self, state: ChannelState) -> None:
        if not state.partial:
            raise WireError("it takes back a message that it did not begin")
        nbytes = state.partial_bytes
        state.partial, state.partial_bytes = [], 0
        state.delivered += nbytes + _CHARGE
        self.grant(state, nbytes)

    def _drop(self, channel: bytes) -> None:
        """Count a piece for a channel that is not open, and tell the peer once."""
        self.dropped_pieces += 1
        if channel in self._told:
            return
        self._told[channel] = None
        if len(self._told) > limits.LINK_CLOSED_TOLD_MAX:
            del self._told[next(iter(self._told))]
        self.answer(frames.encode_closed(channel))

    def _on_credit(self, channel: bytes, nbytes: int) -> None:
        state = self._channels.get(channel)
        if state is None:
            return
        if not 0 < nbytes <= state.window - state.credit:
            raise WireError("it gives more credit than it was sent bytes")
        state.credit += nbytes
        self._schedule(state)

    def _on_closed(self, channel: bytes, events: list[Event]) -> None:
        state = self._channels.get(channel)
        if state is self.control:
            raise WireError("it closes the control channel")
        if state is not None and not state.is_refused:
            state.is_refused = True
            events.append(Refused(state))
