"""Cells of a base, for thin clients: made again, named by the next manifest, older ones deleted.

What may lie at hosts and is not named (a kill while they are made, hosts that were away when they
were replaced) is remembered, and swept. What a cell is: `thin`; how it is put: `thin_store`.
docs/vpk.md, "Cells for thin clients".
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import ResourceError, TooFewHosts, UserError
from kwaai.limits import THIN_STRAYS_MAX
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core
from kwaai.vpk.base_holdings import live_keys
from kwaai.vpk.segments import rows_of, runs_of
from kwaai.vpk.takeover import verify
from kwaai.vpk.thin_store import (
    REF_BYTES,
    ThinRef,
    delete_cells,
    encode_ref,
    is_current,
    parse_ref,
    put_cells,
)

if TYPE_CHECKING:
    import apsw

_NAMED: Final = "thin"
"""What the next manifest says."""
_STRAYS: Final = "thin strays"
"""Those that may lie at hosts beside it."""
_COVERED: Final = "thin rows"
"""Generation, and the runs of rows that are in it: where this device has made them."""


async def make_cells(core: Core) -> ThinRef:
    """Put cells of all live rows with vectors; `name` has the next manifest name them. Raises
    UserError (no vectors, mode oblivious), ResourceError, TooFewHosts, StorageFull.
    """
    core.check_writable()
    if core.oblivious:
        raise UserError(
            f"{core.identity.name} is in mode oblivious: which cells a thin client reads would "
            "tell hosts what it looks for"
        )
    async with core.writing:
        if len(await asyncio.to_thread(_strays, core)) >= THIN_STRAYS_MAX:
            await _sweep(core)
        keys, _ = await asyncio.to_thread(live_keys, core)
        params = await asyncio.to_thread(_get, core, "params")
        if not len(keys) or not params:
            raise UserError(f"{core.identity.name} has no vectors at its hosts to make cells of")
        ref = await put_cells(
            core.hosts, core.keys, core.tenant, params, keys, partial(_note_stray, core)
        )
        runs = await asyncio.to_thread(lambda: runs_of(_sorted(keys)))
        with core.database.write() as connection:
            covered = ref.generation + runs.astype("<u8").tobytes()
            rows.set_meta(connection, _COVERED, covered)
        return ref


def _note_stray(core: Core, ref: ThinRef) -> None:
    """Remember cells before the first of them is put."""
    with core.database.write() as connection:
        _add_stray(connection, ref)


def _add_stray(connection: apsw.Connection, ref: ThinRef) -> None:
    strays = rows.get_meta(connection, _STRAYS) or b""
    if len(strays) >= THIN_STRAYS_MAX * REF_BYTES:
        raise ResourceError(
            "cells that were given up before cannot be deleted: their hosts do not answer; try "
            "again when they do",
            retry_after_s=60.0,
        )
    rows.set_meta(connection, _STRAYS, strays + encode_ref(ref))


async def name(core: Core, ref: ThinRef | None) -> None:
    """Have the next manifest name these cells, and no others; None: none."""
    core.check_writable()
    async with core.writing:
        with core.database.write() as connection:
            older = parse_ref(rows.get_meta(connection, _NAMED) or b"")
            if older is not None and (ref is None or older.generation != ref.generation):
                _add_stray(connection, older)
            rows.set_meta(connection, _NAMED, b"" if ref is None else encode_ref(ref))


def named(core: Core) -> ThinRef | None:
    """Return the cells that the next manifest names: those of the newest one, unless they are just
    being replaced; None: there are none, or of older codes.
    """
    ref = parse_ref(_get(core, _NAMED))
    return ref if is_current(ref, _get(core, "params")) else None


def changed(core: Core) -> float:
    """Return how many rows have come and gone since the cells were made, as a share of theirs; 1
    for cells of older codes, 0 where there are none, or no rows any more.
    """
    ref = parse_ref(_get(core, _NAMED))
    if ref is None:
        return 0.0
    if named(core) is None:
        return 1.0
    live, _ = live_keys(core)
    if not len(live):
        return 0.0  # nothing to make cells of
    known = _get(core, _COVERED)
    size = len(ref.generation)
    if known[:size] != ref.generation:  # another device has made them
        return abs(len(live) - ref.rows) / max(1, ref.rows)
    covered = rows_of(np.frombuffer(known, "<u8", offset=size).reshape(-1, 3).tolist())
    return _difference(live, covered) / max(1, len(covered))


def _difference(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> int:
    """Return how many rows ((n, 2), each once) are in one of them alone."""
    both = _sorted(np.concatenate((one, other)))
    pairs = np.count_nonzero((both[1:] == both[:-1]).all(axis=1))
    return len(both) - 2 * int(pairs)


def _sorted(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return keys[np.lexsort((keys[:, 1], keys[:, 0]))]


async def sweep(core: Core) -> bool:
    """Delete cells that no manifest names; say whether any are left, for hosts that are away."""
    async with core.writing:
        return await _sweep(core)


async def _sweep(core: Core) -> bool:
    strays = await asyncio.to_thread(_strays, core)
    if not strays:
        return False
    if await asyncio.to_thread(_get, core, "offered"):
        return True  # what hosts made of that manifest is not known yet
    alive = await asyncio.to_thread(_alive, core)
    left = []
    for ref in strays:
        if ref.generation in alive:
            continue
        try:
            if not await delete_cells(core.hosts, core.keys, ref):
                left.append(ref)
        except (TooFewHosts, ResourceError):
            left.append(ref)
    with core.database.write() as connection:
        rows.set_meta(connection, _STRAYS, b"".join(encode_ref(ref) for ref in left))
    return bool(left)


def _alive(core: Core) -> set[bytes]:
    """Return the generations that the newest manifest and the next one name."""
    data = core.manifest_bytes()
    published = b"" if data is None else verify(core, data).thin
    refs = (parse_ref(published), parse_ref(_get(core, _NAMED)))
    return {ref.generation for ref in refs if ref is not None}


def _strays(core: Core) -> list[ThinRef]:
    data = _get(core, _STRAYS)
    found = [parse_ref(data[at : at + REF_BYTES]) for at in range(0, len(data), REF_BYTES)]
    return [ref for ref in found if ref is not None]


def _get(core: Core, key: str) -> bytes:
    with core.database.read() as connection:
        return rows.get_meta(connection, key) or b""
