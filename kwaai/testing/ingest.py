"""A base in memory, and an embedder that counts letters: what ingest needs of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import DocumentInvalid
from kwaai.vpk.documents.document import Document
from kwaai.vpk.documents.load import load_document
from kwaai.vpk.ingest import FileState, NewDocument
from kwaai.vpk.types import EmbedderSpec, Passage, TextKind


class MemoryBase:
    """Keeps what it is given, as a base does; `on_add` may raise instead."""

    def __init__(self) -> None:
        self.states: dict[str, FileState] = {}
        self.documents: dict[
            str, tuple[NewDocument, list[Passage], NDArray[np.float32] | None]
        ] = {}
        self.added: list[str] = []
        self.on_add: Callable[[NewDocument], None] = lambda document: None

    def files(self) -> Mapping[str, FileState]:
        return dict(self.states)

    async def add_document(
        self,
        document: NewDocument,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
    ) -> None:
        assert passages
        assert vectors is None or len(vectors) == len(passages)
        self.on_add(document)
        self.added.append(document.name)
        copy = None if vectors is None else vectors.copy()
        self.documents[document.path] = (document, list(passages), copy)
        self.states[document.path] = FileState(
            path=document.path,
            size=document.size,
            mtime_ns=document.mtime_ns,
            sha256=document.sha256,
            state="ok",
            document=document.name,
            passages=len(passages),
            root=document.root,
        )

    async def remove_document(self, path: str) -> None:
        self.documents.pop(path, None)
        self.states.pop(path, None)

    def note_file(self, state: FileState) -> None:
        self.states[state.path] = state

    def texts(self) -> dict[str, str]:
        """The text of each document, by name."""
        return {
            document.name: "".join(passage.text for passage in passages)
            for document, passages, _ in self.documents.values()
        }


class LetterEmbedder:
    """A vector is how often each of four letters is in a text. `refuse`: raised where it is in."""

    spec = EmbedderSpec("letters", "", 4, False)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.refused: dict[str, Exception] = {}

    async def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> NDArray[np.float32]:
        assert kind == "passage"
        for mark, error in self.refused.items():
            if any(mark in text for text in texts):
                raise error
        self.batches.append(len(texts))
        return np.array([[text.count(letter) for letter in "abcd"] for text in texts], np.float32)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def close(self) -> None:
        pass


class DirectLoader:
    """Reads in this process; says what it has read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    async def load(self, path: Path, name: str | None = None) -> Document:
        self.read.append(path.name)
        if path.name.startswith("crash"):
            raise DocumentInvalid("its reader crashed on it (signal 11)")
        with path.open("rb") as file:
            return load_document(file, name or path.name)

    async def close(self) -> None:
        pass
