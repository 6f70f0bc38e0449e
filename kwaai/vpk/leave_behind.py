"""Whether segments that a manifest replaces may be deleted at the hosts.

A host may say that it took what it did not, or show a manifest to one device only. What is deleted
elsewhere on its word alone would be gone: so the newest manifest has to be at more than half of the
hosts, and what it lists at as many as it should be, before anything older goes. Believes lists as
far as they go: two hosts that lie together are what more copies are for. docs/threat-model.md.
"""

from __future__ import annotations

import asyncio

from kwaai.errors import KwaaiError, ManifestConflict
from kwaai.limits import VPK_READ_S_MAX
from kwaai.vpk.base_core import Core
from kwaai.vpk.erasure import parse_coding
from kwaai.vpk.manifest import Manifest, SegmentRef, verify_manifest
from kwaai.vpk.types import ID_BYTES

_COPIES = 2
"""Of a whole segment, where there are so many hosts: one may lie."""


async def may_delete_segments(core: Core) -> bool:
    """Say so. Brings the newest manifest to hosts that lack it. Raises TooFewHosts, ResourceError
    where they cannot be asked.
    """
    mine = await asyncio.to_thread(core.manifest_bytes)
    if mine is None:
        return True

    def verify(data: bytes) -> Manifest:
        return verify_manifest(data, core.tenant, core.keys)

    found = await core.hosts.get_manifest(core.id, verify)
    if found is None or found.data != mine or found.rivals:
        return False
    have = len(found.hosts)
    if found.stale:
        try:
            put = await core.hosts.put_manifest(core.id, found.manifest.sequence, mine, verify)
        except ManifestConflict:
            return False
        have = len(put.hosts)
    if 2 * have <= len(core.hosts.members):
        return False
    for ref in found.manifest.segments:
        if not await _is_kept(core, ref):
            return False
    return True


async def _is_kept(core: Core, ref: SegmentRef) -> bool:
    """Say whether as many hosts list a segment as could spare one of them."""
    coding = parse_coding(ref.coding, core.hosts.replicas)
    needed = min(_COPIES, core.hosts.replicas)
    if not coding.is_whole:
        needed = coding.least + (coding.count - coding.least + 1) // 2
    number = int.from_bytes(ref.id, "big")
    after = (number - 1).to_bytes(ID_BYTES, "big") if number else b""
    roster = core.hosts.roster
    answers = await asyncio.gather(
        *(
            roster.ask(i, member.host.list_ids(core.id, after, 1), VPK_READ_S_MAX)
            for i, member in enumerate(core.hosts.members)
        )
    )
    listing = sum(1 for a in answers if not isinstance(a, KwaaiError) and a == [ref.id])
    return listing >= needed
