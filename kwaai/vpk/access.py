"""What a base is opened with: its tenant, its keys, the key of its database here; and, for who owns
it, the key that signs.

A root key gives this for every base of its owner. A share gives it for one base of somebody else's,
without the key that signs: such a base is read, refreshed and forgotten, and never changed. Asks
nobody. docs/vpk.md, "Readers".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kwaai.errors import StorageRefused

if TYPE_CHECKING:
    from credentials.keys import SecretKey
    from kwaai.vpk.keys import BaseKeys


@dataclass(frozen=True, slots=True)
class BaseAccess:
    """What one base is opened with."""

    tenant: bytes
    """The owner's public key, 32 bytes."""
    keys: BaseKeys
    local_key: bytes = field(repr=False)
    """Encrypts the pages of its database on this device, 32 bytes."""
    signer: SecretKey | None
    """Signs manifests; None: the base is somebody else's."""

    def check_owner(self, name: str) -> SecretKey:
        """Return the key that signs. Raises StorageRefused for a base of somebody else's."""
        if self.signer is None:
            raise StorageRefused(
                f"the knowledge base {name} is somebody else's: it can be read here, not changed"
            )
        return self.signer


class KeySource(Protocol):
    """Whoever can open bases: `keys.RootKey`, or a `SharedKeys`."""

    def access(self, base_id: bytes) -> BaseAccess:
        """Return what opens a base. Raises UserError for one that this does not open."""


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """A KeySource of one base that somebody else lets this node read."""

    tenant: bytes
    keys: BaseKeys
    local_key: bytes = field(repr=False)
    """The reader's own: neither the owner nor other readers have it."""

    def access(self, base_id: bytes) -> BaseAccess:
        """See KeySource."""
        if base_id != self.keys.base:
            raise StorageRefused("this share is of another base")
        return BaseAccess(self.tenant, self.keys, self.local_key, None)
