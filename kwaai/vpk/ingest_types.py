"""What ingest and a base say to one another, and a run to a person: values and a protocol.

Import them from `kwaai.vpk.ingest`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from kwaai.vpk.types import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

StateName: TypeAlias = Literal["ok", "failed"]
RowState: TypeAlias = Literal["new", "unchanged", "changed", "removed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class FileState:
    """What a base remembers of a file that was ingested, or that could not be."""

    path: str
    """Absolute; what files are told apart by. Bytes of a name that are not UTF-8 are escaped."""
    size: int
    """Bytes."""
    mtime_ns: int
    """0 where it does not prove anything: the file was just being written."""
    sha256: str
    """Hex digits; empty where the file could not be read."""
    state: StateName
    reason: str = ""
    """Why it failed, in a sentence."""
    document: str = ""
    """The name of its document in the base; empty where it has none. A file that has changed and
    can no longer be read keeps its older document."""
    passages: int = 0
    root: str = ""
    """The path that was asked for when it was found: what `sync` goes through again."""


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A file's document, about to be stored."""

    name: str
    """As it is cited: the path below the folder that was asked for, `notes/2024/trip.md`."""
    path: str
    """FileState.path."""
    sha256: str
    size: int
    mtime_ns: int
    media_type: str
    title: str
    root: str = ""


class BaseWriter(Protocol):
    """A knowledge base, as ingest writes to it."""

    def files(self) -> Mapping[str, FileState]:
        """Return the state of every file, by path."""

    async def add_document(
        self,
        document: NewDocument,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
    ) -> None:
        """Store a document in place of an older one of that path, and its file's state (`ok`), in
        one step; durable when it returns. `vectors`: (passages, dimension), of the heading path and
        text of each passage; None: full text alone. There is at least one passage.
        """

    async def remove_document(self, path: str) -> None:
        """Remove the document of a path, if it has one, and its file's state."""

    def note_file(self, state: FileState) -> None:
        """Remember the state of a file; its document stays as it is."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one path in a run."""

    path: str
    name: str
    state: RowState
    reason: str = ""
    """Why it failed or was skipped; of what was read, what of it could not be."""
    passages: int = 0


@dataclass(slots=True)
class Report:
    """What became of each path, in the order of the walk; removed ones last."""

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def counts(self) -> dict[str, int]:
        """Return how many paths came to each state."""
        return dict(Counter(row.state for row in self.rows))

    @property
    def passages(self) -> int:
        """How many passages were stored."""
        return sum(row.passages for row in self.rows if row.state in ("new", "changed"))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    files_total: int
    files_done: int
    bytes_total: int
    bytes_done: int
    passages: int
    """Embedded, or stored without."""
    path: str
    """What is in work."""
    elapsed_s: float


OnProgress: TypeAlias = Callable[[Progress], None]
