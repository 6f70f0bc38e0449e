"""Passages without showing which: two hosts of different owners, and XOR of random rows.

Every search asks for the same number of rows of a table of all passages, in one call to each host,
whatever it found. That the hosts do not compare notes is assumed; that they answer truly is not:
what does not open is not used. docs/vpk.md, "Mode oblivious".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kwaai.errors import Busy, PeerError, PeerRefused, ResourceError, SealBroken, TooFewHosts
from kwaai.limits import (
    BASE_LIST_IDS,
    BASE_PIR_IDS_MAX,
    BASE_PIR_ROWS_READ,
    BASE_PIR_S_MAX,
    VPK_FRAGMENT_BYTES_MAX,
)
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core, PirIds, open_texts
from kwaai.vpk.base_holdings import BaseHoldings, live_keys
from kwaai.vpk.commit import oblivious_text_bytes
from kwaai.vpk.host_large import large_ids
from kwaai.vpk.keys import TEXT
from kwaai.vpk.pir import combine, describe_table, make_masks
from kwaai.vpk.records import TextRecord
from kwaai.vpk.segments import rows_of
from kwaai.vpk.types import Host, PirTable

_TRIES = 2  # a table that has changed is looked at once more


@dataclass(frozen=True, slots=True)
class Read:
    """What one oblivious read brought."""

    records: dict[bytes, TextRecord]
    """By id."""
    payload_bytes: int
    """Both ways, both hosts."""
    problem: str = ""
    """Why not all, in a sentence."""


async def read_texts(core: Core, ids: Sequence[bytes]) -> Read:
    """Read up to BASE_PIR_ROWS_READ passages; hosts see a read of that many, whatever `ids` are.
    Never raises for hosts that fail.
    """
    try:
        pair = core.hosts.pir_pair()
        async with asyncio.timeout(BASE_PIR_S_MAX):
            return await _read(core, pair, ids)
    except (PeerError, ResourceError) as error:
        return Read({}, 0, error.message)
    except TimeoutError:
        return Read({}, 0, f"the two hosts did not answer within {BASE_PIR_S_MAX:.0f} s")


async def _read(core: Core, pair: tuple[Host, Host], ids: Sequence[bytes]) -> Read:
    for _ in range(_TRIES):
        known = core.pir or await _look(core, pair)
        core.pir = known
        places = [known.place(object_id) for object_id in ids]
        wanted = [(n, place) for n, place in enumerate(places) if place is not None]
        masks = make_masks(known.table.rows, [place for _, place in wanted], BASE_PIR_ROWS_READ)
        try:
            answers = await asyncio.gather(
                *(
                    host.pir(core.id, known.table, mask)
                    for host, mask in zip(pair, masks, strict=True)
                )
            )
        except PeerRefused:  # the table has changed since: somebody has written
            core.pir = None
            continue
        combined = combine(answers[0], answers[1], len(wanted), known.table.row_bytes)
        found = [(ids[n], row) for (n, _), row in zip(wanted, combined, strict=True)]
        size = sum(len(part) for side in (*masks, *answers) for part in side)
        return await asyncio.to_thread(_open, core, found, len(ids), size)
    raise Busy("the table of passages changes all the time; search again", retry_after_s=1.0)


def _open(core: Core, found: list[tuple[bytes, bytes]], wanted: int, size: int) -> Read:
    records = {}
    for object_id, sealed in found:
        try:
            records[object_id] = open_texts(core, [(object_id, sealed)])[0]
        except SealBroken:
            continue
    missing = wanted - len(records)
    problem = ""
    if missing:
        problem = (
            f"{missing} of {wanted} passages did not come: a host's part does not open, or is not "
            "there any more"
        )
    return Read(records, size, problem)


async def _look(core: Core, pair: tuple[Host, Host]) -> PirIds:
    """Find out which ids the table of both hosts has. Raises TooFewHosts where they differ."""
    size = oblivious_text_bytes()
    one, other = await asyncio.gather(*(host.pir_table(core.id, size) for host in pair))
    if one != other:
        raise TooFewHosts(
            "the two hosts do not have the same passages, so that none can be read from both; "
            "run: kwaainet vpk repair"
        )
    ids = await asyncio.to_thread(_expected, core)
    if describe_table(ids, size) == one:
        return PirIds(one, tuple(sorted(ids)))
    return await _listed(core, pair[0], one)


def _expected(core: Core) -> list[bytes]:
    """The ids of all texts that this device knows to be at the hosts."""
    keys = live_keys(core)[1]
    with core.reader.read() as connection:
        runs = [*rows.garbage(connection)[0], *rows.reserved(connection)]
    gone = rows_of(runs)
    return list({*core.keys.record_ids(TEXT, np.concatenate((keys, gone)))})


async def _listed(core: Core, host: Host, table: PirTable) -> PirIds:
    """Ask which ids there are: another device may have written, and not published yet."""
    ids: list[bytes] = []
    while len(ids) < BASE_PIR_IDS_MAX:
        page = await host.list_ids(core.id, ids[-1] if ids else b"", BASE_LIST_IDS)
        if not page or (ids and page[0] <= ids[-1]):
            break
        ids += page
    large = {
        part
        for ref, size, _ in BaseHoldings(core).large()
        for part in large_ids(ref, -(-size // VPK_FRAGMENT_BYTES_MAX) + 1)
    }
    texts = [each for each in ids if each not in large]
    if describe_table(texts, table.row_bytes) != table:
        raise TooFewHosts(
            "the hosts have passages that this device does not know of: another one is writing; "
            "search again when it has published"
        )
    return PirIds(table, tuple(texts))
