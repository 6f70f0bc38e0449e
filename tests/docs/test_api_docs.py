"""docs/api.md speaks of every route, every parameter and every bound that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kwaai import errors, limits
from kwaai.api import unsupported
from kwaai.api.app import create_app
from kwaai.api.bodies import TEMPERATURE_DEFAULT, ChatBody, CompletionBody
from kwaai.node.embedders import Embedders, EmbedderSettings
from kwaai.testing.control import FakeNode
from kwaai.testing.generator import FakeGenerator

DOC = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
IN_CODE = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`\n]+)`", DOC))))


def test_every_route_is_in_the_docs_and_no_other() -> None:
    node = FakeNode()
    router = create_app(
        FakeGenerator(),
        trust=lambda: node.trust,
        knowledge=lambda: node.knowledge,
        embedders=lambda: Embedders(EmbedderSettings(), Path()),
    ).router
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert set(re.findall(r"^\| `((?:GET|POST|DELETE) [^`]+)`", DOC, re.MULTILINE)) == served


@pytest.mark.parametrize(
    "name",
    sorted(
        {*ChatBody.model_fields, *CompletionBody.model_fields, "repeat_penalty"}
        | {*unsupported.CHAT, *unsupported.COMPLETION}
        | {*unsupported.MESSAGE, *unsupported.STREAM_OPTIONS}
    ),
)
def test_every_parameter_is_in_the_docs(name: str) -> None:
    assert name in IN_CODE


def test_the_codes_have_the_status_that_the_docs_give() -> None:
    def leaves(kind: type[errors.KwaaiError]) -> list[type[errors.KwaaiError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]

    status_of = {kind.code: kind.http_status for kind in leaves(errors.KwaaiError)}
    table = DOC[DOC.index("| status | `code` |") :]
    for status, cell in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE):
        for code in re.findall(r"`([a-z_]+)`", cell):
            assert status_of[code] == int(status)


def test_numbers_in_the_docs_are_the_bounds() -> None:
    for text in [
        f"| {TEMPERATURE_DEFAULT} | 0 to 2",
        f"1 to {limits.MAX_TOKENS_MAX:,}",
        f"completions: {limits.COMPLETION_TOKENS_DEFAULT}",
        f"up to {limits.LOGIT_BIAS_MAX:,} token ids",
        f"up to {limits.STOPS_MAX}, each 1 to {limits.STOP_BYTES_MAX} bytes",
        f"1 to {limits.COMPLETIONS_N_MAX}, run concurrently",
        f"up to {limits.MESSAGES_MAX:,}; roles",
        f"0 to {limits.LOGPROBS_MAX}",
        f"{limits.API_KEY_CHARS_MIN} characters or more",
        f"within {limits.BODY_READ_TIMEOUT_S:g} s",
        f"over {limits.BODY_BYTES_MAX // limits.MIB} MiB",
        f"(1 to {limits.TRUST_GRAPH_DEPTH_MAX}, default {limits.TRUST_GRAPH_DEPTH_DEFAULT})",
    ]:
        assert text in DOC
