"""Tables on a terminal: as wide as it is, and no number or name in two."""

from __future__ import annotations

import io

import pytest

from kwaai.cli import table
from kwaai.cli.table import lines, short_id, terminal_width

PEER = "12D3KooWS6LUwuiWcRNwZXzChBSFLC33ghEUjnRcHBFMhnw9S77T"
COLUMNS = ("Part", "Where", "Peer", "ms", "p99")
ROWS = [("[0,1)", "here", "-", "0.52", "2.14"), ("[1,8)", "a long name of words", PEER, "1.5", "-")]
RIGHT, IDS = ("ms", "p99"), ("Peer",)


def shown(width: int) -> list[str]:
    return lines(COLUMNS, ROWS, RIGHT, IDS, width)


def test_all_of_it_where_there_is_room() -> None:
    heading, first, second = shown(200)
    assert heading.split() == list(COLUMNS)
    assert first.split() == list(ROWS[0])
    assert second == f"[1,8)  a long name of words  {PEER}   1.5     -"
    assert len({heading.index("ms") + 2, first.index("0.52") + 4, second.index("1.5") + 3}) == 1


def test_ids_are_told_by_their_end_first() -> None:
    assert shown(60) == [
        "Part   Where                 Peer         ms   p99",
        "[0,1)  here                  -          0.52  2.14",
        "[1,8)  a long name of words  …hnw9S77T   1.5     -",
    ]


def test_then_text_is_folded_at_its_spaces() -> None:
    assert shown(43) == [
        "Part   Where          Peer         ms   p99",
        "[0,1)  here           -          0.52  2.14",
        "[1,8)  a long name    …hnw9S77T   1.5     -",
        "       of words",
    ]


def test_then_each_row_is_a_block() -> None:
    assert shown(30) == [
        "Part:   [0,1)",
        "Where:  here",
        "ms:     0.52",
        "p99:    2.14",
        "",
        "Part:   [1,8)",
        "Where:  a long name of words",
        f"Peer:   {PEER}",
        "ms:     1.5",
    ]


@pytest.mark.parametrize("width", range(20, 130))
def test_no_line_is_wider_and_no_number_is_cut(width: int) -> None:
    found = shown(width)
    if not found[0].startswith("Part:"):
        assert max(map(len, found)) <= width
    text = "\n".join(found)
    assert "0.52" in text
    assert "2.14" in text
    assert short_id(PEER).removeprefix("…") in text


def test_letters_that_take_two_columns() -> None:
    wide = lines(("Name", "ms"), [("日本", "1.0"), ("ab", "2.0")], ("ms",), (), 40)
    assert wide[1] == "日本  1.0"
    assert wide[2] == "ab    2.0"


def test_the_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "93")
    assert terminal_width(io.StringIO()) == 93
    monkeypatch.delenv("COLUMNS")
    assert terminal_width(io.StringIO()) == table._WIDTH_DEFAULT
