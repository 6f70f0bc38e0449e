"""docs/knowledge.md gives the bounds, the states, the kinds of files, and the routes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from aiohttp import web

from kwaai import limits
from kwaai.api.knowledge_api import add_knowledge_api
from kwaai.node.knowledge_answers import PREFIX
from kwaai.testing.knowledge_control import FakeKnowledge
from kwaai.vpk.documents.kinds import MORE_SUFFIXES
from kwaai.vpk.fusion import RANK_CONSTANT
from kwaai.vpk.ingest import RowState

DOC = (Path(__file__).parents[2] / "docs" / "knowledge.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        f"over up to {limits.HOSTS_WANTED} nodes",
        f"`top_k` ({limits.HITS_DEFAULT}, at most {limits.HITS_MAX})",
        f"{limits.UPLOAD_FILES_MAX}, each up to {limits.UPLOAD_BYTES_MAX // limits.MIB} MiB",
        f"away for {limits.KNOWLEDGE_AWAY_S / 60:.0f} minutes",
        f"{limits.BASE_PIR_ROWS_READ} passages are read whatever is asked",
        f"{limits.BASE_CANDIDATES_DEFAULT} candidates of 428 bytes",
        f"1 / ({RANK_CONSTANT} + rank): at most {2 / (RANK_CONSTANT + 1):.3f}",
        f"`{PREFIX}<base>`",
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


def test_the_routes_are_those_of_the_api() -> None:
    app = web.Application()
    add_knowledge_api(app, FakeKnowledge, is_refused=False)
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    page = re.findall(r"^\| `((?:GET|POST|DELETE) [^`?]+)[`?]", DOC, re.MULTILINE)
    assert set(page) == served
