"""Events as lines: for people, as JSON, and with nothing in them that must not be there."""

from __future__ import annotations

import io
import json
import logging

import pytest

from credentials.keys import SecretKey
from kwaai import limits
from kwaai.log import REDACTED, Budget, configure_logging, get_logger


def written(level: str = "debug", *, as_json: bool = False) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, as_json=as_json, stream=stream)
    return stream


def test_a_line_for_people() -> None:
    stream = written()
    get_logger("kwaai.models.hub").warning(
        "download_resumed", offset_bytes=1024, path="/a b", ok=True
    )
    time, rest = stream.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == (
        'WARNING kwaai.models.hub download_resumed offset_bytes=1024 path="/a b" ok=true\n'
    )


def test_a_json_line() -> None:
    stream = written(as_json=True)
    get_logger("kwaai.x").info("slice_loaded", layers="[0,4)", load_ms=1.23456789, level="odd")
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "kwaai.x",
        "event": "slice_loaded",
        "layers": "[0,4)",
        "load_ms": 1.234568,
        "field_level": "odd",
    }


def test_json_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWAAINET_LOG_JSON", "1")
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    get_logger("kwaai.x").info("a_event")
    assert json.loads(stream.getvalue())["event"] == "a_event"


def test_levels() -> None:
    stream = written("warning")
    log = get_logger("kwaai.x")
    log.debug("no")
    log.info("no")
    log.warning("yes")
    log.error("yes")
    assert stream.getvalue().count(" yes\n") == 2
    assert "no" not in stream.getvalue()


def test_configuring_twice_writes_once() -> None:
    written()
    stream = written()
    get_logger("kwaai.x").info("once")
    assert stream.getvalue().count("once") == 1


def test_libraries_speak_from_warning_up() -> None:
    stream = written("debug")
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("somebody.else").warning("two\nlines")
    assert "chatter" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_and_prompts_are_not_written(as_json: bool) -> None:
    stream = written(as_json=as_json)
    secret = SecretKey(b"S" * 32)
    names = ("prompt", "answer", "text", "token", "api_key", "hf_token", "seed", "password", "key")
    get_logger("kwaai.x").info("a_event", identity=secret, **dict.fromkeys(names, "hunter2"))
    assert "hunter2" not in stream.getvalue()
    assert (b"S" * 32).hex() not in stream.getvalue()
    assert "SSSS" not in stream.getvalue()
    assert stream.getvalue().count(f'{REDACTED}"' if as_json else f"={REDACTED}") == len(names)


@pytest.mark.parametrize("as_json", [False, True])
def test_one_event_is_one_line_whatever_the_values(as_json: bool) -> None:
    stream = written(as_json=as_json)
    get_logger("kwaai.x").info(
        "a_event", path="a\nb\x1b[31m", many=["\r\n", object()], nothing=None
    )
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_long_values_are_cut() -> None:
    stream = written()
    get_logger("kwaai.x").info("a_event", path="x" * 1_000_000)
    assert len(stream.getvalue()) < limits.LOG_VALUE_CHARS_MAX + 200


def test_exceptions_bring_their_traceback() -> None:
    stream = written(as_json=True)
    try:
        raise ValueError("boom")
    except ValueError:
        get_logger("kwaai.x").exception("worker_failed", worker=3)
    entry = json.loads(stream.getvalue())
    assert entry["worker"] == 3
    assert entry["traceback"].endswith("ValueError: boom")


def test_a_flood_of_one_event_leaves_room_for_the_others() -> None:
    stream, log = written(), get_logger("kwaai.net.link")
    for number in range(5000):
        log.warning("link_cut", number=number)
    log.warning("disk_full")
    lines = stream.getvalue().splitlines()
    cut = [line for line in lines if "link_cut" in line]
    assert len(cut) <= 2 * limits.LOG_EVENTS_BURST
    assert "disk_full" in lines[-1]


def test_what_was_left_out_is_counted() -> None:
    now_s = 0.0
    budget = Budget(lambda: now_s)
    assert [budget.take() for _ in range(300)].count(True) == limits.LOG_EVENTS_BURST
    assert budget.left_out == 300 - limits.LOG_EVENTS_BURST
    now_s = 1.0
    assert [budget.take() for _ in range(300)].count(True) == limits.LOG_EVENTS_PER_S
    stream, log = written(), get_logger("kwaai.test_left_out")
    for _ in range(300):
        log.info("peer_noisy")
    log._budgets["peer_noisy"]._left = 1.0
    log.info("peer_noisy")
    assert "left_out=100" in stream.getvalue().splitlines()[-1]
