"""A host on another node, as one tenant speaks to it: signed requests over calls.

Cuts what is too much for one message, and keeps a few messages under way. Believes no answer beyond
its bounds: whoever asked opens what comes. Picks no host and tries no other: `kwaai.vpk.host_set`
does. docs/protocol/storage.md.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from credentials.keys import PeerId, SecretKey
from kwaai import limits
from kwaai.errors import (
    KwaaiError,
    ManifestConflict,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    StorageFull,
    StorageRefused,
)
from kwaai.vpk.types import HostUsage, Object, PirTable
from kwaai.wire import storage_bodies as bodies
from kwaai.wire.codec import WireError
from kwaai.wire.storage_messages import (
    NAME,
    Binding,
    Operation,
    encode_health,
    encode_request,
    parse_answer,
)

S = TypeVar("S")
T = TypeVar("T")

_COUNTER: Final = itertools.count(1)
"""Of all requests of this process: it rises on every channel, whoever shares one."""
_CONFLICTING: Final = frozenset({Operation.PUT_MANIFEST})
_FILLING: Final = frozenset({Operation.PUT, Operation.PUT_MANIFEST, Operation.CREATE_TENANT})
_QUICK, _BULK = 0, 1
"""Lanes: a search does not wait behind what an ingest sends."""
_ROOM_BYTES: Final = limits.STORAGE_OBJECT_BYTES_MAX
"""Of objects, rows or masks in one message: its envelope fits beside them."""


class Calls(Protocol):
    """What this takes of a `kwaai.node.link_calls.CallClient`."""

    @property
    def peer(self) -> PeerId: ...

    async def call(
        self,
        peer: PeerId,
        name: str,
        body: bytes | Callable[[bytes], bytes],
        timeout_s: float,
        lane: int,
    ) -> bytes: ...


class RemoteHost:
    """Implements `kwaai.vpk.types.Host`. Belongs to one event loop; cheap to make, and to drop.

    Raises PeerUnreachable, PeerLost, PeerStalled, PeerMisbehaved, PeerRefused (the host's rules, or
    a tenant that it does not have), Busy; StorageFull and ManifestConflict where something is put.
    """

    def __init__(
        self,
        peer: PeerId,
        calls: Calls,
        tenant: SecretKey,
        *,
        timeout_s: float = limits.STORAGE_CALL_TIMEOUT_S,
    ) -> None:
        """`timeout_s`: of one message; large operations are several."""
        self._peer, self._calls, self._timeout_s = peer, calls, timeout_s
        self._tenant, self._signer = tenant.public.raw, tenant
        self._delegation = b""

    @classmethod
    def for_reader(
        cls,
        peer: PeerId,
        calls: Calls,
        tenant: bytes,
        reader: SecretKey,
        delegation: bytes,
        *,
        timeout_s: float = limits.STORAGE_CALL_TIMEOUT_S,
    ) -> RemoteHost:
        """Return a host as somebody with a tenant's delegation speaks to it: reading only."""
        host = cls(peer, calls, reader, timeout_s=timeout_s)
        host._tenant, host._delegation = tenant, delegation
        return host

    @property
    def id(self) -> str:
        return self._peer

    # Being a tenant.

    async def create_tenant(self, quota_bytes: int, name: str = "") -> HostUsage:
        """Become a tenant here, or stay one. `quota_bytes` is what is wanted, the answer says what
        is given. `name` is shown to the host's owner. Raises PeerRefused where strangers are not
        taken, StorageFull.
        """
        body = bodies.encode_create_tenant(bodies.CreateTenant(quota_bytes, name))
        return await self._ask(Operation.CREATE_TENANT, body, _parse_usage)

    async def delete_tenant(self) -> None:
        """Have everything of this tenant deleted here. Idempotent."""
        await self._ask(Operation.DELETE_TENANT, b"", _parse_nothing)

    async def usage(self) -> HostUsage:
        return await self._ask(Operation.USAGE, b"", _parse_usage)

    # Objects.

    async def put(self, base: bytes, objects: Sequence[Object]) -> None:
        async def put(part: Sequence[Object]) -> None:
            await self._ask(Operation.PUT, bodies.encode_put(base, part), _parse_nothing, _BULK)

        await _some_at_once(put, list(_cut(objects)))

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        lane = _BULK if len(ids) > limits.STORAGE_GET_IDS else _QUICK

        async def get(part: Sequence[bytes]) -> list[bytes | None]:
            found: list[bytes | None] = []
            left = limits.STORAGE_GET_BYTES_SPARED + len(part) * limits.STORAGE_GET_BYTES_EACH
            while len(found) < len(part):  # each answer has one at least
                rest = part[len(found) :]
                more = await self._ask(
                    Operation.GET,
                    bodies.encode_ids(base, rest),
                    partial(bodies.parse_objects, count=len(rest)),
                    lane,
                )
                left -= sum(len(blob) for blob in more if blob is not None)
                if left < 0:
                    raise self._misbehaved("sends more than anything that was put there has")
                found += more
            return found

        parts = await _some_at_once(get, _parts(ids, limits.STORAGE_GET_IDS))
        return parts[0] if len(parts) == 1 else [blob for part in parts for blob in part]

    async def delete(self, base: bytes, ids: Sequence[bytes]) -> int:
        async def delete(part: Sequence[bytes]) -> int:
            return await self._ask(
                Operation.DELETE,
                bodies.encode_ids(base, part),
                lambda body: bodies.parse_count(body, len(part)),
            )

        parts = _parts(ids, limits.STORAGE_OBJECTS_MAX)
        return sum(await _some_at_once(delete, parts))

    async def list_ids(self, base: bytes, after: bytes, count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count:
            most = min(count - len(found), limits.STORAGE_IDS_LISTED_MAX)
            last = found[-1] if found else after
            more = await self._ask(
                Operation.LIST_IDS,
                bodies.encode_list(base, last, most),
                partial(bodies.parse_id_list, most=most),
            )
            if more and more[0] <= last:
                raise self._misbehaved("lists ids that come before those it listed")
            found += more
            if len(more) < most:
                break
        return found

    # Bases.

    async def put_manifest(self, base: bytes, sequence: int, data: bytes) -> None:
        body = bodies.encode_put_manifest(base, sequence, data)
        await self._ask(Operation.PUT_MANIFEST, body, _parse_nothing)

    async def get_manifest(self, base: bytes) -> bytes | None:
        body = bodies.encode_base(base)
        return await self._ask(Operation.GET_MANIFEST, body, lambda found: bytes(found) or None)

    async def bases(self) -> list[bytes]:
        most = limits.STORAGE_BASES_MAX
        return await self._ask(Operation.BASES, b"", lambda body: bodies.parse_id_list(body, most))

    async def drop_base(self, base: bytes) -> None:
        await self._ask(Operation.DROP_BASE, bodies.encode_base(base), _parse_nothing)

    # Oblivious reads, and proofs.

    async def pir_table(self, base: bytes, row_bytes: int) -> PirTable:
        body = bodies.encode_table_request(base, row_bytes)
        table = await self._ask(Operation.PIR_TABLE, body, bodies.parse_table)
        if table.row_bytes != row_bytes or table.mask_bytes > _ROOM_BYTES:
            raise self._misbehaved(f"shows a table of {table.rows} x {table.row_bytes} bytes")
        return PirTable(table.rows, table.row_bytes, table.digest)

    async def pir(self, base: bytes, table: PirTable, masks: Sequence[bytes]) -> list[bytes]:
        asked = bodies.Table(table.rows, table.row_bytes, table.digest)

        async def read(part: Sequence[bytes]) -> list[bytes]:
            return await self._ask(
                Operation.PIR,
                bodies.encode_pir(base, asked, part),
                lambda body: bodies.parse_rows(body, asked, len(part)),
            )

        widest = max(1, table.row_bytes, asked.mask_bytes)
        count = max(1, min(limits.VPK_PIR_MASKS_MAX, _ROOM_BYTES // widest))
        parts = await _some_at_once(read, _parts(masks, count))
        return [row for part in parts for row in part]

    async def prove(self, base: bytes, object_id: bytes, challenge: bytes) -> bytes:
        body = bodies.encode_prove(base, object_id, challenge)
        proof = await self._ask(Operation.PROVE, body, bytes)
        if len(proof) > limits.STORAGE_PROOF_BYTES_MAX:
            raise self._misbehaved(f"sends a proof of {len(proof)} bytes")
        return proof

    # One message.

    async def _ask(
        self,
        operation: Operation,
        body: bytes,
        parse: Callable[[memoryview], T],
        lane: int = _QUICK,
    ) -> T:
        def sign(nonce: bytes) -> bytes:
            return encode_request(
                operation,
                body,
                tenant=self._tenant,
                signer=self._signer,
                binding=Binding(self._peer, self._calls.peer, nonce),
                counter=next(_COUNTER),
                delegation=self._delegation,
            )

        data = await self._calls.call(self._peer, NAME, sign, self._timeout_s, lane)
        return _read(data, self._peer, operation, parse)

    def _misbehaved(self, what: str) -> PeerMisbehaved:
        return PeerMisbehaved(f"{self._peer} {what}", peer=self._peer)


async def fetch_health(
    peer: PeerId, calls: Calls, timeout_s: float = limits.STORAGE_HEALTH_TIMEOUT_S
) -> bodies.Health:
    """Ask a host how it is; anybody may. Raises PeerError, Busy."""
    data = await calls.call(peer, NAME, encode_health(), timeout_s, _QUICK)
    return _read(data, peer, Operation.HEALTH, bodies.parse_health_answer)


def _read(data: bytes, peer: PeerId, operation: Operation, parse: Callable[[memoryview], T]) -> T:
    """Return what an answer says. Raises what a host may say no with; PeerMisbehaved else."""
    try:
        return parse(parse_answer(data, peer))
    except WireError as error:
        what = f"{peer} answers {operation.name} with no answer: {error.message}"
        raise PeerMisbehaved(what, peer=peer) from error
    except KwaaiError as error:
        raise _allowed(error, peer, operation) from None


def _allowed(error: KwaaiError, peer: PeerId, operation: Operation) -> KwaaiError:
    """Return a host's refusal as what it may be of this operation."""
    if isinstance(error, StorageFull) and operation not in _FILLING:
        return PeerMisbehaved(f"{peer} has no room to read: {error.message}", peer=peer)
    if isinstance(error, ManifestConflict) and operation not in _CONFLICTING:
        return PeerMisbehaved(f"{peer} shows a manifest unasked: {error.message}", peer=peer)
    if isinstance(error, StorageRefused):
        return PeerRefused(error.message, peer=peer)
    if isinstance(error, PeerError) and error.peer is None:
        error.peer = peer
    return error


def _parse_usage(body: memoryview) -> HostUsage:
    usage = bodies.parse_usage(body)
    return HostUsage(usage.objects, usage.used_bytes, usage.quota_bytes, usage.free_bytes)


def _parse_nothing(body: memoryview) -> None:
    if len(body):
        raise WireError(f"{len(body)} bytes where there is nothing to say")


def _cut(objects: Sequence[Object]) -> Iterator[Sequence[Object]]:
    """Cut into messages: by bytes and by number. An object that is larger goes alone."""
    start, nbytes = 0, 0
    for index, (_, data) in enumerate(objects):
        size = bodies.put_bytes(len(data))
        if index > start and (
            nbytes + size > limits.STORAGE_PUT_BYTES or index - start >= limits.STORAGE_OBJECTS_MAX
        ):
            yield objects[start:index]
            start, nbytes = index, 0
        nbytes += size
    if start < len(objects):
        yield objects[start:]


def _parts(items: Sequence[T], count: int) -> list[Sequence[T]]:
    return [items[at : at + count] for at in range(0, len(items), count)]


async def _some_at_once(
    work: Callable[[Sequence[S]], Awaitable[T]], parts: Sequence[Sequence[S]]
) -> list[T]:
    """Do `work` with every part, a few at a time; return what it returns, in order. Raises the
    first error; the others are then cancelled, and waited for.
    """
    if len(parts) == 1:
        return [await work(parts[0])]
    turns = asyncio.Semaphore(limits.STORAGE_CALLS_AT_ONCE)

    async def run(part: Sequence[S]) -> T:
        async with turns:
            return await work(part)

    tasks = [asyncio.ensure_future(run(part)) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
