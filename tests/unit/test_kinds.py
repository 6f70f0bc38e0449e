"""The nine types: what is built holds in both suites, what is out of bounds is refused by name."""

from __future__ import annotations

import contextlib
import json
from datetime import date, timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from credentials.claims import Claim, is_format
from credentials.consistency import INFERENCE_S_MAX, RATIO_DECIMALS
from credentials.constructors import (
    Frame,
    Receipt,
    Window,
    build_event_attendee,
    build_fiduciary_pledge,
    build_inference_receipt,
    build_membership,
    build_peer_endorsement,
    build_throughput,
    build_uptime,
    build_verified_node,
)
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_document, encode_time, parse_document
from credentials.errors import (
    KindUnknown,
    ModelInvalid,
    ProofInvalid,
    SchemaViolated,
    SignatureInvalid,
)
from credentials.issue import issue_credential
from credentials.keys import SecretKey
from credentials.kinds import (
    CONTEXT_URL,
    DAY_S,
    KINDS,
    Kind,
    build_credential,
    check_claims,
    check_kind,
    find_kind,
    kind_of,
    parse_claim,
)
from credentials.limits import CLAIM_WINDOW_S_MAX, CLOCK_SKEW_S
from credentials.proof import ProofOptions, Suite
from credentials.schema_check import schema_url
from credentials.verify import Environment, verify_credential
from schemas import load_context, load_schema

NOW_S = 1_795_000_000
ISSUER = SecretKey(bytes(range(32)))
SUBJECT = SecretKey(bytes(range(1, 33)))
ISSUER_DID, SUBJECT_DID = did_key(ISSUER.public), did_key(SUBJECT.public)
SUITES: tuple[Suite, ...] = ("eddsa-jcs-2022", "eddsa-rdfc-2022")
FRAME = Frame(ISSUER_DID, SUBJECT_DID, NOW_S)
WINDOW = Window(NOW_S - 10 * DAY_S, NOW_S)
HANDLE = "sha256:" + "5a" * 32

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def sign(document: Document, suite: Suite) -> bytes:
    options = ProofOptions(suite=suite, method=verification_method(ISSUER_DID), created_s=NOW_S)
    return encode_document(issue_credential(document, options, ISSUER))


# Claims of any kind, as a strategy made of what the schema says.

printable = st.characters(
    exclude_categories=("Cc", "Cs"),
    exclude_characters="\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
)
digests = st.binary(min_size=32, max_size=32).map(lambda data: "sha256:" + data.hex())
times = st.integers(-5 * 365 * DAY_S, 0).map(lambda ago: encode_time(NOW_S + ago))
SPECIAL = {
    "swarmId": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True),
    "requestNonce": st.from_regex(r"[A-Za-z0-9_-]{22,86}", fullmatch=True),
    "pledgeUrl": st.from_regex(r"https://[a-z]{1,9}\.example/[a-z0-9/?=&]{0,40}", fullmatch=True),
}


def values_of(claim: Claim) -> st.SearchStrategy[Any]:
    """Any value that the schema allows."""
    if claim.name in SPECIAL:
        return SPECIAL[claim.name]
    if claim.type == "integer":
        return st.integers(int(claim.minimum or 0), int(claim.maximum or 0))
    if claim.type == "number":
        low, high = float(claim.minimum or 0), float(claim.maximum or 0)
        return st.floats(low, high) | st.integers(int(low), int(high))
    if claim.type == "choice":
        return st.sampled_from(claim.choices)
    if claim.type == "list":
        return st.lists(st.sampled_from(claim.choices), min_size=1, unique=True)
    if claim.type == "date":
        return st.dates(date(1900, 1, 1), date(2100, 1, 1)).map(str)
    if claim.type == "DID":
        return st.just(SUBJECT_DID) | st.just("did:web:example.com%3A8080:nodes:a")
    strategies = {"time": times, "digest": digests}
    text = st.text(printable, min_size=claim.chars_min, max_size=min(claim.chars_max, 60))
    return strategies.get(claim.type, text)


@st.composite
def claims_of(draw: st.DrawFn, kind: Kind) -> dict[str, Any]:
    """Claims of a kind that agree with each other, optional ones there or not."""
    claims = {
        claim.name: draw(values_of(claim))
        for claim in kind.claims
        if claim.required or draw(st.booleans())
    }
    if "successCount" in claims:
        whole = claims.get("probeCount", claims.get("interactionCount"))
        claims["successCount"] = draw(st.integers(0, whole))
    if "uptimeRatio" in claims:
        exact = claims["successCount"] / claims["probeCount"]
        claims["uptimeRatio"] = round(exact, RATIO_DECIMALS)
    if "blockStart" in claims:
        claims["blockStop"] = draw(st.integers(claims["blockStart"] + 1, 10_000))
    for start, end, longest in (
        ("windowStart", "windowEnd", CLAIM_WINDOW_S_MAX),
        ("startedAt", "finishedAt", INFERENCE_S_MAX),
    ):
        if start in claims:
            span_s = draw(st.integers(1, longest))
            claims[end] = encode_time(NOW_S)
            claims[start] = encode_time(NOW_S - span_s)
            if "firstTokenMilliseconds" in claims:
                claims["firstTokenMilliseconds"] = draw(st.floats(0, span_s * 1000))
    return claims


def example(kind: Kind) -> dict[str, Any]:
    """One full set of claims of each kind."""
    return {claim.name: EXAMPLES[claim.name] for claim in kind.claims}


EXAMPLES: dict[str, Any] = {
    "pledgeName": "GliaNet Fiduciary Pledge v1",
    "pledgeHash": HANDLE,
    "pledgeUrl": "https://example.org/pledge",
    "checksPassed": ["hardware", "key-possession"],
    "checkedAt": encode_time(NOW_S - DAY_S),
    "nodeOperator": ISSUER_DID,
    "evidenceDigest": HANDLE,
    "windowStart": encode_time(NOW_S - 10 * DAY_S),
    "windowEnd": encode_time(NOW_S),
    "probeCount": 1440,
    "successCount": 1437,
    "uptimeRatio": 0.997917,
    "medianRoundTripMilliseconds": 41.5,
    "modelHandle": HANDLE,
    "modelName": "SmolLM2 135M Q8_0",
    "blockStart": 3,
    "blockStop": 12,
    "measuredPhase": "decode",
    "tokensPerSecond": 35.25,
    "claimedTokensPerSecond": 36,
    "sampleCount": 64,
    "eventName": "Kwaai Summit",
    "eventDate": "2026-10-03",
    "eventLocation": "San Francisco",
    "attendeeRole": "speaker",
    "interactionCount": 5000,
    "endorsementStatement": "Answers at night too — größtenteils.",
    "nodeLabel": "attic",
    "ownerName": "Ada",
    "swarmId": "swarm:home",
    "swarmName": "Home",
    "memberRole": "operator",
    "memberSince": "2026-01-01",
    "requestNonce": "AAECAwQFBgcICQoLDA0ODw",
    "receiptRole": "hop",
    "intentDigest": HANDLE,
    "parametersDigest": HANDLE,
    "inputDigest": HANDLE,
    "outputDigest": HANDLE,
    "promptTokenCount": 512,
    "answerTokenCount": 64,
    "startedAt": encode_time(NOW_S - 3),
    "finishedAt": encode_time(NOW_S - 1),
    "firstTokenMilliseconds": 250.0,
    "inferenceOutcome": "completed",
}


def build(kind: Kind, claims: dict[str, Any], **options: Any) -> Document:
    return build_credential(
        kind, ISSUER_DID, SUBJECT_DID, claims, **{"valid_from_s": NOW_S, **options}
    )


# What is built holds.


@kinds
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_any_valid_claims_build_and_hold_in_both_suites(kind: Kind, data: st.DataObject) -> None:
    document = build(kind, data.draw(claims_of(kind)))
    jsonschema.Draft202012Validator(load_schema(kind.schema)).validate(document)
    assert check_kind(document) is kind
    for suite in SUITES:
        signed = sign(document, suite)
        verified = verify_credential(signed, Environment(now_s=NOW_S + 60))
        assert (verified.issuer, verified.subject) == (ISSUER_DID, SUBJECT_DID)
        assert verified.contexts_trusted
        assert kind_of(verified.document) is kind
        assert {k: v for k, v in verified.document.items() if k != "proof"} == document


@kinds
@pytest.mark.parametrize("suite", SUITES)
def test_a_change_of_any_claim_breaks_the_proof(kind: Kind, suite: Suite) -> None:
    signed = parse_document(sign(build(kind, example(kind)), suite))
    verify_credential(signed, Environment(now_s=NOW_S))
    for name, value in signed["credentialSubject"].items():
        other = value[1:] if isinstance(value, list) else "urn:b" if isinstance(value, str) else 7
        changed = {**signed, "credentialSubject": {**signed["credentialSubject"], name: other}}
        with pytest.raises((SignatureInvalid, ProofInvalid)):
            verify_credential(changed, Environment(now_s=NOW_S))


@kinds
def test_numbers_may_be_written_in_any_way_json_has(kind: Kind) -> None:
    """A wallet in another language writes 35.0 as 35: the same claim, the same signature."""
    for suite in SUITES:
        signed = sign(build(kind, example(kind)), suite)
        for written in (signed.replace(b":36,", b":36.0,"), signed.replace(b":250.0,", b":250,")):
            verify_credential(written, Environment(now_s=NOW_S))


def test_whole_numbers_are_integers_and_nothing_is_less_than_zero_however_they_came() -> None:
    kind = KINDS["UptimeVC"]
    claims = {**example(kind), "probeCount": 1440.0, "medianRoundTripMilliseconds": -0.0}
    subject = build(kind, claims)["credentialSubject"]
    assert type(subject["probeCount"]) is int
    assert str(subject["medianRoundTripMilliseconds"]) == "0.0"


@kinds
def test_the_order_and_default_validity_of_a_credential(kind: Kind) -> None:
    document = build(kind, dict(reversed(example(kind).items())))
    assert list(document["credentialSubject"]) == ["id", *(claim.name for claim in kind.claims)]
    if kind.validity_s is None:
        assert "validUntil" not in document
    else:
        assert document["validUntil"] == encode_time(NOW_S + kind.validity_s)
    status = [{"type": "BitstringStatusListEntry"}, {"type": "BitstringStatusListEntry"}]
    full = build(
        kind, example(kind), valid_until_s=NOW_S + 5, credential_id="urn:uuid:1", status=status
    )
    assert (full["id"], full["validUntil"]) == ("urn:uuid:1", encode_time(NOW_S + 5))
    assert full["credentialStatus"] == status
    assert build(kind, example(kind), status=status[:1])["credentialStatus"] == status[0]


def test_the_ratio_follows_from_the_counts() -> None:
    kind = KINDS["UptimeVC"]
    claims = example(kind)
    del claims["uptimeRatio"]
    assert build(kind, claims)["credentialSubject"]["uptimeRatio"] == 0.997917


# What is out of bounds is refused, by name and bound.


def outside(claim: Claim) -> list[Any]:
    """Values just outside of what the schema allows."""
    if claim.type in ("integer", "number"):
        low, high = claim.minimum, claim.maximum
        assert low is not None
        assert high is not None
        half = [low + 0.5] if claim.type == "integer" else []
        return [low - 1, high + 1, *half, "1", True, None, [1], float("inf"), float("nan")]
    if claim.type == "list":
        return [[], ["nothing"], list(claim.choices[:1]) * 2, claim.choices[0], None, [1], [[]]]
    wrong: list[Any] = ["", 5, None, ["a"], {"a": 1}, True, "a\nb", "\u202ea"]
    by_type: dict[str, list[Any]] = {
        "choice": ["none of them", claim.choices[0].upper() if claim.choices else ""],
        "time": ["2026-11-21", "2026-11-21T10:00:00", "2026-02-30T10:00:00Z", "now"],
        "date": ["2026-2-1", "2026-02-30", "20260201", "2026-02-01T00:00:00Z", "2026-02-01\n"],
        "DID": ["did:key", "did:KEY:z6Mk", "https://example.org", "did:key:z#a", "did:web:a b"],
        "URL": ["http://example.org", "example.org", "https://a b", 'https://a"b', "https://a\n"],
        "digest": [HANDLE + "\n", HANDLE[:-1], HANDLE.upper(), "5a" * 32, HANDLE + "0"],
    }
    return wrong + by_type.get(claim.type, ["a" * (claim.chars_max + 1)])


@kinds
def test_each_claim_out_of_bounds_is_refused_by_name_and_bound(kind: Kind) -> None:
    for claim in kind.claims:
        for value in outside(claim):
            assert not claim.accepts(value), (claim.name, value)
            with pytest.raises(SchemaViolated) as caught:
                build(kind, {**example(kind), claim.name: value})
            message = str(caught.value)
            assert f"{kind.name}: {claim.name} is " in message
            assert claim.bounds in message
            if claim.type in ("integer", "number"):
                assert f"{claim.minimum:,}" in message
                assert f"{claim.maximum:,}" in message


@kinds
def test_a_claim_too_few_or_too_many_is_refused(kind: Kind) -> None:
    for claim in kind.claims:
        claims = example(kind)
        del claims[claim.name]
        if claim.required and claim.name != "uptimeRatio":
            with pytest.raises(SchemaViolated, match=f"{claim.name} is missing"):
                build(kind, claims)
        else:
            build(kind, claims)
    with pytest.raises(SchemaViolated, match="'admin'"):
        build(kind, {**example(kind), "admin": True})
    with pytest.raises(SchemaViolated, match="'admin'"):
        check_claims(kind, {"id": SUBJECT_DID, **example(kind), "admin": True})


@pytest.mark.parametrize("subject", ["", "me", "https://example.org/", "did:key:", 5, None])
def test_whom_it_is_about_is_a_did(subject: Any) -> None:
    for kind in KINDS.values():
        with pytest.raises(SchemaViolated, match=r"id is .*DID"):
            build_credential(kind, ISSUER_DID, subject, example(kind), valid_from_s=NOW_S)


CONTRADICTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("UptimeVC", {"successCount": 1441, "uptimeRatio": 1}, "at most probeCount"),
    ("UptimeVC", {"uptimeRatio": 0.9979}, "uptimeRatio is 0.9979"),
    ("UptimeVC", {"uptimeRatio": 1}, "successCount / probeCount is 0.997917"),
    ("UptimeVC", {"windowStart": encode_time(NOW_S)}, "after windowStart"),
    ("UptimeVC", {"windowStart": encode_time(NOW_S + 1)}, "after windowStart"),
    ("UptimeVC", {"windowStart": encode_time(NOW_S - 367 * DAY_S)}, "at most 366"),
    ("UptimeVC", {"windowEnd": encode_time(NOW_S + CLOCK_SKEW_S + 1)}, "not over yet"),
    ("ThroughputVC", {"blockStop": 3}, "more than blockStart"),
    ("ThroughputVC", {"windowEnd": encode_time(NOW_S - 20 * DAY_S)}, "after windowStart"),
    ("VerifiedNodeVC", {"checkedAt": encode_time(NOW_S + DAY_S)}, "not over yet"),
    ("PeerEndorsementVC", {"successCount": 5001}, "at most interactionCount"),
    ("PeerEndorsementVC", {"windowEnd": encode_time(NOW_S + DAY_S)}, "not over yet"),
    ("InferenceReceiptVC", {"startedAt": encode_time(NOW_S)}, "not before startedAt"),
    ("InferenceReceiptVC", {"startedAt": encode_time(NOW_S - 8 * DAY_S)}, "at most 7"),
    ("InferenceReceiptVC", {"firstTokenMilliseconds": 3001}, "startedAt to finishedAt are 2000"),
    ("InferenceReceiptVC", {"blockStart": 12}, "more than blockStart"),
    ("InferenceReceiptVC", {"finishedAt": encode_time(NOW_S + DAY_S)}, "not over yet"),
]


@pytest.mark.parametrize(("name", "claims", "words"), CONTRADICTIONS)
def test_claims_that_contradict_each_other_are_refused(
    name: str, claims: dict[str, Any], words: str
) -> None:
    kind = KINDS[name]
    with pytest.raises(SchemaViolated, match=words):
        build(kind, {**example(kind), **claims})


def test_a_signature_does_not_make_claims_out_of_bounds_valid() -> None:
    kind = KINDS["UptimeVC"]
    document = build(kind, example(kind))
    document["credentialSubject"] |= {"probeCount": 0, "uptimeRatio": 1}
    for suite in SUITES:
        with pytest.raises(SchemaViolated, match="probeCount is 0"):
            verify_credential(sign(document, suite), Environment(now_s=NOW_S))


def test_times_beyond_what_text_can_say_are_refused() -> None:
    kind = KINDS["BindingVC"]
    with pytest.raises(ModelInvalid):
        build(kind, example(kind), valid_until_s=1e15)
    for until_s in (NOW_S, NOW_S - 1):
        with pytest.raises(SchemaViolated, match="validUntil is not after validFrom"):
            build(kind, example(kind), valid_until_s=until_s)


# Our reading of the schemas agrees with a JSON Schema validator.

any_value = (
    st.none()
    | st.booleans()
    | st.integers(-10, 2 * 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(list(EXAMPLES.values()))
    | st.lists(st.sampled_from(["hardware", "software", "x", "hardware"]), max_size=4)
)


def validator(kind: Kind) -> Any:
    checker = jsonschema.FormatChecker(formats=())
    for name in ("date", "date-time", "did", "uri"):
        checker.checks(name)(lambda value, name=name: is_format(name, value))
    return jsonschema.Draft202012Validator(load_schema(kind.schema), format_checker=checker)


@kinds
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_claims_are_read_as_a_json_schema_validator_reads_them(
    kind: Kind, data: st.DataObject
) -> None:
    claim = data.draw(st.sampled_from(kind.claims))
    value = data.draw(any_value | values_of(claim))
    assume(not (isinstance(value, str) and value.endswith("\n")))  # there `$` differs in Python
    document = build(kind, example(kind))
    document["credentialSubject"][claim.name] = value
    assert claim.accepts(value) == validator(kind).is_valid(document)


@kinds
def test_a_schema_is_a_schema_and_its_terms_are_in_the_context(kind: Kind) -> None:
    schema = load_schema(kind.schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == kind.name
    assert schema["$id"] == schema_url(kind.schema)
    terms = load_context(CONTEXT_URL)["@context"]
    assert terms["@protected"] is True
    for name in (kind.name, *kind.aliases):
        assert terms[name] == f"{CONTEXT_URL}#{name}"
    for claim in kind.claims:
        term = terms[claim.name]
        iri = term if isinstance(term, str) else term["@id"]
        assert iri == f"{CONTEXT_URL}#{claim.name}"
        assert claim.description
        assert claim.type not in ("integer", "number") or claim.unit


def test_the_context_says_nothing_that_no_type_has() -> None:
    terms = set(load_context(CONTEXT_URL)["@context"]) - {"@version", "@protected"}
    claims = {claim.name for kind in KINDS.values() for claim in kind.claims}
    names = {name for kind in KINDS.values() for name in (kind.name, *kind.aliases)}
    assert terms == claims | names


# Which kind a credential is of.


def test_kinds_are_found_by_name_and_alias_in_any_case() -> None:
    assert find_kind("uptimevc") is KINDS["UptimeVC"]
    assert find_kind("SummitAttendeeVC") is KINDS["EventAttendeeVC"]
    for name in ("", "UptimeCredential", "VerifiableCredential"):
        with pytest.raises(KindUnknown):
            find_kind(name)


def test_a_summit_attendee_is_read_as_an_event_attendee() -> None:
    kind = KINDS["EventAttendeeVC"]
    document = build(kind, example(kind))
    document["type"][1] = "SummitAttendeeVC"
    jsonschema.Draft202012Validator(load_schema(kind.schema)).validate(document)
    for suite in SUITES:
        verified = verify_credential(sign(document, suite), Environment(now_s=NOW_S))
        assert kind_of(verified.document) is kind


def test_a_type_name_without_our_context_is_somebody_elses() -> None:
    kind = KINDS["UptimeVC"]
    document = build(kind, example(kind))
    for contexts in (document["@context"][:1], CONTEXT_URL, None, [{"UptimeVC": "urn:x"}]):
        assert kind_of({**document, "@context": contexts}) is None
        assert check_kind({**document, "@context": contexts}) is None
    for types in (["VerifiableCredential"], "VerifiableCredential", None, [5], {"UptimeVC": 1}):
        assert kind_of({**document, "type": types}) is None
    assert kind_of({**document, "type": "UptimeVC"}) is kind


@pytest.mark.parametrize(
    "changes",
    [
        {"type": ["VerifiableCredential", "UptimeVC", "BindingVC"]},
        {"credentialSubject": "did:key:z"},
        {"credentialSubject": []},
        {"credentialSubject": [{"id": SUBJECT_DID}, {"id": SUBJECT_DID}]},
        {"credentialSubject": {}},
        {"validFrom": "yesterday"},
    ],
)
def test_a_credential_of_ours_is_of_one_type_and_one_subject(changes: dict[str, Any]) -> None:
    kind = KINDS["UptimeVC"]
    with pytest.raises(SchemaViolated):
        check_kind({**build(kind, example(kind)), **changes})


@kinds
@given(data=st.data())
def test_no_credential_of_ours_is_a_crash(kind: Kind, data: st.DataObject) -> None:
    names = st.sampled_from([claim.name for claim in kind.claims])
    changes = data.draw(st.dictionaries(names, any_value, max_size=4))
    document = build(kind, example(kind))
    document["credentialSubject"] |= changes
    with contextlib.suppress(SchemaViolated):
        check_kind(document)


def test_one_subject_may_be_in_a_list() -> None:
    kind = KINDS["UptimeVC"]
    document = build(kind, example(kind))
    document["credentialSubject"] = [document["credentialSubject"]]
    assert check_kind(document) is kind


# Claims from text.


@kinds
def test_what_text_says_of_a_claim_is_its_value(kind: Kind) -> None:
    for name, value in example(kind).items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        assert parse_claim(kind, f"{name}={text}") == (name, value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("UptimeVC", "probeCount", "NAME=VALUE"),
        ("UptimeVC", "probes=5", "no claim 'probes'"),
        ("UptimeVC", "probeCount=0", "1 to 1,000,000,000 .probes"),
        ("UptimeVC", "probeCount=many", "a whole number from 1"),
        ("UptimeVC", "probeCount=1.5", "a whole number from 1"),
        ("UptimeVC", "probeCount=" + "9" * 5000, "a whole number from 1"),
        ("UptimeVC", "uptimeRatio=1.1", "from 0 to 1"),
        ("UptimeVC", "uptimeRatio=nan", "from 0 to 1"),
        ("UptimeVC", "uptimeRatio=1e999", "from 0 to 1"),
        ("UptimeVC", "windowStart=soon", "a time with its offset"),
        ("EventAttendeeVC", "eventName=" + "a" * 201, "1 to 200 characters"),
        ("EventAttendeeVC", "eventName=" + "a" * 9000, "9000 characters"),
        ("EventAttendeeVC", "eventName=", "1 to 200 characters"),
        ("EventAttendeeVC", "attendeeRole=guest", "attendee, speaker, organiser"),
        ("VerifiedNodeVC", "checksPassed=hardware,magic", "each once: key-possession"),
    ],
)
def test_text_that_is_no_claim_is_refused_with_what_it_is(name: str, text: str, words: str) -> None:
    with pytest.raises(SchemaViolated, match=words):
        parse_claim(KINDS[name], text)


@given(st.text(max_size=80))
def test_no_text_is_a_crash(text: str) -> None:
    for kind in KINDS.values():
        for prefix in ("", f"{kind.claims[0].name}=", f"{kind.claims[-1].name}="):
            try:
                name, value = parse_claim(kind, prefix + text)
            except SchemaViolated:
                continue
            assert kind.claim(name).accepts(value)


# Constructors.


def test_each_type_has_a_constructor_with_units_in_its_arguments() -> None:
    hexes = "5a" * 32
    receipt = Receipt(
        nonce="AAECAwQFBgcICQoLDA0ODw",
        role="hop",
        model=HANDLE,
        block_start=0,
        block_stop=8,
        input_sha256=hexes,
        output_sha256=hexes,
        prompt_tokens=5,
        answer_tokens=6,
        started_s=NOW_S - 2,
        finished_s=NOW_S,
        outcome="completed",
        first_token_ms=120.5,
    )
    built = [
        build_fiduciary_pledge(FRAME, name="Pledge", sha256=hexes, url="https://example.org/p"),
        build_verified_node(FRAME, checks={"software", "hardware"}, checked_s=NOW_S),
        build_uptime(FRAME, WINDOW, probes=3, successes=2, median_round_trip_ms=12.5),
        build_throughput(
            FRAME,
            WINDOW,
            model=HANDLE,
            block_start=0,
            block_stop=8,
            phase="decode",
            tokens_per_s=35.25,
            samples=9,
        ),
        build_event_attendee(FRAME, event="Summit", date="2026-10-03"),
        build_peer_endorsement(FRAME, WINDOW, interactions=5, statement="fine"),
        build_membership(FRAME, swarm="home", role="member"),
        build_inference_receipt(FRAME, receipt),
    ]
    names = {document["type"][1] for document in built}
    assert names == set(KINDS) - {"BindingVC"}
    for document in built:
        assert check_kind(document) is KINDS[document["type"][1]]
        assert json.loads(encode_document(document)) == document
    assert built[2]["credentialSubject"]["uptimeRatio"] == 0.666667
    assert built[1]["credentialSubject"]["checksPassed"] == ["hardware", "software"]


def test_the_window_of_the_longest_span_holds() -> None:
    year = timedelta(days=366).total_seconds()
    build_uptime(FRAME, Window(NOW_S - year, NOW_S), probes=1, successes=1)
    with pytest.raises(SchemaViolated):
        build_uptime(FRAME, Window(NOW_S - year - 1, NOW_S), probes=1, successes=1)
