"""Hosts in memory for tests: they keep what they are told, and fail as they are told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from kwaai.errors import ManifestConflict, PeerLost, PeerUnreachable, SealBroken, StorageFull
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.types import HostUsage, Object, PirTable

BASE = b"b" * 16
LOOP_KEY = b"test"


def sealed(object_id: bytes, size: int = 40) -> bytes:
    """Bytes that only belong under this id: `open_all` knows."""
    own = hashlib.blake2b(object_id, digest_size=16, key=LOOP_KEY).digest()
    return own + bytes(max(0, size - 16))


def open_all(objects: list[Object]) -> list[bytes]:
    for object_id, blob in objects:
        if not blob.startswith(sealed(object_id, 16)):
            raise SealBroken("it does not open")
    return [object_id for object_id, _ in objects]


def ids_of(count: int, seed: int = 0) -> list[bytes]:
    return [hashlib.blake2b(b"%d/%d" % (seed, i), digest_size=16).digest() for i in range(count)]


def objects_of(count: int, seed: int = 0) -> list[Object]:
    return [(i, sealed(i)) for i in ids_of(count, seed)]


class FakeHost:
    """A host in memory. `before` is awaited before each call, with the call's name; `alter` makes
    of each object read what is sent.
    """

    def __init__(self, name: str) -> None:
        self.id = name
        self.objects: dict[bytes, dict[bytes, bytes]] = {}
        self.manifests: dict[bytes, tuple[int, bytes]] = {}
        self.room = 1 << 62
        self.delay_s = 0.0
        self.away = False
        self.dies_after: int | None = None
        """Calls that still go well; objects of the one it dies in are half written."""
        self.alter: Callable[[bytes, bytes], bytes | None] = lambda object_id, blob: blob
        self.asked: list[tuple[str, int]] = []

    async def _call(self, name: str, count: int = 0) -> bool:
        self.asked.append((name, count))
        if self.away:
            raise PeerUnreachable(f"{self.id} is away", peer=self.id)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.away = True
                return False
        return True

    def _lost(self) -> PeerLost:
        return PeerLost(f"{self.id} is gone", peer=self.id)

    def held(self, base: bytes = BASE) -> dict[bytes, bytes]:
        return self.objects.setdefault(base, {})

    async def put(self, base: bytes, objects: Sequence[Object]) -> None:
        alive = await self._call("put", len(objects))
        if not alive:
            self.held(base).update(objects[: len(objects) // 2])
            raise self._lost()
        size = sum(len(blob) for _, blob in objects)
        if size > self.room:
            raise StorageFull(f"{self.id} is full")
        self.room -= size
        self.held(base).update(objects)

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        if not await self._call("get", len(ids)):
            raise self._lost()
        held = self.held(base)
        return [self.alter(i, held[i]) if i in held else None for i in ids]

    async def delete(self, base: bytes, ids: Sequence[bytes]) -> int:
        if not await self._call("delete", len(ids)):
            raise self._lost()
        return sum(self.held(base).pop(i, None) is not None for i in ids)

    async def list_ids(self, base: bytes, after: bytes, count: int) -> list[bytes]:
        if not await self._call("list_ids", count):
            raise self._lost()
        return sorted(i for i in self.held(base) if i > after)[:count]

    async def put_manifest(self, base: bytes, sequence: int, data: bytes) -> None:
        if not await self._call("put_manifest"):
            raise self._lost()
        there = self.manifests.get(base)
        if there is not None and there[1] != data and there[0] >= sequence:
            conflict = ManifestConflict("another is there")
            conflict.current = there[1]
            raise conflict
        self.manifests[base] = sequence, data

    async def get_manifest(self, base: bytes) -> bytes | None:
        if not await self._call("get_manifest"):
            raise self._lost()
        there = self.manifests.get(base)
        return None if there is None else there[1]

    async def bases(self) -> list[bytes]:
        if not await self._call("bases"):
            raise self._lost()
        return sorted(self.objects)

    async def drop_base(self, base: bytes) -> None:
        if not await self._call("drop_base"):
            raise self._lost()
        self.objects.pop(base, None)
        self.manifests.pop(base, None)

    async def usage(self) -> HostUsage:
        if not await self._call("usage"):
            raise self._lost()
        count = sum(len(o) for o in self.objects.values())
        return HostUsage(count, 0, self.room, self.room)

    async def pir_table(self, base: bytes, row_bytes: int) -> PirTable:
        raise NotImplementedError

    async def pir(self, base: bytes, table: PirTable, masks: Sequence[bytes]) -> list[bytes]:
        raise NotImplementedError

    async def prove(self, base: bytes, object_id: bytes, challenge: bytes) -> bytes:
        from kwaai.vpk.retrievability import prove, tags_id

        if not await self._call("prove"):
            raise self._lost()
        data, tags = await self.get(base, [object_id, tags_id(object_id)])
        assert data is not None
        assert tags is not None
        return prove(data, tags, challenge)


def host_set(count: int, **options: Any) -> tuple[HostSet, list[FakeHost]]:
    """A set of hosts with an owner each, all of tier 1."""
    hosts = [FakeHost(f"host{i}") for i in range(count)]
    return HostSet([Member(h, f"owner of {h.id}", tier=1) for h in hosts], **options), hosts
