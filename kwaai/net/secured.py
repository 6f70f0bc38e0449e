"""The lower half of a link: bytes of a transport into a handshake, then into opened records.

An asyncio protocol over any transport that carries bytes in order: TCP, or a stream of the network.
Does not know frames: `kwaai.net.link` is the upper half. docs/protocol/link.md has the bytes.
"""

from __future__ import annotations

import abc
import asyncio
import socket
from enum import Enum
from typing import cast

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import PeerError, PeerLost
from kwaai.net.handshake import Handshake, LinkIdentity
from kwaai.net.secure import LENGTH_BYTES, Opener, Sealer, parse_length
from kwaai.wire import frames
from kwaai.wire.codec import WireError


class Stage(Enum):
    """How far a link has come."""

    HANDSHAKE = "handshake"
    CONFIRM = "confirm"  # dialled; the other end has not taken it yet
    OPEN = "open"
    ENDED = "ended"


class SecuredProtocol(asyncio.BufferedProtocol, abc.ABC):
    """Shakes hands, seals, opens. What it learns goes to the methods that a link gives it."""

    def __init__(
        self, identity: LinkIdentity, expected: PeerId | None, is_direct: bool, remote: str
    ) -> None:
        """`expected` is the peer that this node dials; None when it was dialled."""
        self._loop = asyncio.get_running_loop()
        self._handshake = Handshake(identity, expected)
        self.stage = Stage.HANDSHAKE
        self.is_keyed = False
        """Whether records are read now."""
        self.is_dialled = expected is not None
        self.is_direct = is_direct
        self.remote = remote
        """Where the other end is: an IP address, or the peer of the stream."""
        self.peer: PeerId = expected or cast(PeerId, "")
        self.version = 0
        self.instance = b""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the transport is gone."""
        self.received_s = 0.0
        """Of the loop's clock: when the last good record came."""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.keys_renewed = 0
        self._transport: asyncio.Transport
        self._memory = bytearray(limits.LINK_HELLO_BUFFER_BYTES)  # until it is worth more
        self._view = memoryview(self._memory)
        self._start = self._stop = 0
        self._is_paused = False
        self._sealer: Sealer
        self._opener: Opener

    @property
    def name(self) -> str:
        """The peer, or where it is while it has not proven who it is."""
        return self.peer or self.remote or "a stranger"

    # What the upper half does.

    @abc.abstractmethod
    def _on_connected(self) -> None:
        """There is a transport."""

    @abc.abstractmethod
    def _on_peer(self) -> bool:
        """A dialled peer has proven who it is: whether to go on."""

    @abc.abstractmethod
    def _on_keys(self) -> None:
        """The handshake is done."""

    @abc.abstractmethod
    def _on_record(self, record: bytes) -> None:
        """A record was opened. Raises WireError."""

    @abc.abstractmethod
    def _on_writable(self) -> None:
        """The transport takes more."""

    @abc.abstractmethod
    def _cut(self, error: WireError) -> None:
        """End because of what the other end sent."""

    @abc.abstractmethod
    def end(self, error: PeerError) -> None:
        """End. Idempotent."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=limits.LINK_WRITE_BUFFER_BYTES)
        address = transport.get_extra_info("peername")
        if address:
            self.remote = str(address[0])
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.LINK_UNSENT_BYTES)
        self._on_connected()
        if self.is_dialled and self.stage is Stage.HANDSHAKE:
            self._transport.write(self._handshake.first_message())

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._start == self._stop:
            self._start = self._stop = 0
        elif self._start:
            left = self._stop - self._start
            self._memory[:left] = self._view[self._start : self._stop]
            self._start, self._stop = 0, left
        return self._view[self._stop :]

    def buffer_updated(self, nbytes: int) -> None:
        self._stop += nbytes
        self.bytes_received += nbytes
        try:
            if self.stage is Stage.HANDSHAKE:
                self._read_handshake()
            self._read_records()
        except WireError as error:
            self._cut(error)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._on_writable()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        why = str(error) if error else "its connection closed"
        self.end(PeerLost(f"the link to {self.name} is lost: {why}", peer=self.peer or None))
        if not self.closed.done():
            self.closed.set_result(None)

    # Handshake.

    def _read_handshake(self) -> None:
        while self.stage is Stage.HANDSHAKE and self._stop - self._start >= 2:
            start = self._start + 2
            stop = start + self._handshake.message_size(self._view[self._start : start])
            if stop > self._stop:
                return
            self._start = stop
            self._handshake.receive(bytes(self._view[start:stop]))
            if self._handshake.hello is None:
                self._transport.write(self._handshake.reply())
                continue
            self.peer, self.instance = self._handshake.hello.peer, self._handshake.hello.instance
            if self.is_dialled:
                if not self._on_peer():
                    return
                self._transport.write(self._handshake.reply())
            self._agree()

    def _agree(self) -> None:
        agreement = self._handshake.agree()
        now_s = self._loop.time()
        self.version = agreement.version
        self._sealer = Sealer(agreement.send_key, now_s)
        self._opener = Opener(agreement.receive_key, now_s)
        self.is_keyed = True
        self.stage = Stage.CONFIRM
        left = bytes(self._view[self._start : self._stop])
        self._memory = bytearray(limits.LINK_READ_BUFFER_BYTES)
        self._view = memoryview(self._memory)
        self._view[: len(left)] = left
        self._start, self._stop = 0, len(left)
        self._on_keys()

    # Records.

    def _read_records(self) -> None:
        while self.is_keyed:
            start = self._start + LENGTH_BYTES
            if start > self._stop:
                return
            stop = start + parse_length(self._memory, self._start)
            if stop > self._stop:
                return
            self._start = stop
            record = self._opener.open(self._view[start:stop])
            self.received_s = self._loop.time()
            self._on_record(record)

    def write_record(self, record: bytes) -> None:
        """Seal and send one record now, before anything that waits."""
        sealer = self._sealer
        if sealer.records >= limits.LINK_KEY_RECORDS_MAX:
            self._renew_key()
        sealed = sealer.seal(record)
        self.bytes_sent += len(sealed)
        self._transport.write(sealed)

    def _renew_key(self) -> None:
        self._transport.write(self._sealer.seal(frames.encode_key_update()))
        self._sealer.update(self._loop.time())
        self.keys_renewed += 1

    def check_keys(self, now_s: float) -> None:
        """Renew this end's key when it is old; end when the other end does not do so."""
        if self._sealer.is_old(now_s):
            self._renew_key()
        if self._opener.is_old(now_s, limits.LINK_KEY_SLACK):
            self._cut(WireError("it used a key for longer than allowed"))
