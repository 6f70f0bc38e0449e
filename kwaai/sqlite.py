"""SQLite files of this node: one file, one connection, one transaction at a time.

With a key, pages, and with them the write-ahead log, are encrypted with ChaCha20-Poly1305 (SQLite3
Multiple Ciphers, "sqleet"); temporary data stays in memory. Outside the ciphertext are bytes 16 to
23 of the file (page size, format), and in the log its page numbers.

A `Database` may be used from any thread: a transaction holds a lock, so that others wait. Other
processes may read and write at the same time: SQLite's own locks keep them apart, and who waits
longer than `Schema.busy_s` is told so. What a `write` has left is on the disk (synchronous FULL).
Does not know what the tables mean, and makes no key.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apsw

from kwaai.atomic import disk_errors
from kwaai.errors import ConfigError, DiskFull, FileCorrupt, Locked, ResourceError, UserError

DATABASE_MODE = 0o600
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database is, and how it is opened."""

    what: str
    """As messages name it: "wallet"."""
    application_id: int
    """`PRAGMA application_id`, so that no other database is taken for one of these."""
    migrations: tuple[str, ...]
    """Step n takes a database from version n to n + 1 (`PRAGMA user_version`), in one transaction
    with the others that are due. A released step is never changed.
    """
    remedy: str
    """What to do about a damaged one."""
    busy_s: float
    cache_bytes: int
    page_bytes: int = 4096
    """Of a new file."""
    auto_vacuum: Literal["none", "incremental"] = "none"
    """Of a new file. incremental: `PRAGMA incremental_vacuum` gives free pages back."""


class Database:
    """An open database. Made by `open_database`."""

    def __init__(self, path: Path, connection: apsw.Connection, schema: Schema) -> None:
        self.path = path
        self._connection = connection
        self._schema = schema
        self._lock = threading.RLock()
        self._writing = False

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r})"

    @contextlib.contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """Hold the connection while one state of the database is read. Inside a `write` of the same
        thread it is that one's state.
        """
        with self._transaction(writing=False) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """Hold the connection, alone among all processes, for changes that are kept together, or
        not at all where the block raises. Inside another `write` of the same thread they are its.

        Raises Locked where another process does not let go, DiskFull, FileCorrupt.
        """
        with self._transaction(writing=True) as connection:
            yield connection

    @contextlib.contextmanager
    def outside(self) -> Iterator[apsw.Connection]:
        """Hold the connection outside a transaction, for what SQLite does not do inside one:
        checkpoints, vacuum.
        """
        with self._lock, _errors_named(self.path, self._schema):
            if self._connection.in_transaction:
                raise RuntimeError("this thread is inside a transaction")
            yield self._connection

    def shrink(self, pages: int, free_min: int) -> bool:
        """Give up to `pages` free pages back to the disk, where at least `free_min` are free; say
        whether there are as many still. Of a file with incremental vacuum.
        """
        with self.read() as connection:
            free: int = connection.pragma("freelist_count")
        if free < free_min:
            return False
        has_more = free - pages >= free_min
        with self.outside() as connection:
            connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
            if not has_more:  # the file shrinks when the log is written back
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return has_more

    def check(self) -> None:
        """Read every page and index. Raises FileCorrupt."""
        with self.read() as connection:
            found = connection.execute("PRAGMA integrity_check(1)").get
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        if found != "ok" or broken:
            said = found if found != "ok" else "rows without the rows that they belong to"
            raise FileCorrupt(
                f"the {self._schema.what} {self.path} is damaged ({said:.200}); "
                f"{self._schema.remedy}"
            )

    def close(self) -> None:
        """Close the connection: the last one to do so tidies the log away. Twice is once."""
        with self._lock, _errors_named(self.path, self._schema):
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self, *, writing: bool) -> Iterator[apsw.Connection]:
        with self._lock, _errors_named(self.path, self._schema):
            connection = self._connection
            if connection.in_transaction:
                if writing and not self._writing:
                    raise RuntimeError("a write inside a read could meet another's change")
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            self._writing = writing
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself on a full disk
                    connection.execute("ROLLBACK")
                raise


def create_database(path: Path) -> None:
    """Put an empty file, which the log's files take their mode from, where none is."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with disk_errors(path):
        descriptor = os.open(path, flags, DATABASE_MODE)
        try:
            os.fchmod(descriptor, DATABASE_MODE)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_database(path: Path, schema: Schema, key: bytes | None) -> Database:
    """Open a database that is there, and bring it to today's version. An empty file becomes one.

    `key`: KEY_BYTES bytes; None: pages are not encrypted. The caller keeps others from opening it
    meanwhile. Raises ConfigError (mode, newer version), FileCorrupt (not under this key, or
    damaged), Locked, DiskFull.
    """
    check_mode(path)
    with _errors_named(path, schema):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            if key is not None:
                _set_key(connection, key)
            connection.set_busy_timeout(int(schema.busy_s * 1000))
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
            connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
            if not connection.execute("SELECT count(*) FROM sqlite_schema").get:
                connection.pragma("page_size", schema.page_bytes)
                connection.pragma("auto_vacuum", schema.auto_vacuum)
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("foreign_keys", True)
            connection.pragma("temp_store", "memory")
            connection.pragma("cache_size", -(schema.cache_bytes // 1024))
            _migrate(path, connection, schema)
        except BaseException:
            connection.close()
            raise
    return Database(path, connection, schema)


def check_mode(path: Path) -> None:
    """Refuse a file that other users may read or write. Raises ConfigError."""
    with disk_errors(path):
        status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file; move it away")
    if mode & 0o077:
        raise ConfigError(f"{path} is open to other users (mode {mode:04o}); run: chmod 600 {path}")


def _set_key(connection: apsw.Connection, key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a database key has {KEY_BYTES} bytes")
    connection.execute("PRAGMA cipher = 'chacha20'", can_cache=False)
    # "raw:" says that the key is one, and no passphrase to derive one from.
    raw = (b"raw:" + key).hex()
    try:
        connection.execute(f"PRAGMA hexkey = '{raw}'", can_cache=False)
    except apsw.Error as error:
        raise ConfigError(
            f"this SQLite cannot encrypt ({type(error).__name__}); install apsw-sqlite3mc"
        ) from None  # the message could hold the statement, and that the key


def _migrate(path: Path, connection: apsw.Connection, schema: Schema) -> None:
    current = connection.pragma("user_version"), connection.pragma("application_id")
    if current == (len(schema.migrations), schema.application_id):
        return  # nothing to write, for which a full disk had no room
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.pragma("user_version")
        application = connection.pragma("application_id")
        known = len(schema.migrations)
        if version > known and application == schema.application_id:
            raise ConfigError(
                f"the {schema.what} {path} was made by a newer kwaainet (version {version}, this "
                f"one knows {known}); update kwaainet"
            )
        if version and application != schema.application_id:
            raise FileCorrupt(f"{path} is a database, and no {schema.what}; move it away")
        for step in schema.migrations[version:]:
            connection.execute(step)
        connection.pragma("application_id", schema.application_id)
        connection.pragma("user_version", known)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _errors_named(path: Path, schema: Schema) -> Iterator[None]:
    what = f"the {schema.what} {path}"
    try:
        yield
    except apsw.BusyError as error:
        raise Locked(
            f"{what} is in use by another process for longer than {schema.busy_s:.0f} s; try again",
            retry_after_s=1.0,
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"this text is not UTF-8: nothing in a {schema.what} has such a name"
        ) from error
    except apsw.FullError as error:
        raise DiskFull(f"no room left on the disk for {what}; free some space") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise FileCorrupt(f"{what} is damaged, or not under its key; {schema.remedy}") from error
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError) as error:
        raise ConfigError(
            f"{what} cannot be opened for writing ({error}); look at its mode and owner"
        ) from error
    except (apsw.IOError, apsw.NoMemError) as error:
        raise ResourceError(f"the disk or memory failed {what}: {error}") from error
