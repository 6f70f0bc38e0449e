"""Text from bytes: any text, cut anywhere, any stops: the same text up to the first stop."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.errors import UserError
from kwaai.inference.textstream import TextStream

SMALL = st.text(alphabet="abé€𝄞", max_size=40)  # 1 to 4 bytes a character, many repetitions
STOPS = st.lists(st.text(alphabet="abé€𝄞", min_size=1, max_size=5), max_size=4)


def _feed(stream: TextStream, pieces: list[bytes]) -> str:
    return "".join([*(stream.push(piece) for piece in pieces), stream.finish()])


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(bounds)]


def _expected(text: str, stops: list[str]) -> str:
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(SMALL, STOPS, st.lists(st.integers(0, 200), max_size=40))
def test_any_cut_gives_the_text_up_to_the_first_complete_stop(
    text: str, stops: list[str], places: list[int]
) -> None:
    stream = TextStream(stops)
    assert _feed(stream, _cut(text.encode(), places)) == _expected(text, stops)
    assert stream.stopped == any(stop in text for stop in stops)


@given(SMALL, st.text(alphabet="abé€𝄞", min_size=1, max_size=5), st.lists(st.integers(0, 200)))
def test_one_stop_ends_the_text_where_find_finds_it(
    text: str, stop: str, places: list[int]
) -> None:
    assert _feed(TextStream([stop]), _cut(text.encode(), places)) == text.split(stop)[0]


@given(st.binary(max_size=60), st.lists(st.integers(0, 200), max_size=60))
def test_any_bytes_give_what_decoding_the_whole_gives(data: bytes, places: list[int]) -> None:
    assert _feed(TextStream(), _cut(data, places)) == data.decode("utf-8", "replace")


@given(SMALL, STOPS, st.lists(st.integers(0, 200), max_size=40))
def test_no_more_is_held_back_than_a_stop_could_need(
    text: str, stops: list[str], places: list[int]
) -> None:
    stream, shown, fed = TextStream(stops), "", b""
    for piece in _cut(text.encode(), places):
        shown += stream.push(piece)
        fed += piece
        if stream.stopped:
            break
        whole = fed.decode("utf-8", "ignore")
        held = whole[len(shown) :]
        assert whole.startswith(shown)
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_character_appears_with_its_last_byte() -> None:
    stream = TextStream()
    assert [stream.push(bytes([byte])) for byte in "𝄞".encode()] == ["", "", "", "𝄞"]


def test_a_broken_character_is_shown_once_it_is_certain() -> None:
    stream = TextStream()
    assert stream.push(b"\xf0\x9d") == ""
    assert stream.push(b"a") == "\ufffda"
    assert stream.push(b"\xff") == "\ufffd"
    assert stream.push(b"\xe2\x82") == ""
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_a_stop_over_three_tokens_is_never_shown() -> None:
    stream = TextStream(["\n\nUser:"])
    assert stream.push(b"Paris.\n") == "Paris."
    assert stream.push(b"\nUs") == ""
    assert stream.push(b"er: more") == ""
    assert stream.stopped
    assert stream.push(b"ignored") == ""
    assert stream.finish() == ""


def test_a_stop_that_does_not_come_is_given_back() -> None:
    stream = TextStream(["aab"])
    assert stream.push(b"aa") == ""
    assert stream.push(b"a") == "a"
    assert stream.push(b"c") == "aac"
    assert stream.push(b"aa") == ""
    assert stream.finish() == "aa"
    assert not stream.stopped


def test_the_stop_complete_first_wins_and_the_longer_of_two() -> None:
    assert _feed(TextStream(["abcd", "bc"]), [b"xabcd"]) == "xa"
    assert _feed(TextStream(["c", "abc"]), [b"xabc"]) == "x"


def test_the_longest_stop_in_a_long_text_of_its_own_prefixes() -> None:
    stop = "a" * (limits.STOP_BYTES_MAX - 1) + "b"
    text = ("a" * (limits.STOP_BYTES_MAX - 2) + "b") * 200
    stops = [stop] + ["a" * n + "c" for n in range(1, limits.STOPS_MAX)]
    assert _feed(TextStream(stops), [bytes([byte]) for byte in text.encode()]) == text


@pytest.mark.parametrize(
    "stops",
    [[""], ["a" * (limits.STOP_BYTES_MAX + 1)], [str(i) for i in range(limits.STOPS_MAX + 1)]],
)
def test_stops_out_of_bounds_are_refused(stops: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        TextStream(stops)
    assert refused.value.param == "stop"


def test_a_stop_that_no_bytes_can_spell_is_harmless() -> None:
    assert _feed(TextStream(["\ud800"]), [b"text"]) == "text"
