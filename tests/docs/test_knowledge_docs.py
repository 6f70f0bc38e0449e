"""docs/knowledge.md gives the bounds, the states and the kinds of files that there are."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from kwaai import limits
from kwaai.vpk.documents.kinds import MORE_SUFFIXES
from kwaai.vpk.ingest import RowState

DOC = (Path(__file__).parents[2] / "docs" / "knowledge.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        f"about {limits.PASSAGE_TOKENS} tokens",
        f"the {limits.PASSAGE_TOKENS_MAX} that MiniLM reads",
        f"under {limits.PASSAGE_TOKENS_MIN} tokens",
        f"up to {limits.PASSAGE_OVERLAP:.0%}".replace("%", " %"),
        f"{limits.INGEST_BATCH_PASSAGES} at a time",
        f"{limits.DOCUMENT_TEXT_BYTES_MAX // limits.MIB} MiB, others 1 GiB",
        f"{limits.DOCUMENT_CHARS_MAX // limits.MIB} million characters",
        f"{limits.LOADER_MEMORY_BYTES // limits.GIB} GiB of address space",
        f"{limits.LOADER_TIMEOUT_S:.0f} s and {limits.LOADER_TIMEOUT_S_PER_MIB:.0f} s for each",
        f"at most {limits.LOADER_TIMEOUT_S_MAX / 60:.0f} minutes",
        f"after {limits.LOADER_FILES_MAX} files",
        f"more than {limits.DOCUMENT_UNPACKED_BYTES_MAX // limits.MIB} MiB",
        f"{limits.DOCUMENT_ENTRIES_MAX:,} files, or {limits.DOCUMENT_PACKED_RATIO_MAX} times",
        *(f"`.{suffix}`" for suffix in MORE_SUFFIXES),
        *(f"`{state}`" for state in get_args(RowState)),
    ],
)
def test_the_docs_say(text: str) -> None:
    assert text in " ".join(DOC.split())
