"""Signed credentials and presentations to be attacked; and whether an attack changed the meaning.

What verification accepts is compared with what was signed: the canonical form of the document (RDF
or JCS, as the proof has it), each proof, and what a reader takes from the JSON. Other spellings of
the same are no forgeries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from credentials.bitstring import StatusList
from credentials.constructors import Frame, Window, build_uptime
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_time
from credentials.errors import CredentialsError
from credentials.issue import issue_credential
from credentials.jcs import canonicalize_jcs
from credentials.keys import SecretKey
from credentials.model import CONTEXT_V1, CONTEXT_V2, CredentialView, check_credential
from credentials.present import build_presentation, verify_presentation
from credentials.proof import ProofOptions, Suite, add_proof
from credentials.rdfc import canonicalize_rdfc
from credentials.status import build_list_credential, build_status_entry
from credentials.verified import VerifiedCredential, VerifiedPresentation
from credentials.verify import Environment, verify_credential

JCS: Suite = "eddsa-jcs-2022"
RDFC: Suite = "eddsa-rdfc-2022"
NOW_S = 1_795_255_200.0
DAY_S = 86_400.0
CHALLENGE = "uPq2mZ0yHk3R8wVx1"
DOMAIN = "verifier.example"
EXAMPLES = "https://www.w3.org/ns/credentials/examples/v2"
LIST_URL = "https://issuer.example/status/1"
CREDENTIALS_NS = "https://www.w3.org/2018/credentials#"

SECRETS = [SecretKey(bytes([number]) * 32) for number in (1, 2, 3)]
DIDS = [str(did_key(secret.public)) for secret in SECRETS]
ISSUER, HOLDER, STRANGER = range(3)


# Targets


@dataclass(frozen=True, slots=True)
class Target:
    """Signed bytes that verify, and what they mean."""

    name: str
    data: bytes
    weight: int
    check: Callable[[bytes], VerifiedCredential | VerifiedPresentation]
    meaning: Meaning = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "meaning", Meaning.of(json.loads(self.data)))


def sign(document: Document, suite: Suite, who: int = ISSUER, **options: Any) -> Document:
    method = verification_method(did_key(SECRETS[who].public))
    made = ProofOptions(suite, method, **{"created_s": NOW_S - 60, **options})
    if options or who != ISSUER:
        return add_proof(document, made, SECRETS[who])
    return issue_credential(document, made, SECRETS[who])


def credential(**changes: Any) -> Document:
    return {
        "@context": [CONTEXT_V2],
        "id": "urn:uuid:5f1b3c1e-7d0a-4d6f-9a55-0d6c1b1f7a10",
        "type": ["VerifiableCredential"],
        "issuer": DIDS[ISSUER],
        "validFrom": encode_time(NOW_S - DAY_S),
        "validUntil": encode_time(NOW_S + DAY_S),
        "credentialSubject": {"id": DIDS[HOLDER]},
        **changes,
    }


RICH: Document = {
    "@context": [CONTEXT_V2, EXAMPLES],
    "type": ["VerifiableCredential", "ExampleDegreeCredential"],
    "issuer": {"id": DIDS[ISSUER], "name": "Issuer"},
    "name": {"@value": "A degree", "@language": "en"},
    "credentialSubject": {
        "id": DIDS[HOLDER],
        "degree": {"type": "ExampleBachelorDegree", "name": "Bachelor of Arts"},
        "points": 180,
        "grade": 1.5,
        "over18": True,
        "employed": False,
        "colours": ["green", "blue"],
        "note": 'Größe \U0001f600 "quoted"',
    },
    "evidence": [{"id": "urn:x:evidence", "type": "ExampleEvidence"}],
    "termsOfUse": {"type": "ExamplePolicy", "id": "https://example.org/policy"},
}
OLD: Document = {
    "@context": [CONTEXT_V1],
    "type": ["VerifiableCredential"],
    "issuer": DIDS[ISSUER],
    "issuanceDate": encode_time(NOW_S - DAY_S),
    "expirationDate": encode_time(NOW_S + DAY_S),
    "credentialSubject": {"id": DIDS[HOLDER]},
}


def encoded(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def status_list(suite: Suite) -> Document:
    bits = StatusList.new()
    bits.set(7 if suite == JCS else 8)
    document = build_list_credential(
        DIDS[ISSUER],
        LIST_URL,
        "revocation",
        bits,
        valid_from_s=NOW_S - 60,
        valid_until_s=NOW_S + 3600,
    )
    return sign(document, suite)


LIST = encoded(status_list(JCS))
ENVIRONMENT = Environment(now_s=NOW_S, status={LIST_URL: LIST}.__getitem__)
REVOCABLE = encoded(
    sign(credential(credentialStatus=build_status_entry(LIST_URL, "revocation", 94)), JCS)
)


def check_one(data: bytes) -> VerifiedCredential:
    return verify_credential(data, ENVIRONMENT)


def check_shown(data: bytes) -> VerifiedPresentation:
    return verify_presentation(data, ENVIRONMENT, challenge=CHALLENGE, domain=DOMAIN)


def check_list(data: bytes) -> VerifiedCredential:
    """Verify a credential whose status list is these bytes."""
    return verify_credential(
        REVOCABLE, Environment(now_s=NOW_S, status={LIST_URL: data}.__getitem__)
    )


def shown(suite: Suite, *credentials: Document) -> Document:
    document = build_presentation(credentials, DIDS[HOLDER])
    return sign(
        document, suite, HOLDER, purpose="authentication", challenge=CHALLENGE, domain=DOMAIN
    )


@cache
def targets() -> tuple[Target, ...]:
    # Each with an id of its own: a proof of one would otherwise hold for the other.
    plain = {suite: sign(credential(id=f"urn:x:plain:{suite}"), suite) for suite in (JCS, RDFC)}
    rich = {suite: sign(credential(**RICH, id=f"urn:x:{suite}"), suite) for suite in (JCS, RDFC)}
    frame = Frame(issuer=DIDS[ISSUER], subject=DIDS[HOLDER], valid_from_s=NOW_S - 30)
    window = Window(NOW_S - 9 * DAY_S, NOW_S - DAY_S)
    uptime = [build_uptime(frame, window, probes=1000, successes=990 + more) for more in (0, 1)]
    status = build_status_entry(LIST_URL, "revocation", 94)
    alone = sign(credential(id="urn:x:set"), JCS)
    first = sign(credential(id="urn:x:chain"), JCS, id="urn:x:first")
    made: list[tuple[str, int, Document, Any]] = [
        ("plain jcs", 8, plain[JCS], check_one),
        ("plain rdfc", 4, plain[RDFC], check_one),
        ("rich jcs", 6, rich[JCS], check_one),
        ("rich rdfc", 2, rich[RDFC], check_one),
        ("uptime jcs", 4, sign(uptime[0], JCS), check_one),
        ("uptime rdfc", 2, sign(uptime[1], RDFC), check_one),
        ("1.1 jcs", 2, sign(OLD, JCS), check_one),
        ("1.1 rdfc", 1, sign({**OLD, "id": "urn:x:old"}, RDFC), check_one),
        (
            "status rdfc",
            2,
            sign(credential(id="urn:x:2", credentialStatus=status), RDFC),
            check_one,
        ),
        ("status jcs", 4, json.loads(REVOCABLE), check_one),
        ("set", 2, sign(alone, RDFC, STRANGER), check_one),
        ("chain", 2, sign(first, JCS, STRANGER, previous="urn:x:first"), check_one),
        ("presentation jcs", 4, shown(JCS, plain[JCS], rich[JCS]), check_shown),
        ("presentation rdfc", 1, shown(RDFC, plain[RDFC]), check_shown),
        ("presentation mixed", 1, shown(RDFC, plain[JCS]), check_shown),
        ("list jcs", 3, json.loads(LIST), check_list),
        ("list rdfc", 1, status_list(RDFC), check_list),
    ]
    return tuple(Target(name, encoded(each), weight, check) for name, weight, each, check in made)


# Meaning


@dataclass(frozen=True, slots=True)
class Meaning:
    """What was signed, and what is read of it."""

    jcs: bytes
    rdf: str
    plain: str
    proofs: tuple[str, ...]
    read: Any
    inner: tuple[Meaning, ...]

    @classmethod
    def of(cls, document: Document) -> Meaning:
        bare = {name: value for name, value in document.items() if name != "proof"}
        inner = as_list(document.get("verifiableCredential", []))
        return cls(
            jcs=canonicalize_jcs(bare),
            rdf=canonicalize_rdfc(bare),
            plain=plain_text(bare),
            proofs=tuple(proof_text(proof) for proof in as_list(document["proof"])),
            read=what_is_read(document),
            inner=tuple(cls.of(each) for each in inner),
        )


def difference(was: Meaning, document: Document, *, trusted: bool) -> str:
    """Return in what an accepted document differs from what was signed; "" if in nothing."""
    bare = {name: value for name, value in document.items() if name != "proof"}
    proofs = as_list(document["proof"])
    known = [proof for proof in proofs if proof_text(proof) in was.proofs]
    others = [proof for proof in proofs if proof not in known]
    if not known or any(not is_of(STRANGER, proof) for proof in others):
        return "a proof"  # that a stranger signed it too is no forgery
    for proof in known:
        if proof.get("cryptosuite") == JCS:
            if canonicalize_jcs({**bare, "@context": proof["@context"]}) != was.jcs:
                return "the canonical JSON"
        elif canonicalize_rdfc(bare) != was.rdf:
            return "the canonical graph"
    if what_is_read(document) != was.read:
        return "what is read"
    if trusted and plain_text(bare) != was.plain:
        return "the JSON, under trusted contexts"
    inner = as_list(document.get("verifiableCredential", []))
    for each in inner:
        if all(difference(other, each, trusted=False) for other in was.inner):
            return "a credential inside"
    return "" if len(inner) == len(was.inner) else "the number of credentials"


def is_of(who: int, proof: Document) -> bool:
    return str(proof["verificationMethod"]).startswith(DIDS[who] + "#")


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def what_is_read(document: Document) -> Any:
    if "issuer" not in document:
        holder = document.get("holder")
        return holder["id"] if isinstance(holder, dict) else holder
    view: CredentialView = check_credential(document)
    return (
        view.id,
        view.issuer,
        frozenset(view.types),
        frozenset(view.subjects),
        view.valid_from_s,
        view.valid_until_s,
        frozenset(
            (entry.type, entry.purpose, entry.list_url, entry.index) for entry in view.statuses
        ),
        frozenset(schema["id"] for schema in view.schemas),
    )


def proof_text(proof: Document) -> str:
    """Return one text for all spellings of a proof: by JSON, or by JSON-LD without its contexts."""
    exact = isinstance(proof, dict) and proof.get("cryptosuite") == JCS
    return canonicalize_jcs(proof).decode() if exact else plain_text(proof)


def plain_text(value: Any) -> str:
    """Return one text for all the JSON that JSON-LD takes for the same under the same contexts."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        items = {json.dumps(_plain(each), sort_keys=True) for each in value}
        kept = sorted(items - {"null", "[]"})
        return json.loads(kept[0]) if len(kept) == 1 else [json.loads(each) for each in kept]
    if isinstance(value, dict):
        if value.keys() in ({"@value"}, {"id"}):
            return _plain(next(iter(value.values())))
        found = {name: _plain(each) for name, each in value.items() if name != "@context"}
        return {name: each for name, each in found.items() if each is not None and each != []}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def judge(target: Target, data: bytes) -> str:
    """Verify mutated bytes: return the code of the refusal, "same", or "FORGED: " and in what.

    "own": somebody else's credential, and who issued it is told truly.
    """
    try:
        verified = target.check(data)
    except CredentialsError as error:
        return error.code
    document = json.loads(data)
    if target.check is check_one and verified.issuer == DIDS[STRANGER]:
        return "own"  # a stranger's, in the stranger's name: nobody is deceived
    trusted = target.check is not check_list and verified.contexts_trusted
    found = difference(target.meaning, document, trusted=trusted)
    if not found or any(
        not difference(other.meaning, document, trusted=trusted) for other in targets()
    ):
        return "same"  # as this target, or pieced together to another one
    return f"FORGED: {found}"
