"""All sessions that this node has on others: opened, told what comes, closed on every hop.

One session is `remote`'s; hops of others here are `shards`'s.
"""

from __future__ import annotations

import asyncio

from credentials.keys import PeerId
from kwaai.limits import SHARD_CLOSE_TIMEOUT_S
from kwaai.log import get_logger
from kwaai.node.remote import RemotePlan, RemoteSession, Take
from kwaai.node.shard_control import ShardControl, ToRequester
from kwaai.wire.messages import CloseReason

log = get_logger(__name__)


class Requesters:
    """All sessions that this node has on others."""

    def __init__(self, control: ShardControl) -> None:
        self._control = control
        self._sessions: dict[bytes, RemoteSession] = {}
        self._closing: set[asyncio.Task[None]] = set()
        control.request(self._on_message)
        control.links.on_lost(self._on_lost)

    @property
    def sessions_open(self) -> int:
        """Sessions that were begun and are not closed on every hop."""
        return len(self._sessions)

    async def open(self, plan: RemotePlan, take: Take) -> RemoteSession:
        """Open a session on the hops of `plan`; close() it in the end. Raises PeerError, and has
        then closed what was opened.
        """
        session = RemoteSession(plan, self._control, take, self._on_closed)
        self._sessions[session.id] = session
        try:
            await session.open()
        except BaseException:
            session.close(CloseReason.FAILED)
            raise
        return session

    async def stop(self) -> None:
        """Close every session, and wait until the hops were told. Idempotent."""
        for session in tuple(self._sessions.values()):
            session.close(CloseReason.CANCELLED)
        if self._closing:
            await asyncio.wait(self._closing, timeout=SHARD_CLOSE_TIMEOUT_S)

    def _on_closed(self, session: RemoteSession, reason: CloseReason) -> None:
        """Tell the hops in the background: whoever asked for the answer does not wait for them."""
        task = asyncio.create_task(self._close(session, reason), name="shard-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, session: RemoteSession, reason: CloseReason) -> None:
        try:
            async with asyncio.timeout(SHARD_CLOSE_TIMEOUT_S):
                await session.say_close(reason)
        except TimeoutError:
            log.warning("shard_close_unsaid", session_hops=len(session.plan.hops))
        finally:
            del self._sessions[session.id]

    def _on_message(self, peer: PeerId, message: ToRequester) -> None:
        session = self._sessions.get(message.session)
        if session is not None:
            session.on_message(peer, message)

    def _on_lost(self, peer: PeerId, reason: str) -> None:
        for session in tuple(self._sessions.values()):
            session.on_lost(peer, reason)
