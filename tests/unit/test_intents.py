"""Intents and offers: bytes and back, what is refused and why, one encoding for one value, no crash
on any bytes; what is seen twice; the life of an agreement.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credentials.did import did_key
from credentials.keys import SecretKey, peer_id
from kwaai import limits
from kwaai.errors import Busy, UserError
from kwaai.intent.agreement import ENDED, TRANSITIONS, Agreement, Event, Stage
from kwaai.intent.demand import (
    CredentialDemand,
    Demand,
    demand_json,
    describe,
    parse_credential,
    parse_name,
)
from kwaai.intent.intent import (
    SIGNATURE_DOMAIN,
    Intent,
    ModelConstraint,
    intent_digest,
    sign_intent,
    verify_intent,
)
from kwaai.intent.offer import SIGNATURE_DOMAIN as OFFER_DOMAIN
from kwaai.intent.offer import CredentialRef, Offer, sign_offer, verify_offer
from kwaai.intent.replay import ReplayGuard
from kwaai.intent.signed import IntentInvalid
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import WireError
from kwaai.wire.intent_messages import (
    Cast,
    Declined,
    Offers,
    encode_cast,
    encode_cast_answer,
    parse_cast,
    parse_cast_answer,
)

NOW_S = 1_800_000_000.0
HANDLE = ModelHandle("sha256:" + "5a" * 32)
ME, HOP, OTHER = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
MY_PEER, HOP_PEER, OTHER_PEER = (peer_id(k.public) for k in (ME, HOP, OTHER))
MY_DID, HOP_DID, OTHER_DID = (did_key(k.public) for k in (ME, HOP, OTHER))
DEMAND = Demand(
    min_tier=Tier.VERIFIED,
    credentials=(CredentialDemand("VerifiedNodeVC", tuple(sorted((HOP_DID, OTHER_DID)))),),
    deny=frozenset({OTHER_DID}),
    token_ms_max=80.0,
    first_token_ms_max=2000.5,
    owner_hops_max=1,
    region="eu",
    budget={"currency": "none", "most": "0"},
)


def intent(**changes: Any) -> Intent:
    base = Intent(
        "inference", HANDLE, DEMAND, "private", MY_PEER, b"n" * 16, NOW_S, NOW_S + 60, b"later"
    )
    return replace(base, **changes)


def signed(**changes: Any) -> bytes:
    return sign_intent(intent(**changes), ME)


def offer(data: bytes | None = None, **changes: Any) -> Offer:
    base = Offer(
        intent=intent_digest(signed() if data is None else data),
        hop=HOP_PEER,
        handle=HANDLE,
        layers=LayerRange(2, 6),
        head=False,
        context_tokens=4096,
        sessions_free=3,
        issued_s=NOW_S,
        expires_s=NOW_S + 60,
        decode_us=1500,
        prefill_tokens_s=250.5,
        terms={"price": "0"},
        credentials=(CredentialRef("UptimeVC", OTHER_DID, "sha256:" + "7b" * 32),),
        extra=b"x",
    )
    return replace(base, **changes)


def reason(verify: Callable[[bytes, float], object], data: bytes, now_s: float = NOW_S) -> str:
    with pytest.raises(IntentInvalid) as caught:
        verify(data, now_s)
    return caught.value.reason


def resigned(data: bytes, at: int, new: bytes, domain: bytes, secret: SecretKey) -> bytes:
    """Put bytes of a liar's choice into a value, and sign it rightly."""
    payload = data[:at] + new + data[at + len(new) : -64]
    return payload + secret.sign(domain + payload)


class TestIntents:
    def test_one_comes_back_as_it_was(self) -> None:
        data = signed()
        assert verify_intent(data, NOW_S) == intent()
        assert len(data) < 600
        assert intent_digest(data).startswith("sha256:")
        assert len(intent_digest(data)) == 71

    def test_an_empty_one_is_small(self) -> None:
        data = signed(demand=Demand(), extra=b"")
        assert verify_intent(data, NOW_S).demand == Demand()
        assert len(data) == 1 + 32 + 16 + 8 + 8 + 2 + 33 + 10 + 5 + 2 + 64

    def test_the_layout_is_the_documented_one(self) -> None:
        wanted = Demand(
            min_tier=Tier.KNOWN,
            credentials=(CredentialDemand("UptimeVC"),),
            allow=frozenset({HOP_DID}),
            token_ms_max=80.0,
            region="eu",
            budget={"a": "b"},
        )
        data = signed(demand=wanted, extra=b"xyz")
        expected = b"\x01" + ME.public.raw + b"n" * 16
        expected += struct.pack(">QQ", int(NOW_S) * 1000, int(NOW_S) * 1000 + 60_000)
        expected += b"\x00\x00" + b"\x01" + b"\x5a" * 32
        expected += b"\x02" + struct.pack(">II", 80_000, 0) + b"\x00"
        expected += b"\x01" + b"\x08UptimeVC" + b"\x00"
        expected += b"\x01" + struct.pack(">H", len(HOP_DID)) + HOP_DID.encode()
        expected += b"\x00" + b"\x02eu" + b"\x01" + b"\x01a\x01b" + b"\x00\x03xyz"
        assert data[:-64] == expected
        ME.public.verify(b"kwaainet intent 1\x00" + expected, data[-64:])

    def test_the_order_of_what_is_asked_changes_nothing(self) -> None:
        one, two = CredentialDemand("UptimeVC"), CredentialDemand("VerifiedNodeVC", (HOP_DID,))
        datas = {
            signed(demand=Demand(credentials=wanted, budget=budget))
            for wanted in ((one, two), (two, one), (one, two, one))
            for budget in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
        }
        assert len(datas) == 1

    def test_a_constraint_instead_of_a_handle(self) -> None:
        wanted = ModelConstraint("qwen2", 400_000_000, 8_000_000_000, "Q4_K_M")
        assert verify_intent(signed(model=wanted), NOW_S).model == wanted

    @pytest.mark.parametrize(
        ("changes", "now_s", "why"),
        [
            ({"expires_s": NOW_S}, NOW_S, "lifetime"),
            ({"expires_s": NOW_S + limits.INTENT_LIFETIME_S_MAX + 1}, NOW_S, "lifetime"),
            ({}, NOW_S - limits.INTENT_FUTURE_S_MAX - 1, "future"),
            ({}, NOW_S + 60, "expired"),
        ],
    )
    def test_times(self, changes: dict[str, Any], now_s: float, why: str) -> None:
        assert reason(verify_intent, signed(**changes), now_s) == why

    def test_every_altered_byte_is_refused(self) -> None:
        data = signed()
        for at in range(len(data)):
            altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            with pytest.raises(IntentInvalid):
                verify_intent(altered, NOW_S)

    def test_another_key_and_another_purpose_are_refused(self) -> None:
        data = signed()
        stolen = data[:1] + OTHER.public.raw + data[33:]
        assert reason(verify_intent, stolen) == "signature"
        elsewhere = data[:-64] + ME.sign(OFFER_DOMAIN + data[:-64])
        assert reason(verify_intent, elsewhere) == "signature"

    @pytest.mark.parametrize(
        ("at", "new", "why"),
        [
            (0, b"\x02", "version"),
            (65, b"\x03", "format"),  # no such kind
            (66, b"\x02", "format"),  # no such privacy
            (67, b"\x00", "format"),  # neither handle nor constraint
            (100, b"\x05", "format"),  # no such tier
            (101, b"\xff\xff\xff\xff", "format"),  # more than an hour a token
        ],
    )
    def test_fields_out_of_bounds(self, at: int, new: bytes, why: str) -> None:
        assert reason(verify_intent, resigned(signed(), at, new, SIGNATURE_DOMAIN, ME)) == why

    def test_a_list_out_of_order_is_refused(self) -> None:
        pair = Demand(deny=frozenset({HOP_DID, OTHER_DID}))
        data = signed(demand=pair)
        first, second = sorted((HOP_DID, OTHER_DID))
        at = data.index(first.encode())
        swapped = second.encode() + data[at + len(first) : at + len(first) + 2] + first.encode()
        assert reason(verify_intent, resigned(data, at, swapped, SIGNATURE_DOMAIN, ME)) == "format"
        twice = first.encode() + data[at + len(first) : at + len(first) + 2] + first.encode()
        assert reason(verify_intent, resigned(data, at, twice, SIGNATURE_DOMAIN, ME)) == "format"

    def test_bytes_left_over_are_refused(self) -> None:
        payload = signed()[:-64] + b"\x00"
        data = payload + ME.sign(SIGNATURE_DOMAIN + payload)
        assert reason(verify_intent, data) == "format"

    @pytest.mark.parametrize(
        "changes",
        [
            {"requester": OTHER_PEER},
            {"nonce": b"short"},
            {"demand": Demand(region="e" * 65)},
            {"demand": Demand(region="\x1b[2J")},
            {"demand": Demand(token_ms_max=limits.DEMAND_MS_MAX * 2)},
            {"demand": Demand(owner_hops_max=256)},
            {"demand": Demand(deny=frozenset({"amber"}))},
            {"demand": Demand(deny=frozenset(f"did:web:{n}.example" for n in range(33)))},
            {"demand": Demand(allow=frozenset("did:web:" + c * 450 for c in "abcdefghij"))},
            {"demand": Demand(budget={str(n): "" for n in range(9)})},
            {"model": ModelConstraint(params_min=9, params_max=3)},
            {"expires_s": 1e300},
            {"extra": bytes(limits.INTENT_EXTRA_BYTES_MAX + 1)},
        ],
    )
    def test_what_nobody_would_take_is_not_signed(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"intent|field of 16"):
            signed(**changes)


class TestOffers:
    def test_one_comes_back_as_it_was(self) -> None:
        data = sign_offer(offer(), HOP)
        assert verify_offer(data, NOW_S) == offer()
        assert len(data) < 450

    def test_the_layout_is_the_documented_one(self) -> None:
        data = sign_offer(offer(extra=b""), HOP)
        expected = b"\x01" + HOP.public.raw + bytes.fromhex(offer().intent[7:])
        expected += struct.pack(">QQ", int(NOW_S) * 1000, int(NOW_S) * 1000 + 60_000)
        expected += b"\x5a" * 32 + struct.pack(">HHBIHIf", 2, 6, 0, 4096, 3, 1500, 250.5)
        expected += b"\x01\x05price\x010"
        expected += b"\x01\x08UptimeVC" + struct.pack(">H", len(OTHER_DID)) + OTHER_DID.encode()
        expected += b"\x7b" * 32 + b"\x00\x00"
        assert data[:-64] == expected
        HOP.public.verify(b"kwaainet offer 1\x00" + expected, data[-64:])

    def test_every_altered_byte_is_refused(self) -> None:
        data = sign_offer(offer(), HOP)
        for at in range(len(data)):
            altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            with pytest.raises(IntentInvalid):
                verify_offer(altered, NOW_S)

    def test_an_intent_is_no_offer(self) -> None:
        assert reason(verify_offer, signed()) in ("format", "size")
        assert reason(verify_intent, sign_offer(offer(), HOP)) == "format"

    @pytest.mark.parametrize(
        "changes",
        [
            {"hop": OTHER_PEER},
            {"intent": "sha256:00"},
            {"prefill_tokens_s": -1.0},
            {"prefill_tokens_s": float("nan")},
            {"prefill_tokens_s": 1e300},
            {"context_tokens": 0},
            {"terms": {"a" * 129: ""}},
            {"layers": LayerRange(0, limits.BLOCKS_MAX + 1)},
        ],
    )
    def test_what_nobody_would_take_is_not_signed(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"offer|field of 32"):
            sign_offer(offer(**changes), HOP)


text = st.text(st.characters(categories=["L", "N", "P"]), max_size=16)
names = st.frozensets(st.sampled_from([MY_DID, HOP_DID, OTHER_DID, "did:web:a.example"]))
latency = st.none() | st.integers(1, 3_600_000_000).map(lambda us: us / 1000)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    kinds = draw(st.lists(st.sampled_from(["UptimeVC", "VerifiedNodeVC"]), unique=True))
    return Demand(
        min_tier=draw(st.none() | st.sampled_from(Tier)),
        credentials=tuple(CredentialDemand(k, tuple(sorted(draw(names)))) for k in sorted(kinds)),
        allow=draw(names),
        deny=draw(names),
        token_ms_max=draw(latency),
        first_token_ms_max=draw(latency),
        owner_hops_max=draw(st.none() | st.integers(1, 255)),
        region=draw(text),
        budget=draw(st.dictionaries(text, text, max_size=4)),
    )


@given(demands(), st.binary(min_size=16, max_size=16), st.integers(1, 600_000))
def test_any_intent_comes_back(wanted: Demand, nonce: bytes, life_ms: int) -> None:
    sent = intent(demand=wanted, nonce=nonce, expires_s=NOW_S + life_ms / 1000)
    assert verify_intent(sign_intent(sent, ME), NOW_S) == sent


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    for verify in (verify_intent, verify_offer):
        with pytest.raises(IntentInvalid):
            verify(data, NOW_S)
    for parse in (parse_cast, parse_cast_answer):
        try:
            parse(data)
        except WireError:
            continue


@settings(max_examples=300)
@given(st.data())
def test_rightly_signed_rubbish_is_refused_or_is_canonical(data: st.DataObject) -> None:
    """Whatever holds has one encoding: it is signed to the very same bytes again."""
    for value, domain, secret in (
        (signed(), SIGNATURE_DOMAIN, ME),
        (sign_offer(offer(), HOP), OFFER_DOMAIN, HOP),
    ):
        at = data.draw(st.integers(33, len(value) - 65))
        new = data.draw(st.binary(min_size=1, max_size=4))[: len(value) - 64 - at]
        changed = resigned(value, at, new, domain, secret)
        try:
            if secret is ME:
                again = sign_intent(verify_intent(changed, NOW_S), ME)
            else:
                again = sign_offer(verify_offer(changed, NOW_S), HOP)
        except IntentInvalid:
            continue
        assert again == changed


class TestMessages:
    @pytest.mark.parametrize(
        "answer", [Offers((b"a",)), Offers((b"a", b"b" * 4096)), Declined("busy", "wait", 1500)]
    )
    def test_they_come_back(self, answer: Offers | Declined) -> None:
        assert parse_cast_answer(encode_cast_answer(answer)) == answer
        assert parse_cast(encode_cast(Cast(b"x" * 4096))) == Cast(b"x" * 4096)

    @pytest.mark.parametrize(
        "data",
        [
            encode_cast_answer(Offers(())),
            encode_cast_answer(Offers((b"",) * 9)),
            encode_cast_answer(Offers((b"a" * 4097,))),
            encode_cast_answer(Declined("r" * 65, "")),
            encode_cast_answer(Declined("r", "m" * 513)),
            encode_cast_answer(Declined("r", "\x1b[2J")),
            b"\x03",
            encode_cast_answer(Declined("r", "m")) + b"\x00",
        ],
    )
    def test_what_is_out_of_bounds_is_refused(self, data: bytes) -> None:
        with pytest.raises(WireError):
            parse_cast_answer(data)

    def test_an_intent_that_is_too_long_is_refused(self) -> None:
        with pytest.raises(WireError):
            parse_cast(encode_cast(Cast(bytes(4097))))


class TestDemands:
    def test_names_have_one_spelling(self) -> None:
        assert parse_name(HOP_PEER) == HOP_DID == parse_name(HOP_DID)
        assert parse_name(f"did:peer:{HOP_PEER}") == HOP_DID
        assert parse_name("did:web:example.org") == "did:web:example.org"

    @pytest.mark.parametrize("text", ["", "amber", "did:", "12D3KooW", "did:web:" + "a" * 600])
    def test_others_are_refused(self, text: str) -> None:
        with pytest.raises(UserError) as caught:
            parse_name(text, "kwaai.deny")
        assert caught.value.param == "kwaai.deny"

    def test_credential_types_have_one_spelling(self) -> None:
        wanted = parse_credential("verifiednodevc", [HOP_PEER, HOP_DID])
        assert wanted == CredentialDemand("VerifiedNodeVC", (HOP_DID,))
        with pytest.raises(UserError, match="no type"):
            parse_credential("NonsenseVC")

    def test_settings_fill_what_is_not_asked(self) -> None:
        asked = Demand(token_ms_max=5.0).with_defaults(min_tier=Tier.KNOWN, owner_hops_max=2)
        assert asked == Demand(min_tier=Tier.KNOWN, token_ms_max=5.0, owner_hops_max=2)
        strict = Demand(min_tier=Tier.UNKNOWN).with_defaults(min_tier=Tier.TRUSTED)
        assert strict.min_tier is Tier.UNKNOWN

    def test_two_are_joined_where_they_do_not_differ(self) -> None:
        one, two = Demand(min_tier=Tier.KNOWN), Demand(min_tier=Tier.KNOWN, region="eu")
        assert one.joined(two) == two == two.joined(one)
        with pytest.raises(UserError, match="min_tier"):
            one.joined(Demand(min_tier=Tier.TRUSTED))

    def test_words(self) -> None:
        assert describe(Demand()) == describe(Demand(min_tier=Tier.UNKNOWN)) == ()
        assert describe(Demand(credentials=(CredentialDemand("UptimeVC"),))) == ("an UptimeVC",)
        assert demand_json(Demand()) == {}
        said = "; ".join(describe(DEMAND))
        for part in (
            "at least Verified",
            "VerifiedNodeVC",
            "80 ms",
            OTHER_DID,
            "eu",
            "1 part of",
            "most=0",
        ):
            assert part in said
        assert demand_json(DEMAND)["max_latency_ms"] == 80.0


class TestReplays:
    def test_each_is_good_once_for_each_use(self) -> None:
        guard = ReplayGuard()
        guard.take(intent(), "cast", NOW_S)
        guard.take(intent(), "open", NOW_S)
        for use in ("cast", "open"):
            with pytest.raises(IntentInvalid) as caught:
                guard.take(intent(), use, NOW_S + 1)
            assert caught.value.reason == "replay"
            assert caught.value.peer == MY_PEER
        guard.take(intent(nonce=b"m" * 16), "open", NOW_S)
        guard.take(intent(requester=OTHER_PEER), "open", NOW_S)

    def test_it_is_bounded_for_one_and_in_all(self) -> None:
        guard = ReplayGuard(per_requester_max=3, nonces_max=5)
        for number in range(3):
            guard.take(intent(nonce=bytes([number]) * 16), "open", NOW_S)
        with pytest.raises(Busy) as caught:
            guard.take(intent(nonce=b"x" * 16), "open", NOW_S)
        assert caught.value.retry_after_s == 60.0
        for number in range(3):
            guard.take(intent(nonce=bytes([number]) * 16, requester=OTHER_PEER), "open", NOW_S)
        assert len(guard) == 3  # whoever asked longest ago is forgotten

    def test_what_has_expired_makes_room(self) -> None:
        guard = ReplayGuard(per_requester_max=1)
        guard.take(intent(), "open", NOW_S)
        later = intent(nonce=b"x" * 16, issued_s=NOW_S + 60, expires_s=NOW_S + 120)
        guard.take(later, "open", NOW_S + 60)
        assert len(guard) == 1

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 200))))
    def test_the_count_is_right(self, uses: list[tuple[int, int, int]]) -> None:
        guard = ReplayGuard(per_requester_max=3, nonces_max=6)
        now_s = NOW_S
        for who, nonce, later_s in uses:
            now_s += later_s
            peer = (MY_PEER, HOP_PEER, OTHER_PEER, MY_PEER)[who]
            value = intent(
                requester=peer, nonce=bytes([nonce]) * 16, issued_s=now_s, expires_s=now_s + 60
            )
            with contextlib.suppress(IntentInvalid, Busy):
                guard.take(value, "open", now_s)
            assert len(guard) == sum(map(len, guard._seen.values())) <= 6


class TestAgreements:
    def begun(self) -> tuple[Agreement, bytes]:
        data = signed()
        return Agreement(data, HOP_PEER, NOW_S), data

    def test_the_whole_life(self) -> None:
        agreement, data = self.begun()
        assert agreement.stage is Stage.CAST
        agreement.on_offer(sign_offer(offer(data, decode_us=9), HOP), NOW_S)
        last = agreement.on_offer(sign_offer(offer(data), HOP), NOW_S + 1)
        assert agreement.offer == last == agreement.agree(NOW_S + 2)
        agreement.start()
        assert not agreement.check_age(NOW_S + 1e6)  # it runs
        agreement.finish()
        agreement.on_receipt("sha256:00")
        assert (agreement.stage, agreement.receipt) == (Stage.RECEIPTED, "sha256:00")

    @pytest.mark.parametrize(
        ("changes", "secret", "why"),
        [
            ({"hop": OTHER_PEER}, OTHER, "signature"),
            ({"intent": "sha256:" + "00" * 32}, HOP, "digest"),
            ({"expires_s": NOW_S + 1}, HOP, "expired"),
        ],
    )
    def test_offers_that_do_not_hold(
        self, changes: dict[str, Any], secret: SecretKey, why: str
    ) -> None:
        agreement, data = self.begun()
        with pytest.raises(IntentInvalid) as caught:
            agreement.on_offer(sign_offer(offer(data, **changes), secret), NOW_S + 2)
        assert caught.value.reason == why
        assert agreement.stage is Stage.CAST
        assert agreement.offer is None

    def test_it_expires_with_its_offer(self) -> None:
        agreement, data = self.begun()
        agreement.on_offer(sign_offer(offer(data, expires_s=NOW_S + 5), HOP), NOW_S)
        with pytest.raises(IntentInvalid, match="expired"):
            agreement.agree(NOW_S + 5)
        assert agreement.stage is Stage.EXPIRED

    def test_nothing_comes_after_the_end(self) -> None:
        agreement, data = self.begun()
        agreement.decline("busy")
        with pytest.raises(IntentInvalid) as caught:
            agreement.on_offer(sign_offer(offer(data), HOP), NOW_S)
        assert caught.value.reason == "state"
        with pytest.raises(IntentInvalid):
            agreement.on_receipt("sha256:00")
        with pytest.raises(ValueError, match="declined has no start"):
            agreement.start()

    def test_an_expired_intent_begins_nothing(self) -> None:
        with pytest.raises(IntentInvalid):
            Agreement(signed(), HOP_PEER, NOW_S + 60)

    def test_the_table_has_every_stage_and_event(self) -> None:
        sources = {stage for stage, _ in TRANSITIONS}
        assert {event for _, event in TRANSITIONS} == set(Event)
        assert sources | set(TRANSITIONS.values()) == set(Stage)
        assert not sources & ENDED
        reached = {Stage.CAST}
        for _ in Stage:
            reached |= {TRANSITIONS[s, e] for s, e in TRANSITIONS if s in reached}
        assert reached == set(Stage)

    def test_what_runs_is_not_ended_by_the_clock(self) -> None:
        running = (Stage.FULFILLING, Stage.FULFILLED)
        pairs = itertools.product(running, (Event.EXPIRE, Event.DECLINE))
        assert not set(pairs) & set(TRANSITIONS)
