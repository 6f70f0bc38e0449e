"""Where a node's knowledge lies on its disk, and the file with its root key.

Opens no base: `kwaai.node.knowledge_service` does. The key file (mode 0600) holds the text of
`kwaai.vpk.keys.encode_root_key`. Layout, below `knowledge` in the home: `root.key`, `hosted` (this
node's own copies), and a folder for each base, named by its id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from kwaai.atomic import disk_errors, exclusive_lock
from kwaai.config import Config
from kwaai.errors import ConfigError, FileCorrupt, InputMissing, UserError
from kwaai.limits import SECRET_FILE_BYTES_MAX, WALLET_BUSY_S
from kwaai.store.home import DIRECTORY_MODE, Home
from kwaai.store.key_file import create_exclusive
from kwaai.store.secret_file import read_api_key
from kwaai.vpk.keys import RootKey, encode_root_key, new_root_key, parse_root_key

KEY_MODE = 0o600


class KnowledgeHome:
    """The paths of one node's knowledge. Nothing here need exist yet."""

    def __init__(self, home: Home, config: Config) -> None:
        self.path = config.knowledge_dir or home.path / "knowledge"
        self.key_file = self.path / "root.key"
        self.bases = self.path / "bases"
        self.own_host = self.path / "own"
        """This node's own copies of its sealed objects."""
        self.uploads = self.path / "uploads"

    def base_path(self, base_id: bytes) -> Path:
        """Return the folder of a base."""
        return self.bases / base_id.hex()

    def base_ids(self) -> tuple[bytes, ...]:
        """Return the ids of the bases on this disk."""
        try:
            names = sorted(os.listdir(self.bases))
        except FileNotFoundError:
            return ()
        ids = []
        for name in names:
            try:
                ids.append(bytes.fromhex(name))
            except ValueError:
                continue  # not ours
        return tuple(base for base in ids if len(base) == 16)

    def remove_base(self, base_id: bytes) -> None:
        """Delete the folder of a base, in two steps: what is half deleted is never opened."""
        place = self.base_path(base_id)
        gone = place.with_name(f".gone-{base_id.hex()}")
        with contextlib.suppress(FileNotFoundError):
            place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what a killed process left of making, sharing or deleting a base, and uploads."""
        shutil.rmtree(self.uploads, ignore_errors=True)
        if self.bases.is_dir():
            for path in self.bases.iterdir():
                if path.name.startswith((".new-", ".attach-", ".thin-", ".gone-")):
                    shutil.rmtree(path, ignore_errors=True)

    def ensure(self) -> None:
        """Make the folders, for this user only. Raises ConfigError, DiskFull."""
        for path in (self.path, self.bases, self.own_host):
            with disk_errors(path):
                path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)

    def load_key(self) -> RootKey | None:
        """Return the root key; None where there is none. Raises ConfigError (who may read it),
        FileCorrupt.
        """
        try:
            descriptor = os.open(self.key_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"cannot read {self.key_file}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if not stat.S_ISREG(status.st_mode) or mode & 0o077:
                raise ConfigError(
                    f"{self.key_file} is open to other users (mode {mode:04o}), or no file; run: "
                    f"chmod 600 {self.key_file}"
                )
            data = file.read(SECRET_FILE_BYTES_MAX + 1)
        try:
            return parse_root_key(data.decode("ascii"))
        except (UserError, UnicodeDecodeError) as error:
            raise FileCorrupt(
                f"{self.key_file} holds no root key; restore it: kwaainet vpk key import FILE"
            ) from error

    def ensure_key(self) -> RootKey:
        """Return the root key; make one where there is none. Raises as `load_key`, DiskFull."""
        self.ensure()
        with exclusive_lock(self.path / ".root.lock", WALLET_BUSY_S):
            root = self.load_key()
            if root is None:
                root = new_root_key()
                self._write(root)
        return root

    def export_key(self) -> str:
        """Return the root key as text. Raises InputMissing where there is none."""
        root = self.load_key()
        if root is None:
            raise InputMissing("there is no root key yet; `kwaainet rag init` makes one")
        return encode_root_key(root)

    def import_key(self, text: str) -> str:
        """Use the root key that `text` spells; return the tenant's id as hex digits.

        Raises UserError for no key, and where another one has bases here.
        """
        root = parse_root_key(text)
        self.ensure()
        with exclusive_lock(self.path / ".root.lock", WALLET_BUSY_S):
            present = self.load_key()
            if present is not None and present.expose() == root.expose():
                return root.tenant().public.raw.hex()
            if present is not None and self.base_ids():
                raise UserError(
                    f"{self.key_file} is another key, and has bases here; export it, then destroy "
                    "them (kwaainet rag destroy), or give this one a home of its own"
                )
            if present is not None:
                self.key_file.unlink()
            self._write(root)
        return root.tenant().public.raw.hex()

    def tenant(self) -> str:
        """Return the tenant's id as hex digits; empty where there is no key."""
        root = self.load_key()
        return "" if root is None else root.tenant().public.raw.hex()

    def _write(self, root: RootKey) -> None:
        with disk_errors(self.key_file):
            create_exclusive(self.key_file, f"{encode_root_key(root)}\n".encode(), KEY_MODE)


def endpoint_key(config: Config) -> str | None:
    """Return the key for the embedding endpoint, if there is one. Raises ConfigError."""
    path = config.knowledge_embedder_key_file
    if path is None or config.knowledge_embedder_url is None:
        return None
    return read_api_key(path, "knowledge_embedder_key_file")
