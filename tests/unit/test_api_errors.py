"""Errors as OpenAI's clients read them, and who may listen where."""

from __future__ import annotations

import json

import pytest

from kwaai import errors
from kwaai.api.app import create_app
from kwaai.api.auth import check_bind, is_loopback
from kwaai.api.errors import did_you_mean, encode_json, error_body, error_response
from kwaai.api.replies import finite, token_text
from kwaai.errors import KwaaiError, UserError
from kwaai.testing.generator import FakeGenerator

KEY = "k" * 16


def leaves(kind: type[KwaaiError]) -> list[type[KwaaiError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]


@pytest.mark.parametrize("kind", leaves(KwaaiError))
def test_every_error_has_a_shape_and_a_status(kind: type[KwaaiError]) -> None:
    error = kind.__new__(kind)  # some are made with more than a message
    KwaaiError.__init__(error, "said", param="n")
    response = error_response(error)
    assert response.status == kind.http_status >= 400
    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["message"], body["error"]["param"]) == ("said", "n")
    assert body["error"]["code"] == kind.code
    client_at_fault = response.status < 500
    assert (body["error"]["type"] != "server_error") == client_at_fault


@pytest.mark.parametrize("kind", [k for k in leaves(KwaaiError) if "code" in vars(k)])
def test_every_code_makes_its_error_again(kind: type[KwaaiError]) -> None:
    error = errors.error_from_code(kind.code, "said", "n")
    assert (type(error).code, error.message, error.param) == (kind.code, "said", "n")


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.1, "1"), (1.2, "2"), (30.0, "30")])
def test_retry_after_is_whole_seconds(retry_after_s: float, header: str) -> None:
    response = error_response(errors.Busy("busy", retry_after_s=retry_after_s))
    assert response.headers["Retry-After"] == header


def test_types_follow_openai() -> None:
    kinds = [
        errors.Unauthorized,
        errors.Busy,
        errors.Forbidden,
        errors.UserError,
        errors.WorkerLost,
    ]
    assert [error_body(kind("x"))["error"]["type"] for kind in kinds] == [
        "authentication_error",
        "rate_limit_error",
        "permission_error",
        "invalid_request_error",
        "server_error",
    ]


def test_json_is_ascii() -> None:
    assert encode_json({"a": "é\u2028"}) == b'{"a":"\\u00e9\\u2028"}'


def test_suggestions() -> None:
    assert did_you_mean("temprature", ["temperature", "top_p"]) == "; did you mean 'temperature'?"
    assert did_you_mean("zzz", ["temperature"]) == ""


def test_tokens_that_are_not_text() -> None:
    assert token_text("é".encode()) == "é"
    assert token_text(b"\xf0\x9f") == "bytes:\\xf0\\x9f"
    assert finite(float("-inf")) == finite(None) == -9999.0


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
)
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_bind(host, None)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", "127.1", "[::1]"],
)
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(UserError, match="API key"):
        check_bind(host, None)
    check_bind(host, KEY)


@pytest.mark.parametrize(
    "key", ["", "short", "k" * 15, "k" * 15 + " ", "k" * 20 + "é", "k" * 16 + "\n"]
)
def test_unusable_keys_are_refused(key: str) -> None:
    with pytest.raises(UserError, match="API key"):
        check_bind("127.0.0.1", key)
    with pytest.raises(UserError, match="API key"):
        create_app(FakeGenerator(), api_key=key)
