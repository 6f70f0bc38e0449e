"""What all parts of an open base share: its keys, its database, its hosts, one writer at a time.

Values and the file; the work is in `commit`, `publish`, `query`, `restore`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from numpy.typing import NDArray

from kwaai.atomic import disk_errors, exclusive_lock, sync_directory
from kwaai.errors import (
    BaseExists,
    BaseMissing,
    EmbedderMismatch,
    FileCorrupt,
    Locked,
    RecordInvalid,
    SealBroken,
    StorageRefused,
    UserError,
)
from kwaai.limits import VPK_BASE_NAME_CHARS_MAX, VPK_DIMENSION_MAX
from kwaai.sqlite import Database, create_database, open_database
from kwaai.vpk import base_rows as rows
from kwaai.vpk.access import BaseAccess, KeySource
from kwaai.vpk.base_state import BaseState
from kwaai.vpk.codes import load_early
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keys import TEXT, BaseKeys
from kwaai.vpk.manifest import Manifest
from kwaai.vpk.records import TextRecord, parse_text
from kwaai.vpk.seal import open_many
from kwaai.vpk.types import ID_BYTES, BaseMode, EmbedderSpec, Object, PirTable

if TYPE_CHECKING:
    import apsw

_SUFFIX: Final = ".db"
_WRITER_BITS: Final = 63  # what SQLite's integers hold without a sign


@dataclass(frozen=True, slots=True)
class Identity:
    """What never changes about a base, or only with all its vectors."""

    id: bytes
    name: str
    mode: BaseMode
    spec: EmbedderSpec | None
    created_s: float


@dataclass(frozen=True, slots=True)
class PirIds:
    """The table of passages that two hosts have, in mode oblivious."""

    table: PirTable
    ids: tuple[bytes, ...]
    """Ascending."""

    def place(self, object_id: bytes) -> int | None:
        """Return the row of an object."""
        at = bisect_left(self.ids, object_id)
        return at if at < len(self.ids) and self.ids[at] == object_id else None


@dataclass(slots=True)
class Core:
    """An open base. One event loop; its database may be read by other processes too."""

    path: Path
    access: BaseAccess
    identity: Identity
    hosts: HostSet
    database: Database
    reader: Database
    """A second connection, so that searches do not wait for commits."""
    clock: Callable[[], float]
    resources: contextlib.ExitStack
    writable: bool
    state: BaseState = field(default_factory=BaseState)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    writer: int = field(default_factory=lambda: secrets.randbits(_WRITER_BITS))
    """Of this opening: a copy of the file that comes back from a backup, or is opened elsewhere,
    numbers its rows under another one, and never names an object that is there.
    """
    thin: bool = False
    """A thin client's: centroids alone are here (`thin_base`)."""
    pir: PirIds | None = None
    """As of the last search; None: to be looked at again."""

    @property
    def id(self) -> bytes:
        return self.identity.id

    @property
    def tenant(self) -> bytes:
        """The tenant's public key."""
        return self.access.tenant

    @property
    def keys(self) -> BaseKeys:
        return self.access.keys

    @property
    def is_own(self) -> bool:
        """False: it is somebody else's, and can be read."""
        return self.access.signer is not None

    @property
    def spec(self) -> EmbedderSpec | None:
        return self.identity.spec

    @property
    def oblivious(self) -> bool:
        return self.identity.mode == "oblivious"

    def check_writable(self) -> None:
        """Raises StorageRefused for a base of somebody else's, and Locked as `check_lock` does."""
        self.access.check_owner(self.identity.name)
        if self.thin:
            raise StorageRefused(
                f"{self.identity.name} is a thin client's copy: it can be asked here, not changed; "
                f"fetch all of it with: kwaainet rag restore {self.identity.name}"
            )
        self.check_lock()

    def check_lock(self) -> None:
        """Raises Locked for a base that was opened to read: its file may not be changed."""
        if not self.writable:
            raise Locked(
                f"the knowledge base {self.identity.name} was opened to be read; another process "
                "writes to it"
            )

    def manifest_bytes(self) -> bytes | None:
        """Return the newest manifest that this device has taken in."""
        with self.reader.read() as connection:
            return rows.get_meta(connection, "manifest")

    def close(self) -> None:
        """Close files. Idempotent."""
        self.resources.close()


def local_path(directory: Path) -> Path:
    """Return the database in a base's directory. Raises BaseMissing."""
    with disk_errors(directory):
        found = sorted(directory.glob(f"*{_SUFFIX}")) if directory.is_dir() else []
    named = [path for path in found if len(path.stem) == 2 * ID_BYTES and _is_hex(path.stem)]
    if len(named) != 1:
        raise BaseMissing(f"there is no knowledge base in {directory}")
    return named[0]


def base_id_at(directory: Path) -> bytes:
    """Return the id of the base that lies in a directory. Raises BaseMissing."""
    return bytes.fromhex(local_path(directory).stem)


def open_texts(core: Core, objects: list[Object]) -> list[TextRecord]:
    """Open and parse passages. Raises SealBroken."""
    plains = open_many(core.keys, core.tenant, TEXT, objects)
    try:
        return [parse_text(plain) for plain in plains]
    except RecordInvalid as error:
        raise SealBroken(error.message) from error


def delete_files(directory: Path) -> None:
    """Delete a base's files, and the directory where nothing else is in it."""
    with disk_errors(directory):
        for path in directory.glob(f"*{_SUFFIX}*"):
            path.unlink()
        (directory / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files: not this program's
            directory.rmdir()


def check_name(name: str) -> None:
    """Raises UserError for what cannot be a base's name."""
    nbytes = len(name.encode("utf-8", "surrogatepass"))
    long = nbytes > VPK_BASE_NAME_CHARS_MAX
    if not name or long or not name.isprintable() or "/" in name:
        raise UserError(
            f"a knowledge base's name has 1 to {VPK_BASE_NAME_CHARS_MAX} printable characters, "
            "and no slash",
            param="base",
        )


def make(
    directory: Path,
    source: KeySource,
    identity: Identity,
    hosts: HostSet,
    clock: Callable[[], float],
) -> Core:
    """Make the database of a base in a directory of its own. Raises BaseExists."""
    with disk_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.glob(f"*{_SUFFIX}")):
            raise BaseExists(f"there is a knowledge base in {directory} already")
    path = directory / f"{identity.id.hex()}{_SUFFIX}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusive_lock(directory / "lock", timeout_s=0.0))
        unfinished = path.with_suffix(f"{_SUFFIX}.new")
        for old in directory.glob(f"*{_SUFFIX}.new*"):  # of a try that was killed
            old.unlink()
        create_database(unfinished)
        database = open_database(unfinished, rows.SCHEMA, source.access(identity.id).local_key)
        try:
            with database.write() as connection:
                save_identity(connection, identity)
        finally:
            database.close()
        with disk_errors(path):
            unfinished.rename(path)
            sync_directory(directory)
    return load(directory, source, hosts, clock, writable=True)


def load(
    directory: Path,
    source: KeySource,
    hosts: HostSet,
    clock: Callable[[], float] = time.time,
    *,
    writable: bool,
) -> Core:
    """Open the base in a directory; `writable` takes its lock. Raises BaseMissing, Locked,
    FileCorrupt (also: another root key).
    """
    path = local_path(directory)
    base_id = bytes.fromhex(path.stem)
    access = source.access(base_id)
    with contextlib.ExitStack() as stack:
        if writable:
            stack.enter_context(exclusive_lock(directory / "lock", timeout_s=0.0))
        databases = []
        for _ in range(2):
            opened = open_database(path, rows.SCHEMA, access.local_key)
            stack.callback(opened.close)
            databases.append(opened)
        with databases[1].read() as connection:
            identity = load_identity(connection, base_id)
            thin = rows.get_meta(connection, "thin client") is not None
        if identity.spec is not None:
            load_early()
        return Core(
            path=directory,
            access=access,
            identity=identity,
            hosts=hosts,
            database=databases[0],
            reader=databases[1],
            clock=clock,
            resources=stack.pop_all(),
            writable=writable,
            thin=thin,
        )


def save_identity(connection: apsw.Connection, identity: Identity) -> None:
    spec = None if identity.spec is None else asdict(identity.spec)
    said = {
        "name": identity.name,
        "mode": identity.mode,
        "spec": spec,
        "created_s": identity.created_s,
    }
    rows.set_meta(connection, "identity", json.dumps(said).encode())


def load_identity(connection: apsw.Connection, base_id: bytes) -> Identity:
    data = rows.get_meta(connection, "identity")
    try:
        if data is None:
            raise ValueError("it is not finished")
        said = json.loads(data)
        spec = None if said["spec"] is None else EmbedderSpec(**said["spec"])
        return Identity(
            base_id, said["name"], cast(BaseMode, said["mode"]), spec, float(said["created_s"])
        )
    except (ValueError, TypeError, KeyError) as error:
        raise FileCorrupt(
            f"the knowledge base's database is damaged ({error}); {rows.SCHEMA.remedy}"
        ) from error


def check_spec(identity: Identity, spec: EmbedderSpec | None) -> None:
    """Refuse vectors of another model. Raises EmbedderMismatch."""
    mine = identity.spec
    if spec is None or mine is None or mine == spec:
        return
    raise EmbedderMismatch(
        f"the vectors of {identity.name} were made by {mine.model} ({mine.dimension} dimensions, "
        f"{mine.sha256[:12] or 'no digest'}), not by {spec.model} ({spec.dimension}, "
        f"{spec.sha256[:12] or 'no digest'}): set knowledge_embedder back, or make a new base"
    )


def check_vectors(
    identity: Identity, vectors: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Return vectors of length 1, float32, (count, dimension). Raises EmbedderMismatch,
    UserError.
    """
    spec = identity.spec
    if spec is None:
        raise EmbedderMismatch(f"{identity.name} is a base for full text alone: it has no vectors")
    if vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] > VPK_DIMENSION_MAX:
        raise UserError(f"vectors come as ({count}, dimension), not {vectors.shape}")
    if vectors.shape[1] != spec.dimension:
        raise EmbedderMismatch(
            f"vectors of {vectors.shape[1]} dimensions; those of {identity.name} have "
            f"{spec.dimension} ({spec.model})"
        )
    vectors = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise UserError("a vector has a number that is not finite")
    if spec.normalised:
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def check_same_base(identity: Identity, manifest: Manifest) -> None:
    """Raises RecordInvalid for a manifest that says another mode: another program wrote it."""
    if manifest.mode != identity.mode:
        raise RecordInvalid(f"the manifest of {identity.name} is of mode {manifest.mode}")


def _is_hex(text: str) -> bool:
    return all(sign in "0123456789abcdef" for sign in text)
