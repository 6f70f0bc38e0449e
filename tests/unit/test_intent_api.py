"""Demands over HTTP: headers and the `kwaai` object, what is refused, what the answer tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from credentials.did import did_key
from credentials.keys import SecretKey, peer_id
from kwaai.api.app import create_app
from kwaai.api.bodies import parse_chat, parse_completion
from kwaai.api.demand import asked_in_headers, path_headers
from kwaai.api.server import listening
from kwaai.errors import IntentUnmet, UserError
from kwaai.intent.demand import CredentialDemand, Demand
from kwaai.node.generate import GenerationRequest, HopReport, PathReport
from kwaai.testing.control import PATH, PathGenerator
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange

KEY = SecretKey(b"2" * 32)
PEER, DID = peer_id(KEY.public), did_key(KEY.public)
CHAT = {"model": "kwaai-demo", "messages": [{"role": "user", "content": "hi"}]}
ALL = {
    "min_tier": "verified",
    "max_latency_ms": 80,
    "max_first_token_ms": 2000.5,
    "credentials": ["UptimeVC", {"type": "VerifiedNodeVC", "issuers": [DID]}],
    "allow": [DID],
    "deny": [PEER],
    "max_hops_per_owner": 1,
    "region": "eu",
    "budget": {"most": "0"},
    "privacy": "fast",
    "route": "peer",
}


def request_of(kwaai: Any) -> GenerationRequest:
    return parse_chat({**CHAT, "kwaai": kwaai}).requests[0]


class TestBodies:
    def test_everything_that_can_be_asked(self) -> None:
        wanted = request_of(ALL)
        assert (wanted.privacy, wanted.route) == ("fast", "peer")
        assert wanted.demand == Demand(
            min_tier=Tier.VERIFIED,
            credentials=(CredentialDemand("UptimeVC"), CredentialDemand("VerifiedNodeVC", (DID,))),
            allow=frozenset({DID}),
            deny=frozenset({DID}),
            token_ms_max=80.0,
            first_token_ms_max=2000.5,
            owner_hops_max=1,
            region="eu",
            budget={"most": "0"},
        )

    @pytest.mark.parametrize("nothing", [None, {}, {"min_tier": None, "allow": []}])
    def test_nothing_asked_is_no_demand(self, nothing: Any) -> None:
        assert request_of(nothing) == parse_chat(CHAT).requests[0]
        assert request_of(nothing).demand is None

    def test_completions_and_every_choice_ask_it(self) -> None:
        body = {"model": "m", "prompt": ["a", "b"], "n": 2, "kwaai": {"min_tier": "Known"}}
        job = parse_completion(body)
        assert [r.demand for r in job.requests] == [Demand(min_tier=Tier.KNOWN)] * 4

    @pytest.mark.parametrize(
        ("kwaai", "param"),
        [
            ("Verified", "kwaai"),
            ({"min_tier": "gold"}, "kwaai.min_tier"),
            ({"min_tier": 2}, "kwaai.min_tier"),
            ({"mintier": "Known"}, "kwaai.mintier"),
            ({"max_latency_ms": 0}, "kwaai.max_latency_ms"),
            ({"max_latency_ms": 1e9}, "kwaai.max_latency_ms"),
            ({"max_latency_ms": "80"}, "kwaai.max_latency_ms"),
            ({"max_hops_per_owner": 0}, "kwaai.max_hops_per_owner"),
            ({"allow": ["amber"]}, "kwaai.allow"),
            ({"deny": ["did:"]}, "kwaai.deny"),
            ({"deny": [DID] * 33}, "kwaai.deny"),
            ({"credentials": ["NonsenseVC"]}, "kwaai.credentials"),
            ({"credentials": [{"type": "UptimeVC", "issuers": ["x"]}]}, "kwaai.credentials"),
            ({"credentials": [{"issuers": []}]}, "kwaai.credentials[0].type"),
            ({"privacy": "none"}, "kwaai.privacy"),
            ({"route": "scenic"}, "kwaai.route"),
            ({"region": "\x1b[2J"}, "kwaai.region"),
            ({"budget": {"a": 1}}, "kwaai.budget.a"),
            ({"budget": {str(n): "" for n in range(9)}}, "kwaai.budget"),
        ],
    )
    def test_what_is_refused_by_name(self, kwaai: Any, param: str) -> None:
        with pytest.raises(UserError) as caught:
            request_of(kwaai)
        assert caught.value.param == param


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*ALL, "other"]), values))
def test_no_body_crashes(kwaai: Any) -> None:
    try:
        request_of(kwaai)
    except UserError:
        return


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["X-Kwaai-Min-Tier", "x-kwaai-privacy", "X-Kwaai-Max-Latency-Ms"]),
            st.text(max_size=12) | st.floats().map(str),
        )
    )
)
def test_no_header_crashes(given_headers: list[tuple[str, str]]) -> None:
    try:
        asked_in_headers(CIMultiDict(given_headers))
    except UserError:
        return


class TestHeaders:
    def test_all_three(self) -> None:
        headers = {
            "x-kwaai-min-tier": " known ",
            "X-KWAAI-Max-Latency-Ms": "80.5",
            "X-Kwaai-Privacy": "Fast",
            "X-Other": "1",
        }
        asked = asked_in_headers(CIMultiDict(headers))
        assert asked.demand == Demand(min_tier=Tier.KNOWN, token_ms_max=80.5)
        assert asked.privacy == "fast"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("X-Kwaai-Min-Tier", "gold"),
            ("X-Kwaai-Max-Latency-Ms", "-1"),
            ("X-Kwaai-Max-Latency-Ms", "nan"),
            ("X-Kwaai-Max-Latency-Ms", "inf"),
            ("X-Kwaai-Max-Latency-Ms", "80 ms"),
            ("X-Kwaai-Max-Latency-Ms", ""),
            ("X-Kwaai-Privacy", "none"),
            ("X-Kwaai-Min-Teir", "Known"),
        ],
    )
    def test_what_is_refused_by_name(self, name: str, value: str) -> None:
        with pytest.raises(UserError) as caught:
            asked_in_headers({name: value})
        assert caught.value.param == name

    def test_twice_is_refused(self) -> None:
        headers = CIMultiDict([("X-Kwaai-Min-Tier", "Known"), ("x-kwaai-min-tier", "Trusted")])
        with pytest.raises(UserError, match="twice"):
            asked_in_headers(headers)

    def test_a_header_and_a_body_that_differ_are_refused(self) -> None:
        asked = asked_in_headers({"X-Kwaai-Min-Tier": "Known", "X-Kwaai-Privacy": "fast"})
        job = parse_chat({**CHAT, "kwaai": {"min_tier": "Known", "region": "eu"}}).asking(asked)
        assert job.requests[0].demand == Demand(min_tier=Tier.KNOWN, region="eu")
        assert job.requests[0].privacy == "fast"
        for kwaai in ({"min_tier": "Trusted"}, {"privacy": "private"}):
            with pytest.raises(UserError, match="differently"):
                parse_chat({**CHAT, "kwaai": kwaai}).asking(asked)


class TestPathHeaders:
    def test_what_is_known_is_told(self) -> None:
        hops = (
            HopReport("here", "", LayerRange(0, 1), "f32"),
            HopReport("amber\r\nX-Evil: 1", "12D3A", LayerRange(1, 4), "f16", tier="Verified"),
            HopReport("birch", "12D3B", LayerRange(4, 7), "f16"),
            HopReport("here", "", LayerRange(7, 8), ""),
        )
        path = PathReport("split", "private", hops, {"split": 40.0}, token_ms=(26.04, 31.0))
        assert path_headers(path) == {
            "X-Kwaai-Path": "here [0,1) -> amber??X-Evil: 1 [1,4) -> birch [4,7) -> here [7,8)",
            "X-Kwaai-Route": "split",
            "X-Kwaai-Hops": "2",
            "X-Kwaai-Tiers": "Verified, Unknown",
            "X-Kwaai-Predicted-Ms": "25.0",
            "X-Kwaai-Token-Ms": "26.0",
        }

    def test_what_is_not_known_is_not(self) -> None:
        path = PathReport("alone", "private", (), {"alone": None, "peer": 3.0})
        assert set(path_headers(path)) == {"X-Kwaai-Path", "X-Kwaai-Route", "X-Kwaai-Hops"}


@pytest.fixture
def generator() -> PathGenerator:
    return PathGenerator()


@pytest.fixture
async def http(generator: PathGenerator) -> AsyncIterator[aiohttp.ClientSession]:
    app: web.Application = create_app(generator)
    async with (
        listening(app, "127.0.0.1", 0) as (host, port),
        aiohttp.ClientSession(f"http://{host}:{port}") as session,
    ):
        yield session


class TestAnswers:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_they_tell_the_path(
        self, stream: bool, http: aiohttp.ClientSession, generator: PathGenerator
    ) -> None:
        body = {**CHAT, "stream": stream, "kwaai": {"region": "eu"}}
        asked = {"X-Kwaai-Min-Tier": "Known", "X-Kwaai-Max-Latency-Ms": "80"}
        async with http.post("/v1/chat/completions", json=body, headers=asked) as response:
            assert response.status == 200
            await response.read()
            told = response.headers
        assert told["X-Kwaai-Path"] == PATH.text
        assert (told["X-Kwaai-Route"], told["X-Kwaai-Hops"]) == ("split", "1")
        assert told["X-Kwaai-Predicted-Ms"] == "42.6"
        wanted = generator.requests[-1].demand
        assert wanted == Demand(min_tier=Tier.KNOWN, token_ms_max=80.0, region="eu")

    async def test_a_generator_without_paths(
        self, http: aiohttp.ClientSession, generator: PathGenerator
    ) -> None:
        generator.path = None
        async with http.post("/v1/chat/completions", json=CHAT) as response:
            assert response.headers["X-Kwaai-Path"] == generator.models()[0].path
            assert "X-Kwaai-Route" not in response.headers

    @pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
    async def test_what_cannot_be_read_is_refused(
        self, route: str, http: aiohttp.ClientSession
    ) -> None:
        body = CHAT if "chat" in route else {"model": "kwaai-demo", "prompt": "x"}
        async with http.post(route, json=body, headers={"X-Kwaai-Min-Tier": "gold"}) as response:
            assert response.status == 400
            error = (await response.json())["error"]
        assert error["param"] == "X-Kwaai-Min-Tier"
        assert "Unknown, Known, Verified, Trusted" in error["message"]

    async def test_a_demand_that_nobody_meets(
        self, http: aiohttp.ClientSession, generator: PathGenerator
    ) -> None:
        generator.refusal = IntentUnmet("nobody is Trusted; it would do with Verified")
        body = {**CHAT, "stream": True, "kwaai": {"min_tier": "Trusted"}}
        async with http.post("/v1/chat/completions", json=body) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "intent_unmet"
            # OpenAI's clients do as it says; else they wait, and ask the same twice more.
            assert response.headers["X-Should-Retry"] == "false"


def test_a_typo_is_told_what_it_may_have_meant() -> None:
    with pytest.raises(UserError, match=r"'kwaai\.min_teir'; did you mean 'min_tier'\?"):
        request_of({"min_teir": "Known"})
