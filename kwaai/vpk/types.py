"""The values and the seams of VPK: what a host, an embedder and a passage are.

Types only, no I/O. Ids of objects are 16 bytes, ids of bases 16, tenants are Ed25519 public keys of
32 bytes. docs/vpk.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ID_BYTES = 16
"""Of an object, and of a base."""

Object: TypeAlias = tuple[bytes, bytes]
"""(id, sealed bytes)."""
TextKind: TypeAlias = Literal["passage", "query"]
BaseMode: TypeAlias = Literal["sealed", "oblivious"]


@dataclass(frozen=True, slots=True)
class HostUsage:
    """What a tenant has at a host, and what the host has left. Bytes."""

    objects: int
    used_bytes: int
    quota_bytes: int
    free_bytes: int
    """Of the host, for all tenants together."""


@dataclass(frozen=True, slots=True)
class PirTable:
    """Objects of one size of one base, in ascending order of their ids, as rows of one length."""

    rows: int
    row_bytes: int
    digest: bytes
    """BLAKE2b-256 of the ids, one behind the other: two hosts, and bob, mean the same table."""


class Host(Protocol):
    """One eve as one tenant speaks to it: here, or over a link.

    Every call has a deadline of the implementation's. Raises PeerError (PeerUnreachable, PeerLost,
    PeerStalled, PeerRefused), Busy, StorageFull. What comes back is not believed: whoever asked
    opens it.
    """

    @property
    def id(self) -> str:
        """The host's PeerId, or `here`."""

    async def put(self, base: bytes, objects: Sequence[Object]) -> None:
        """Store objects, all or none; on the host's disk when it returns. An id that is there is
        replaced. Splits what is too much for one message: then each part is all or none.
        """

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        """Return the objects in the order of `ids`; None for what is not held."""

    async def delete(self, base: bytes, ids: Sequence[bytes]) -> int:
        """Delete objects; return how many there were."""

    async def list_ids(self, base: bytes, after: bytes, count: int) -> list[bytes]:
        """Return up to `count` ids above `after` (b"": from the first), ascending."""

    async def put_manifest(self, base: bytes, sequence: int, data: bytes) -> None:
        """Replace the manifest of a base by the one with the next sequence number (1: the first).
        The same bytes again are taken. Raises ManifestConflict where another one has that number or
        a higher one; it carries what is there.
        """

    async def get_manifest(self, base: bytes) -> bytes | None:
        """Return the newest manifest of a base that this host has."""

    async def bases(self) -> list[bytes]:
        """Return the ids of the tenant's bases at this host."""

    async def drop_base(self, base: bytes) -> None:
        """Delete a base: its manifest and all its objects. Idempotent."""

    async def usage(self) -> HostUsage:
        """Return what this tenant has here."""

    async def pir_table(self, base: bytes, row_bytes: int) -> PirTable:
        """Return the table that `pir` reads: objects of exactly `row_bytes` bytes."""

    async def pir(self, base: bytes, table: PirTable, masks: Sequence[bytes]) -> list[bytes]:
        """Return, for each mask (a bit per row, row 0 the highest bit of byte 0), the XOR of the
        rows whose bit is set. Raises PeerRefused where the table has changed.
        """

    async def prove(self, base: bytes, object_id: bytes, challenge: bytes) -> bytes:
        """Return a proof that the object is held (`kwaai.vpk.retrievability`)."""


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """What made vectors: those of two specs may not be compared, and a base refuses to mix them."""

    model: str
    """Its name: `all-MiniLM-L6-v2`."""
    sha256: str
    """Of the file that computes, as hex digits; empty for an endpoint, which shows none."""
    dimension: int
    normalised: bool
    """Vectors have length 1."""


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def spec(self) -> EmbedderSpec: ...

    async def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> NDArray[np.float32]:
        """Return (texts, dimension) float32. Longer texts are cut to what the model can read.
        Raises ResourceError, UserError, PeerError (an endpoint).
        """

    def count_tokens(self, text: str) -> int:
        """Return how many of the model's tokens a text has (about, where it cannot be known)."""

    async def close(self) -> None:
        """Let go of memory and processes. Idempotent."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, as it is found and cited."""

    text: str
    heading: tuple[str, ...] = ()
    """The headings above it, the outermost first."""
    page: int | None = None
    """Counted from 1; None where the format has no pages."""
    start: int = 0
    stop: int = 0
    """Characters of the document's text, half-open."""
