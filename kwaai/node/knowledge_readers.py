"""Reading bases by their owners' leave: tokens made and opened, and the hosts of a shared base.

A token is for one node: its key opens it, and signs what is asked of hosts, beside the delegation
in it. Hosts enforce the date; here it is only said. Which bases are open is `knowledge_service`'s.
docs/vpk.md, "Readers".
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from credentials.errors import CredentialsError
from credentials.keys import PeerId, PublicKey, SecretKey, parse_peer_id, peer_id
from kwaai.atomic import write_atomic
from kwaai.errors import (
    BaseMissing,
    FileCorrupt,
    PeerStalled,
    ResourceError,
    StorageRefused,
    UserError,
)
from kwaai.limits import SHARE_DAYS_MAX, SHARE_TOKEN_CHARS_MAX, VPK_SHARE_HOSTS_MAX
from kwaai.log import get_logger
from kwaai.node.knowledge_hosts import BaseHost
from kwaai.node.storage_client import Calls, RemoteHost
from kwaai.vpk.access import SharedKeys
from kwaai.vpk.base import Base
from kwaai.vpk.base_core import check_name
from kwaai.vpk.delegation import Delegation, Share, encode_share, open_share
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import HERE
from kwaai.vpk.manifest import Manifest, verify_manifest
from kwaai.vpk.members import HostOutcome, Member, OnOutcome
from kwaai.wire.call_messages import NONCE_BYTES

log = get_logger(__name__)

TOKEN_FILE: Final = "share.token"
_DAY_S: Final = 86_400.0
_LEAST_WEIGHT: Final = 1e-6
_UNPROVEN: Final = frozenset({"wrong", "omitted", "stale"})
"""What only a base's owner can hold against a host: who makes a base of nonsense, and shares it,
would have its readers blame honest hosts.
"""


@dataclass(frozen=True, slots=True)
class SharedBase:
    """A right to read a base of somebody else's."""

    token: str
    share: Share

    @property
    def id(self) -> bytes:
        return self.share.delegation.base

    @property
    def tenant(self) -> bytes:
        return self.share.delegation.tenant

    @property
    def owner(self) -> str:
        """The PeerId of the node that made the token, as it says; empty: it does not."""
        return self.share.owner

    @property
    def until_s(self) -> float:
        """When the right ends, Unix time."""
        return self.share.delegation.expires_s

    def ended(self, now_s: float) -> str:
        """Say that the right has ended; empty: it has not."""
        if now_s <= self.until_s:
            return ""
        ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.until_s))
        return (
            f"the right to read it ended on {ended}; ask its owner for a new token, and run: "
            "kwaainet rag attach TOKEN"
        )

    def source(self, root: RootKey) -> SharedKeys:
        """Return what opens the base; its database here is encrypted with a key of this node's."""
        return SharedKeys(self.tenant, self.share.keys, root.local_key(self.id))

    def rows(self) -> tuple[BaseHost, ...]:
        """Return the hosts that the token names. Raises UserError for what is no PeerId."""
        for host in self.share.hosts:
            _key_of(host)
        return tuple(BaseHost(host, host) for host in dict.fromkeys(self.share.hosts))

    def save(self, folder: Path) -> None:
        """Keep the token beside the base, for this user only. Raises DiskFull."""
        write_atomic(folder / TOKEN_FILE, self.token.encode("ascii"))


Handle: TypeAlias = Callable[[PeerId, bytes, bytes], Awaitable[bytes]]
"""`StorageService.handle`: what a peer, on a channel with this nonce, asks."""


class _CallsHere:
    """Calls of this node to itself: a base may lie at its reader's, among others."""

    def __init__(self, own: PeerId, handle: Handle) -> None:
        self.peer, self._handle = own, handle
        self._nonce = os.urandom(NONCE_BYTES)

    async def call(
        self,
        peer: PeerId,
        name: str,
        body: bytes | Callable[[bytes], bytes],
        timeout_s: float,
        lane: int,
    ) -> bytes:
        """See `storage_client.Calls`."""
        data = body if isinstance(body, bytes) else body(self._nonce)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._handle(self.peer, self._nonce, data)
        except TimeoutError:
            raise PeerStalled(f"this node's own host took over {timeout_s:g} s") from None


class Readers:
    """One node as a reader. Belongs to one event loop."""

    def __init__(
        self,
        secret: SecretKey,
        calls: Calls,
        note: OnOutcome,
        own_host: Handle | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`secret`: the node's key. `note`: told how dealings with hosts end. `own_host`: answers
        where this node is a host of the base itself; None: it hosts nothing.
        """
        self._secret, self._calls, self._note, self.clock = secret, calls, note, clock
        self.own = peer_id(secret.public)
        self._here = None if own_host is None else _CallsHere(self.own, own_host)

    # Tokens.

    def open(self, token: str) -> SharedBase:
        """Open a token that somebody gave. Raises UserError, StorageRefused: for another node, not
        begun, ended.
        """
        shared = SharedBase("".join(token.split()), open_share(token, self._secret, now_s=None))
        ended = shared.ended(self.clock())
        if ended:
            raise StorageRefused(ended)
        open_share(token, self._secret, now_s=self.clock())
        return shared

    def load(self, folder: Path) -> SharedBase | None:
        """Return the right by which the base in a folder is read, be it over or not; None for a
        base of this node's own. Raises FileCorrupt.
        """
        path = folder / TOKEN_FILE
        try:
            with path.open("rb") as file:
                data = file.read(SHARE_TOKEN_CHARS_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResourceError(f"cannot read {path}: {error.strerror}") from error
        try:
            token = data.decode("ascii")
            return SharedBase(token, open_share(token, self._secret, now_s=None))
        except (UserError, UnicodeDecodeError) as error:
            raise FileCorrupt(
                f"{path} gives this node no right any more; ask the base's owner for a new token, "
                "and run: kwaainet rag attach TOKEN"
            ) from error

    def has_token(self, folder: Path) -> bool:
        """Say whether the base in a folder is somebody else's. Blocks."""
        return (folder / TOKEN_FILE).exists()

    # Hosts.

    def host_set(self, shared: SharedBase, rows: Sequence[BaseHost], replicas: int = 2) -> HostSet:
        """Return the hosts of a shared base, as a reader speaks to them. Raises UserError."""
        members = [
            Member(self._host(shared, row.peer), row.owner, weight=row.weight, trusted=True)
            for row in rows
        ]
        if not members:
            raise UserError("the token names no host but this node; ask its owner for a new one")
        return HostSet(members, replicas=max(1, min(replicas, len(members))), on_outcome=self._told)

    def _host(self, shared: SharedBase, peer: str) -> RemoteHost:
        _key_of(peer)
        here = self._here if peer == self.own else None
        return RemoteHost.for_reader(
            PeerId(peer), here or self._calls, shared.tenant, self._secret, shared.share.signed
        )

    def _can_ask(self, peer: str) -> bool:
        return _is_peer(peer) and (peer != self.own or self._here is not None)

    def _told(self, peer: str, outcome: HostOutcome, detail: str) -> None:
        if outcome in _UNPROVEN:
            log.info("shared_base_not_had", peer=peer, outcome=outcome, detail=detail)
        else:
            self._note(peer, outcome, detail)

    def rows_of(self, manifest: Manifest) -> tuple[BaseHost, ...]:
        """Return the hosts that a manifest names and that can be asked from here."""
        named = {host.peer: host for host in manifest.hosts}  # somebody else's words: once each
        return tuple(
            BaseHost(
                peer,
                host.owner or peer,
                host.weight if _LEAST_WEIGHT <= host.weight <= 1 / _LEAST_WEIGHT else 1.0,
            )
            for peer, host in named.items()
            if self._can_ask(peer)
        )

    # Bases.

    async def fetch(
        self, folder: Path, shared: SharedBase, root: RootKey, name: str
    ) -> tuple[Base, tuple[BaseHost, ...]]:
        """Get a shared base from its hosts into a folder, to be called `name` here; return it and
        its hosts. Raises BaseMissing, TooFewHosts, and as `Base.restore`.
        """
        check_name(name)
        source = shared.source(root)
        rows = tuple(row for row in shared.rows() if self._can_ask(row.peer))
        hosts = self.host_set(shared, rows)
        verify = partial(verify_manifest, tenant=shared.tenant, keys=shared.share.keys)
        found = await hosts.get_manifest(shared.id, verify)
        if found is None:
            raise BaseMissing(
                "the hosts that the token names do not have this base any more; ask its owner for "
                "a new token"
            )
        rows = self.rows_of(found.manifest) or rows
        hosts = self.host_set(shared, rows, found.manifest.replicas)
        base = await Base.restore(folder, source, shared.id, hosts, name=name)
        shared.save(folder)
        return base, rows

    async def open_base(
        self, place: Path, shared: SharedBase, rows: Sequence[BaseHost], root: RootKey
    ) -> Base:
        """Open a shared base that is here. Raises as `Base.open`."""
        base = await Base.open(place, shared.source(root), self.host_set(shared, rows))
        self.use(base, shared, rows)
        return base

    async def refresh(
        self, base: Base, shared: SharedBase, rows: tuple[BaseHost, ...]
    ) -> tuple[bool, tuple[BaseHost, ...]]:
        """Take in what the owner has published; return whether there was anything, and the hosts
        of now. `rows`: those of before. Raises TooFewHosts.
        """
        changed = await base.refresh()
        manifest = base.published()
        now = () if manifest is None else self.rows_of(manifest)
        if now and now != rows:
            self.use(base, shared, now)
        return changed, now or rows

    def use(self, base: Base, shared: SharedBase, rows: Sequence[BaseHost]) -> None:
        """Have a base ask these hosts, by this right."""
        manifest = base.published()
        replicas = 2 if manifest is None else manifest.replicas
        base.attach(self.host_set(shared, rows, replicas))


def make_token(
    root: RootKey,
    base: Base,
    reader: PublicKey,
    rows: Sequence[BaseHost],
    *,
    owner: PeerId,
    days: float,
    now_s: float,
) -> str:
    """Return a token by which `reader` may read a base, for `days`. Raises UserError for a base
    that no reader could reach.
    """
    if not 0 < days <= SHARE_DAYS_MAX:
        raise UserError(f"a right to read lasts up to {SHARE_DAYS_MAX:.0f} days, not {days:g}")
    remote = [row for row in rows if row.peer != HERE]
    if not remote:
        raise UserError(
            f"{base.name} is on this disk alone, where no reader can get at it; find hosts "
            "(kwaainet vpk discover), then run: kwaainet vpk repair"
        )
    if base.mode == "oblivious" and len({row.owner for row in remote}) < 2:
        raise UserError(
            f"{base.name} is in mode oblivious, which takes two hosts of different owners that the "
            "reader can ask; this node's own disk is one of them now"
        )
    access = root.access(base.id)
    delegation = Delegation(access.tenant, reader.raw, base.id, now_s, now_s + days * _DAY_S)
    hosts = tuple(row.peer for row in remote[:VPK_SHARE_HOSTS_MAX])
    try:
        return encode_share(
            delegation, access.check_owner(base.name), access.keys, base.name, hosts, owner
        )
    except CredentialsError as error:
        raise UserError("that PeerId's key cannot be sealed to") from error


def free_name(wanted: str, owner_name: str, taken: Sequence[str]) -> str:
    """Return a name for a base of somebody else's that none here has: `notes`, `notes-anna`,
    `notes-anna-2`.
    """
    if wanted not in taken:
        return wanted
    said = "".join(sign for sign in owner_name if sign.isalnum() or sign in "-_.")[:16]
    longer = f"{wanted[:40]}-{said or 'shared'}"
    numbered = (f"{longer}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (longer, *numbered) if name not in taken)


def _key_of(peer: str) -> PublicKey:
    try:
        return parse_peer_id(peer)
    except CredentialsError as error:
        raise UserError(f"{peer!r:.80} is no PeerId") from error


def _is_peer(peer: str) -> bool:
    try:
        parse_peer_id(peer)
    except CredentialsError:
        return False
    return True
