"""One libp2p stream with errors that name the peer, and an end that does not wait. Trio only."""

from __future__ import annotations

import contextlib

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import PeerError, PeerLost, PeerStalled
from kwaai.net.libp2p_yamux import SafeYamux

_DRAIN_BYTES = 64 * 1024


class P2pStream:
    """A stream to or from one peer."""

    def __init__(
        self, muxed: object, conn: SafeYamux, peer: PeerId, background: trio.Nursery
    ) -> None:
        assert isinstance(muxed, YamuxStream)
        self.peer = peer
        self._muxed = muxed
        self._conn = conn
        self._background = background
        self._is_over = False

    async def read(self, n: int) -> bytes:
        """Read 1 to `n` bytes; b"" at the end. Raises PeerLost."""
        try:
            return await self._muxed.read(n)
        except MuxedStreamEOF as error:
            if self._conn.is_usable and not self._muxed.reset_received:
                return b""
            raise loss(self.peer, self._conn, error) from error
        except Exception as error:  # py-libp2p raises many kinds; all mean that it is gone
            raise loss(self.peer, self._conn, error) from error

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Raises PeerStalled, PeerLost."""
        try:
            await self._muxed.write(data)
        except trio.TooSlowError as error:
            raise PeerStalled(
                f"{self.peer} has read nothing for {limits.P2P_STALL_TIMEOUT_S:.0f} s",
                peer=self.peer,
            ) from error
        except Exception as error:  # as above
            raise loss(self.peer, self._conn, error) from error

    async def finish_writing(self) -> None:
        """Tell the peer that nothing more comes."""
        try:
            await self._muxed.close()
        except Exception as error:  # as above
            raise loss(self.peer, self._conn, error) from error

    async def close(self) -> None:
        """End our direction now; the peer has P2P_LINGER_S to end its own. Never raises."""
        if self._is_over:
            return
        self._is_over = True
        try:
            await self._muxed.close()
        except Exception:  # as above, and then there is nothing to close
            return
        if not self._muxed.closed:
            self._background.start_soon(self._linger)

    def drop(self) -> None:
        """Reset the stream, soon; for errors and cancellation."""
        if not self._is_over:
            self._is_over = True
            self._background.start_soon(self._reset)

    async def _linger(self) -> None:
        with trio.move_on_after(limits.P2P_LINGER_S):
            try:
                while await self._muxed.read(_DRAIN_BYTES):
                    pass
            except Exception:  # its end, in whatever form
                pass
        await self._reset()

    async def _reset(self) -> None:
        with contextlib.suppress(Exception):  # the connection is gone, and the stream with it
            await self._muxed.reset()


def loss(peer: PeerId, conn: SafeYamux, error: BaseException) -> PeerError:
    """Say that the connection, or the stream, to a peer has ended."""
    if conn.is_usable:
        return PeerLost(f"{peer} ended the stream: {reason_of(error)}", peer=peer)
    why = conn.reason or "it closed the connection"
    return PeerLost(f"the connection to {peer} was lost: {why}", peer=peer)


def reason_of(error: BaseException) -> str:
    return str(error) or type(error).__name__
