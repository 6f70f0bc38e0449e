"""Cells of a base, for thin clients: made again, named by the next manifest, older ones deleted.

What a cell is: `thin`; how it is put: `thin_store`. docs/vpk.md, "Cells for thin clients".
"""

from __future__ import annotations

import asyncio

from kwaai.errors import UserError
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core
from kwaai.vpk.base_holdings import live_keys
from kwaai.vpk.thin_store import delete_cells, encode_ref, parse_ref, put_cells


async def make_cells(core: Core) -> int:
    """Put cells of all live rows with vectors; the next manifest names them. Return how many."""
    core.check_writable()
    async with core.writing:
        keys, _ = await asyncio.to_thread(live_keys, core)
        params = await asyncio.to_thread(_get, core, "params")
        if not len(keys) or not params:
            raise UserError(f"{core.identity.name} has no vectors at its hosts to make cells of")
        older = await asyncio.to_thread(_get, core, "thin")
        ref = await put_cells(core.hosts, core.keys, core.tenant, params, keys)
        with core.database.write() as connection:
            rows.set_meta(connection, "thin", encode_ref(ref))
            rows.set_meta(connection, "thin older", older)
        return ref.cells


async def forget_old_cells(core: Core) -> None:
    """Delete the cells that the published manifest names no more."""
    async with core.writing:
        older = parse_ref(await asyncio.to_thread(_get, core, "thin older"))
        if older is not None and older != parse_ref(await asyncio.to_thread(_get, core, "thin")):
            await delete_cells(core.hosts, core.keys, older)
        with core.database.write() as connection:
            rows.forget_meta(connection, "thin older")


def _get(core: Core, name: str) -> bytes:
    with core.database.read() as connection:
        return rows.get_meta(connection, name) or b""
