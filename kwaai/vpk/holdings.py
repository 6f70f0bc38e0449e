"""What should lie at the hosts of a base: the seam between who keeps the base (`base_holdings`) and
audits and repairs. Types only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kwaai.vpk.types import Object


class Holdings(Protocol):
    """What a base needs its hosts to have. Methods are called from threads, and may take long."""

    @property
    def base(self) -> bytes:
        """Its id."""

    def small_ids(self) -> Sequence[bytes]:
        """Return the ids of all live small objects, in any order, each once."""

    def open_small(self, objects: list[Object]) -> Sequence[object]:
        """Open small objects. Raises SealBroken where one does not."""

    def large(self) -> Sequence[tuple[bytes, int, str]]:
        """Return all live large objects: id, bytes sealed, and coding as `put_large` returned it
        (`4/8`), or `whole`.
        """

    def open_large(self, object_id: bytes, blob: bytes) -> object:
        """Check a large object. Raises SealBroken."""

    def tag(self, object_id: bytes, data: bytes) -> bytes:
        """Return the tags of what a host gets (`kwaai.vpk.retrievability.tag`)."""

    def verify_proof(self, object_id: bytes, challenge: bytes, proof: bytes) -> object:
        """Check a host's proof that it has it. Raises SealBroken."""
