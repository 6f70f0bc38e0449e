"""Measure credentials: signing, verifying, presentations, a poison graph, searching a wallet.

One core, everything in one run; each figure also as a ratio to what cannot be avoided, one Ed25519
signature or check over 64 bytes. `proof_s` checks the proof of a parsed document, `verify_s` does
everything from the bytes on. Prints nothing; asserts nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from credentials.did import did_key, verification_method
from credentials.document import Document, encode_document, encode_time, parse_document
from credentials.errors import CredentialsError
from credentials.issue import issue_credential
from credentials.keys import SecretKey
from credentials.kinds import build_credential, find_kind
from credentials.present import build_presentation, verify_presentation
from credentials.proof import ProofOptions, Suite, add_proof, verify_proofs
from credentials.rdfc import canonicalize_rdfc
from credentials.resolve import resolve_offline
from credentials.verify import Environment, verify_credential
from kwaai.errors import UserError
from kwaai.limits import BENCH_CREDENTIALS_MAX, BENCH_SECONDS_MAX
from kwaai.node.bench import Say
from kwaai.store.home import ensure_home
from kwaai.store.wallet import Wallet, WalletEntry, open_wallet

SUITES: Final[tuple[Suite, ...]] = ("eddsa-jcs-2022", "eddsa-rdfc-2022")
_NOW_S: Final = 1_800_000_000.0
_CHALLENGE: Final = "bench-challenge-0123456789"
_KINDS: Final = ("UptimeVC", "ThroughputVC", "PeerEndorsementVC", "MembershipVC")


@dataclass(frozen=True, slots=True)
class CredentialBenchOptions:
    """How long, and how much."""

    seconds: float = 2.0
    """Of each figure."""
    wallet: int = 100_000
    """Credentials to search."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= BENCH_SECONDS_MAX:
            raise UserError(f"--seconds is above 0 and at most {BENCH_SECONDS_MAX:g}")
        if not 1 <= self.wallet <= BENCH_CREDENTIALS_MAX:
            raise UserError(f"--wallet is 1 to {BENCH_CREDENTIALS_MAX}")


def run_credential_bench(options: CredentialBenchOptions, say: Say) -> dict[str, Any]:
    """Return the report: rates a second on one core, and milliseconds."""
    secret = SecretKey(bytes(range(32)))
    say("measuring Ed25519 alone")
    bare_sign = _measure(options, lambda: secret.sign(bytes(64)))
    signature, public = secret.sign(bytes(64)), secret.public
    bare_verify = _measure(options, lambda: public.verify(bytes(64), signature))
    rows = []
    for suite in SUITES:
        for unsigned in (small_credential(secret), typical_credential(secret)):
            say(f"measuring {suite}")
            rows.append(_measure_suite(options, secret, suite, unsigned, bare_sign, bare_verify))
    say("measuring presentations")
    presentations = [_measure_presentation(options, secret, suite) for suite in SUITES]
    say("measuring a poison graph")
    poison_ms = _measure_poison()
    say(f"searching {options.wallet} credentials")
    return {
        "ed25519": {"sign_s": bare_sign.per_s, "verify_s": bare_verify.per_s},
        "credentials": rows,
        "presentations": presentations,
        "poison": {"refused_ms": poison_ms},
        "wallet": _measure_wallet(options, secret),
    }


def small_credential(secret: SecretKey) -> Document:
    """Return an unsigned credential of 482 bytes and 8 quads: the size of the W3C's own example."""
    return {
        "@context": [
            "https://www.w3.org/ns/credentials/v2",
            "https://www.w3.org/ns/credentials/examples/v2",
        ],
        "id": "urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33",
        "type": ["VerifiableCredential", "AlumniCredential"],
        "name": "A credential of a school",
        "description": "Nothing but what a credential needs.",
        "issuer": did_key(secret.public),
        "validFrom": "2026-01-01T00:00:00Z",
        "credentialSubject": {"id": "did:example:abcdefgh", "alumniOf": "The School of Nodes"},
    }


def typical_credential(secret: SecretKey) -> Document:
    """Return an unsigned credential as nodes issue them, of 1.2 KiB: a receipt of an answer."""
    digest = "sha256:" + "5a" * 32
    return build_credential(
        find_kind("InferenceReceiptVC"),
        did_key(secret.public),
        did_key(secret.public),
        {
            "requestNonce": "bench-request-0123456789",
            "receiptRole": "requester",
            "intentDigest": digest,
            "modelHandle": digest,
            "blockStart": 8,
            "blockStop": 16,
            "parametersDigest": digest,
            "inputDigest": digest,
            "outputDigest": digest,
            "promptTokenCount": 512,
            "answerTokenCount": 64,
            "startedAt": encode_time(_NOW_S - 60),
            "finishedAt": encode_time(_NOW_S - 30),
            "firstTokenMilliseconds": 850,
            "inferenceOutcome": "completed",
        },
        valid_from_s=_NOW_S,
        valid_until_s=_NOW_S + 86_400,
        credential_id="urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33",
    )


@dataclass(frozen=True, slots=True)
class _Rate:
    per_s: float
    p50_ms: float
    p99_ms: float


def _measure(options: CredentialBenchOptions, work: Callable[[], object]) -> _Rate:
    for _ in range(20):
        work()
    times = []
    end_s = time.perf_counter() + options.seconds
    while (began_s := time.perf_counter()) < end_s:
        work()
        times.append(time.perf_counter() - began_s)
    times.sort()
    p50_s = statistics.median(times)
    p99_s = times[min(len(times) - 1, int(len(times) * 0.99))]
    return _Rate(len(times) / sum(times), p50_s * 1000, p99_s * 1000)


def _measure_suite(
    options: CredentialBenchOptions,
    secret: SecretKey,
    suite: Suite,
    unsigned: Document,
    bare_sign: _Rate,
    bare_verify: _Rate,
) -> dict[str, Any]:
    made = _options(secret, suite)
    signed = encode_document(issue_credential(unsigned, made, secret))
    # Without the cache of verified credentials: every check is made each time, from the bytes on.
    environment = Environment(now_s=_NOW_S)
    sign = _measure(options, lambda: issue_credential(unsigned, made, secret))
    verify = _measure(options, lambda: verify_credential(signed, environment))
    document = parse_document(signed)
    check = partial(
        verify_proofs, document, resolve_offline, purpose="assertionMethod", now_s=_NOW_S
    )
    proof = _measure(options, check)
    return {
        "suite": suite,
        "bytes": len(encode_document(unsigned)),
        "signed_bytes": len(signed),
        "sign_s": sign.per_s,
        "sign_ms_p99": sign.p99_ms,
        "proof_s": proof.per_s,
        "verify_s": verify.per_s,
        "verify_ms_p50": verify.p50_ms,
        "verify_ms_p99": verify.p99_ms,
        "sign_to_ed25519": sign.per_s / bare_sign.per_s,
        "verify_to_ed25519": verify.per_s / bare_verify.per_s,
    }


def _options(secret: SecretKey, suite: Suite, **more: Any) -> ProofOptions:
    return ProofOptions(
        suite, verification_method(did_key(secret.public)), created_s=_NOW_S, **more
    )


def _measure_presentation(
    options: CredentialBenchOptions, secret: SecretKey, suite: Suite
) -> dict[str, Any]:
    did = did_key(secret.public)
    unsigned = small_credential(secret)
    unsigned["credentialSubject"]["id"] = did
    credential = issue_credential(unsigned, _options(secret, suite), secret)
    proof = _options(
        secret, suite, purpose="authentication", challenge=_CHALLENGE, domain="bench.example"
    )
    bare = build_presentation([credential], did)
    data = encode_document(add_proof(bare, proof, secret))
    environment = Environment(now_s=_NOW_S)

    def verify() -> object:
        return verify_presentation(data, environment, challenge=_CHALLENGE, domain="bench.example")

    made = _measure(options, lambda: add_proof(bare, proof, secret))
    verified = _measure(options, verify)
    return {
        "suite": suite,
        "bytes": len(data),
        "sign_s": made.per_s,
        "verify_s": verified.per_s,
        "verify_ms_p99": verified.p99_ms,
    }


def poison_document() -> Document:
    """Return a natural document whose graph is poison: two hosts with eight equal devices each."""
    device = {"type": "Device", "model": "H200", "memoryBytes": 151_397_597_184}
    host = {"type": "Host", "devices": [dict(device) for _ in range(8)]}
    return {
        "@context": [
            "https://www.w3.org/ns/credentials/v2",
            "https://www.w3.org/ns/credentials/undefined-terms/v2",
        ],
        "type": ["VerifiableCredential"],
        "issuer": "did:example:issuer",
        "credentialSubject": {"id": "did:example:farm", "hosts": [host, dict(host)]},
    }


def _measure_poison() -> float:
    began_s = time.perf_counter()
    try:
        canonicalize_rdfc(poison_document())
    except CredentialsError:
        return (time.perf_counter() - began_s) * 1000
    raise UserError("the poison graph was not refused: this build has no work limit")


def _measure_wallet(options: CredentialBenchOptions, secret: SecretKey) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kwaainet-bench-") as directory:
        home = ensure_home(Path(directory) / "home")
        wallet = open_wallet(home, secret)
        try:
            began_s = time.perf_counter()
            _fill(wallet, options.wallet)
            filled_s = time.perf_counter() - began_s
            return {"credentials": options.wallet, "fill_s": filled_s, **_search(options, wallet)}
        finally:
            wallet.close()


def _fill(wallet: Wallet, count: int) -> None:
    """Store made-up credentials: a wallet does not verify, whoever imports does."""
    wallet.add_many(
        (
            encode_document({"id": f"urn:bench:{number}", "claims": "x" * 400}),
            WalletEntry(
                types=("VerifiableCredential", _KINDS[number % len(_KINDS)]),
                issuer=f"did:example:issuer-{number % 997}",
                subjects=(f"did:example:subject-{number % 9_973}",),
                valid_from_s=_NOW_S - number,
                valid_until_s=_NOW_S + number,
                credential_id=f"urn:bench:{number}",
                added_s=_NOW_S,
            ),
        )
        for number in range(count)
    )


def _search(options: CredentialBenchOptions, wallet: Wallet) -> dict[str, Any]:
    questions: dict[str, dict[str, Any]] = {
        "by_type": {"type": "UptimeVC"},
        "by_issuer": {"issuer": "did:example:issuer-5"},
        "by_subject": {"subject": "did:example:subject-5"},
        "by_validity": {"valid_at_s": _NOW_S},
        "by_all": {
            "type": "UptimeVC",
            "issuer": "did:example:issuer-8",
            "subject": "did:example:subject-8",
            "valid_at_s": _NOW_S,
        },
    }
    found = {}
    for name, question in questions.items():
        rate = _measure(options, partial(wallet.find, **question))
        found[f"{name}_ms_p50"] = rate.p50_ms
        found[f"{name}_ms_p99"] = rate.p99_ms
    return found
