"""Hosts on this machine, for tests of what lies above them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import LocalHost

_ROOM_BYTES = 1 << 40


@contextlib.contextmanager
def local_hosts(path: Path, root: RootKey, room_bytes: int = _ROOM_BYTES) -> Iterator[HostSet]:
    """A set of one local host, as a node without peers has it; one file for all who ask."""
    store = HostStore.open(path, _ROOM_BYTES, reserve_bytes=0)
    tenant = root.tenant().public.raw
    try:
        store.create_tenant(tenant, room_bytes)
        yield HostSet([Member(LocalHost(store, tenant), "me", 3, trusted=True)], replicas=1)
    finally:
        store.close()
