"""Keys of private knowledge: one root key, and everything that is derived from it.

A root key (32 random bytes) makes the tenant's Ed25519 key and, for each base and epoch, the keys
that seal it and name its objects. Keyed BLAKE2b (RFC 7693), a purpose for each: no key serves two.
Does not keep keys, and shows none. docs/vpk.md, "Keys".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Final, NoReturn

from credentials.keys import SecretKey
from kwaai.errors import UserError
from kwaai.vpk.access import BaseAccess
from kwaai.vpk.types import ID_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROOT_KEY_BYTES: Final = 32
KEY_BYTES: Final = 32
EPOCH_MAX: Final = 2**32 - 1
ROW_NUMBER_MAX: Final = 2**64 - 1
SHARE_BYTES: Final = 1 + ID_BYTES + 4 + KEY_BYTES

# Kinds of objects: part of every id and of what a seal is bound to.
VECTOR: Final = 1
TEXT: Final = 2
SEGMENT: Final = 3
MANIFEST: Final = 4
CELL: Final = 5
FRAGMENT: Final = 6
KINDS: Final = (VECTOR, TEXT, SEGMENT, MANIFEST, CELL, FRAGMENT)

_PERSON: Final = b"kwaai-vpk key 1"  # BLAKE2b's personalisation: at most 16 bytes
_RECORD_PERSON: Final = b"kwaai-vpk rec 1"
_OBJECT_PERSON: Final = b"kwaai-vpk obj 1"
_SHARE_VERSION: Final = 1
_TEXT_PREFIX: Final = "vpk1"
_CHECK_BYTES: Final = 3  # with the key 35 bytes: 56 characters of base32, without padding
_TEXT_CHARS: Final = (ROOT_KEY_BYTES + _CHECK_BYTES) * 8 // 5
_GROUP_CHARS: Final = 4
_TYPED_CHARS_MAX: Final = 1024


class RootKey:
    """The 32 bytes that everything of one owner's private knowledge is derived from.

    Never shows or serialises them by accident. Raises UserError for another length.
    """

    __slots__ = ("_raw", "_tenant")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != ROOT_KEY_BYTES:
            raise UserError(f"a root key has {ROOT_KEY_BYTES} bytes, not {len(raw)}")
        self._raw = bytes(raw)
        self._tenant = SecretKey(_derive(self._raw, b"tenant"))

    def tenant(self) -> SecretKey:
        """Return the key that signs; its public half (32 bytes) names the tenant to every host."""
        return self._tenant

    def base(self, base_id: bytes, epoch: int = 1) -> BaseKeys:
        """Return the keys of one base in one epoch (1 to EPOCH_MAX).

        Raises ValueError for an id or an epoch that cannot be.
        """
        _check_base(base_id, epoch)
        read = _derive(self._raw, b"base", base_id, epoch.to_bytes(4, "big"))
        audit = _derive(self._raw, b"audit", base_id, epoch.to_bytes(4, "big"))
        return BaseKeys(base_id, epoch, read, audit)

    def local_key(self, base_id: bytes) -> bytes:
        """Return the 32 bytes that encrypt the pages of a base's database on this machine."""
        return _derive(self._raw, b"local", base_id)

    def access(self, base_id: bytes) -> BaseAccess:
        """Return what opens a base of this owner, to read and to write; see `access.KeySource`."""
        tenant = self._tenant
        return BaseAccess(tenant.public.raw, self.base(base_id), self.local_key(base_id), tenant)

    def expose(self) -> bytes:
        """Return the 32 secret bytes, for a key file; never log or print them."""
        return self._raw

    def __repr__(self) -> str:
        return f"RootKey(<redacted>, tenant={self._tenant.public.raw.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RootKey is not pickled; pass the key file's path instead")


class BaseKeys:
    """What seals one base in one epoch, and names its objects. For readers too: see `share`."""

    __slots__ = ("_audit", "_keys", "_object_names", "_read", "_record_names", "base", "epoch")

    def __init__(self, base_id: bytes, epoch: int, read: bytes, audit: bytes | None) -> None:
        """Called by `RootKey.base` and `from_share`. Raises ValueError."""
        _check_base(base_id, epoch)
        self.base = bytes(base_id)
        self.epoch = epoch
        self._read = read
        self._audit = audit
        record = _derive(read, b"record")
        self._keys = {
            VECTOR: record,
            TEXT: record,
            SEGMENT: _derive(read, b"segment"),
            MANIFEST: _derive(read, b"manifest"),
            CELL: _derive(read, b"cell"),
        }
        names = _derive(read, b"names")
        self._record_names = hashlib.blake2b(key=names, digest_size=ID_BYTES, person=_RECORD_PERSON)
        self._object_names = hashlib.blake2b(key=names, digest_size=ID_BYTES, person=_OBJECT_PERSON)

    def sealing_key(self, kind: int) -> bytes:
        """Return the 32 bytes that seal objects of a kind; never log or print them.

        Raises ValueError for a kind that is not sealed: a FRAGMENT is a piece of sealed bytes.
        """
        key = self._keys.get(kind)
        if key is None:
            raise ValueError(f"objects of kind {kind} are not sealed")
        return key

    def audit_key(self) -> bytes:
        """Return the 32 bytes behind proofs of retrievability. Raises ValueError for a reader's
        keys: who knows this could make a host's proof without the data.
        """
        if self._audit is None:
            raise ValueError("a reader's keys do not audit")
        return self._audit

    def record_id(self, kind: int, writer: int, number: int) -> bytes:
        """Return the id (16 bytes) of the object of a kind that belongs to a row."""
        name = self._record_names.copy()
        name.update(bytes((kind,)) + writer.to_bytes(8, "big") + number.to_bytes(8, "big"))
        return name.digest()

    def record_ids(self, kind: int, rows: NDArray[np.uint64]) -> list[bytes]:
        """Return the ids of many rows. `rows`: uint64, (n, 2), writer and number."""
        if rows.ndim != 2 or rows.shape[1] != 2:
            raise ValueError(f"rows are (n, 2), not {rows.shape}")
        data = rows.astype(">u8").tobytes()
        first = self._record_names.copy()
        first.update(bytes((kind,)))
        ids = []
        for start in range(0, len(data), 16):
            name = first.copy()
            name.update(data[start : start + 16])
            ids.append(name.digest())
        return ids

    def object_id(self, kind: int, label: bytes) -> bytes:
        """Return the id (16 bytes) of an object that belongs to no row: a segment, a cell."""
        name = self._object_names.copy()
        name.update(bytes((kind,)) + label)
        return name.digest()

    def share(self) -> bytes:
        """Return what a reader of this base in this epoch needs (SHARE_BYTES): secret bytes.

        A reader can open every record, and could seal as well: docs/vpk.md, "Readers".
        """
        head = bytes((_SHARE_VERSION,)) + self.base + self.epoch.to_bytes(4, "big")
        return head + self._read

    @classmethod
    def from_share(cls, share: bytes) -> BaseKeys:
        """Return a reader's keys from `share`. Raises UserError for bytes that are no share."""
        if len(share) != SHARE_BYTES or share[0] != _SHARE_VERSION:
            raise UserError("these are not the keys of a shared base; ask its owner for a new one")
        epoch = int.from_bytes(share[17:21], "big")
        if not epoch:
            raise UserError("these are not the keys of a shared base: epochs count from 1")
        return cls(share[1:17], epoch, share[21:], None)

    def __repr__(self) -> str:
        return f"BaseKeys({self.base.hex()}, epoch {self.epoch}, <redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("BaseKeys are not pickled; derive them from the root key again")


def new_root_key() -> RootKey:
    """Return a root key from the operating system's randomness."""
    return RootKey(os.urandom(ROOT_KEY_BYTES))


def new_base_id() -> bytes:
    """Return the id of a new base: 16 random bytes, which say nothing about its name."""
    return os.urandom(ID_BYTES)


def encode_root_key(root: RootKey) -> str:
    """Return a root key as people keep it: `vpk1-` and 14 groups of 4 characters."""
    raw = root.expose()
    text = base64.b32encode(raw + _checksum(raw)).decode("ascii").lower()
    groups = [text[at : at + _GROUP_CHARS] for at in range(0, len(text), _GROUP_CHARS)]
    return "-".join([_TEXT_PREFIX, *groups])


def parse_root_key(text: str) -> RootKey:
    """Parse what `encode_root_key` made, in either case, with any spaces and hyphens.

    Raises UserError, which says what is wrong with it: a letter too few, a sign that does not
    occur, a typing error somewhere. Never repeats what was typed.
    """
    if len(text) > _TYPED_CHARS_MAX:
        raise UserError(f"a root key has {_TEXT_CHARS} characters, this has {len(text)}")
    typed = "".join(text.split()).replace("-", "").lower()
    if not typed.startswith(_TEXT_PREFIX):
        raise UserError(f"a root key begins with {_TEXT_PREFIX}-, as `vpk key export` shows it")
    body = typed.removeprefix(_TEXT_PREFIX)
    for at, sign in enumerate(body):
        if sign not in "abcdefghijklmnopqrstuvwxyz234567":
            raise UserError(
                f"group {at // _GROUP_CHARS + 1} of the root key has a sign that never occurs in "
                "one: there are a to z and 2 to 7 only (no 0, 1, 8, 9)"
            )
    if len(body) != _TEXT_CHARS:
        raise UserError(
            f"a root key has {_TEXT_CHARS // _GROUP_CHARS} groups of {_GROUP_CHARS} after "
            f"{_TEXT_PREFIX}, {_TEXT_CHARS} characters; this has {len(body)}"
        )
    try:
        data = base64.b32decode(body.upper())
    except binascii.Error as error:
        raise UserError("this is no root key") from error
    raw, check = data[:ROOT_KEY_BYTES], data[ROOT_KEY_BYTES:]
    if not hmac.compare_digest(_checksum(raw), check):
        raise UserError(
            "there is a typing error in the root key: its last group, which checks the others, "
            "does not fit them; compare it with what was written down"
        )
    return RootKey(raw)


def _derive(key: bytes, purpose: bytes, *context: bytes) -> bytes:
    """Return 32 bytes: keyed BLAKE2b of a purpose and parts of lengths fixed by that purpose."""
    data = bytes((len(purpose),)) + purpose + b"".join(context)
    return hashlib.blake2b(data, key=key, digest_size=KEY_BYTES, person=_PERSON).digest()


def _checksum(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_CHECK_BYTES, person=b"kwaai-vpk text").digest()


def _check_base(base_id: bytes, epoch: int) -> None:
    if len(base_id) != ID_BYTES:
        raise ValueError(f"a base's id has {ID_BYTES} bytes, not {len(base_id)}")
    if not 1 <= epoch <= EPOCH_MAX:
        raise ValueError(f"an epoch is 1 to {EPOCH_MAX}, not {epoch}")
