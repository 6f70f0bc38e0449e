"""The wallet's database: one encrypted SQLite file (`kwaai.sqlite`) with the wallet's tables.

Does not know what the tables mean, and makes no key: `kwaai.store.wallet_key` does.
"""

from __future__ import annotations

from pathlib import Path

from kwaai import sqlite
from kwaai.limits import WALLET_BUSY_S, WALLET_CACHE_BYTES
from kwaai.sqlite import KEY_BYTES, Database, check_mode, create_database
from kwaai.store.migrations import APPLICATION_ID, MIGRATIONS

__all__ = ["KEY_BYTES", "Database", "check_mode", "create_database", "open_database"]


def open_database(path: Path, key: bytes) -> Database:
    """Open a wallet's database, as `kwaai.sqlite.open_database` does."""
    schema = sqlite.Schema(
        what="wallet",
        application_id=APPLICATION_ID,
        migrations=tuple(MIGRATIONS),
        remedy="restore it from a backup: kwaainet credential restore",
        busy_s=WALLET_BUSY_S,
        cache_bytes=WALLET_CACHE_BYTES,
    )
    return sqlite.open_database(path, schema, key)
