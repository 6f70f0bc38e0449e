"""docs/intents.md has the stages, rules, reasons, fields and numbers of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from kwaai import limits
from kwaai.api.demand import KwaaiBody, path_headers
from kwaai.intent.agreement import TRANSITIONS
from kwaai.intent.match import Rule
from kwaai.intent.signed import Reason
from kwaai.node.generate import HopReport, PathReport
from kwaai.types import LayerRange
from kwaai.wire.intent_messages import PROTOCOL

PAGE = (Path(__file__).parents[2] / "docs" / "intents.md").read_text("utf-8")


def rows(*header: str) -> list[list[str]]:
    """The rows of the table with that header, cells without backquotes."""
    _, _, after = PAGE.partition(f"| {' | '.join(header)} |\n")
    lines = re.match(r"(?:\|.*\n)+", after)
    assert lines, header
    cells = [line.strip("|").split("|") for line in lines.group().splitlines()[1:]]
    return [[cell.strip().strip("`") for cell in row] for row in cells]


def test_the_stages() -> None:
    told = {(stage, event): after for stage, event, after in rows("Stage", "Event", "Next stage")}
    assert told == {(str(s), str(e)): str(after) for (s, e), after in TRANSITIONS.items()}


def test_the_rules() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert set(get_args(Rule)) - {"model"} <= named
    told = [row[0] for row in rows("Rule", "Stands against a peer when")]
    assert told == ["deny", "allow", "min_tier", "credential"]


def test_the_reasons() -> None:
    assert {row[0] for row in rows("Reason", "Of an intent or an offer")} == set(get_args(Reason))


def test_the_fields_of_a_body() -> None:
    told = [row[0] for row in rows("`kwaai`", "Header", "What it asks")]
    assert sorted(told) == sorted(KwaaiBody.model_fields)


def test_the_headers_of_an_answer() -> None:
    hop = HopReport("amber", "12D3", LayerRange(0, 1), "", tier="Known")
    path = PathReport("peer", "fast", (hop,), {"peer": 1.0}, token_ms=(1.0, 1.0))
    assert [row[0] for row in rows("Header", "What it tells")] == list(path_headers(path))


def test_the_numbers() -> None:
    for text in [
        PROTOCOL,
        f"over {limits.INTENT_BYTES_MAX:,} bytes",
        f"more than {limits.INTENT_LIFETIME_S_MAX:.0f} s",
        f"more than {limits.INTENT_FUTURE_S_MAX:.0f} s from now",
        f"Ours hold for {limits.INTENT_LIFE_S:.0f} s",
        f"{limits.INTENT_NONCES_PER_REQUESTER_MAX:,} of one requester, "
        f"{limits.INTENT_NONCES_MAX:,} of all",
        f"Lists have up to {limits.DEMAND_NAMES_MAX} entries, `credentials` up to "
        f"{limits.DEMAND_CREDENTIALS_MAX}",
        f"up to {limits.DEMAND_BUDGET_PAIRS_MAX} pairs",
        f"up to {limits.OFFERS_PER_ANSWER_MAX} signed offers",
        f"{limits.INTENT_ASKS_BURST:.0f} at once",
    ]:
        assert text in PAGE
    assert limits.INTENT_LIFE_S == limits.OFFER_LIFE_S
    assert limits.INTENT_FUTURE_S_MAX == limits.RECORD_FUTURE_S_MAX
