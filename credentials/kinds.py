"""The nine credential types of the network: claims, units, bounds, validity; how one is built.

Signs nothing, knows no clock. What a claim may be is in schemas/*-vc.schema.json, what it means as
linked data in schemas/contexts/kwaai-credentials-v2.jsonld; what no schema can say (a ratio is what
its counts give) is in consistency.py. One function per type: constructors.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from credentials.claims import Claim, read_claim
from credentials.consistency import check_consistency, complete_claims
from credentials.document import Document, encode_time, parse_time
from credentials.errors import CredentialsError, KindUnknown, SchemaViolated
from schemas import load_schema

CONTEXT_URL: Final = "https://kwaai.ai/credentials/v2"
BASE_CONTEXT_URL: Final = "https://www.w3.org/ns/credentials/v2"
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Kind:
    """A credential type."""

    name: str
    schema: str
    """Name for `schemas.load_schema`."""
    aliases: tuple[str, ...]
    """Type names of other networks that are read as this one; never issued."""
    validity_s: int | None
    """From `validFrom`, where the issuer says nothing else. None: without end."""
    issuer_note: str
    summary: str

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims, in the order of the schema."""
        return _claims(self.schema)

    def claim(self, name: str) -> Claim:
        """Return the claim of that name. Raises SchemaViolated."""
        for claim in self.claims:
            if claim.name == name:
                return claim
        known = ", ".join(claim.name for claim in self.claims)
        raise SchemaViolated(f"{self.name} has no claim {name!r:.60}; it has {known}")


def _kind(
    name: str,
    schema: str,
    days: int | None,
    issuer_note: str,
    *,
    aliases: tuple[str, ...] = (),
) -> Kind:
    validity_s = None if days is None else days * DAY_S
    return Kind(name, schema, aliases, validity_s, issuer_note, _SUMMARIES[name])


_SUMMARIES: Final = {
    "FiduciaryPledgeVC": "pledged to act in the interest of those it serves",
    "VerifiedNodeVC": "somebody checked who and what is behind the node",
    "UptimeVC": "how often the node answered a witness's probes",
    "ThroughputVC": "how fast the node runs layers of a model, as a witness measured it",
    "EventAttendeeVC": "was at an event",
    "PeerEndorsementVC": "how a peer's interactions with the node went",
    "BindingVC": "whose node it is",
    "MembershipVC": "belongs to a swarm",
    "InferenceReceiptVC": "what was asked and done in one inference, without its content",
}

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        _kind("FiduciaryPledgeVC", "fiduciary-pledge-vc", None, "who took the pledge"),
        _kind("VerifiedNodeVC", "verified-node-vc", 365, "who checks nodes for the network"),
        _kind("UptimeVC", "uptime-vc", 90, "a node that probed it"),
        _kind("ThroughputVC", "throughput-vc", 90, "a node that measured it"),
        _kind(
            "EventAttendeeVC",
            "event-attendee-vc",
            730,
            "who held the event",
            aliases=("SummitAttendeeVC",),
        ),
        _kind("PeerEndorsementVC", "peer-endorsement-vc", 90, "a node that used it"),
        _kind("BindingVC", "binding-vc", 365, "the owner's key"),
        _kind("MembershipVC", "membership-vc", 365, "who admits members to the swarm"),
        _kind("InferenceReceiptVC", "inference-receipt-vc", 365, "the other side of the inference"),
    )
}
"""By type name, without aliases."""

_BY_NAME: Final = {
    name.lower(): kind for kind in KINDS.values() for name in (kind.name, *kind.aliases)
}
_BY_TYPE: Final = {name: kind for kind in KINDS.values() for name in (kind.name, *kind.aliases)}


def find_kind(name: str) -> Kind:
    """Return the kind of that type name or alias, in upper or lower case. Raises KindUnknown."""
    kind = _BY_NAME.get(name.lower())
    if kind is None:
        raise KindUnknown(f"there is no type {name!r:.60}; there are {', '.join(KINDS)}")
    return kind


def kind_of(document: Document) -> Kind | None:
    """Return which of our types a credential has; None where it has none of them.

    Asks for our context too: a type name alone may be somebody else's. Raises SchemaViolated for a
    credential of two of our types.
    """
    contexts, types = document.get("@context"), document.get("type")
    if not isinstance(contexts, list) or CONTEXT_URL not in contexts:
        return None
    found = {
        kind.name: kind
        for one in (types if isinstance(types, list) else [types])
        if isinstance(one, str) and (kind := _BY_TYPE.get(one)) is not None
    }
    if len(found) > 1:
        raise SchemaViolated(f"a credential is of one type, not of {' and '.join(found)}")
    return next(iter(found.values()), None)


def check_kind(document: Document) -> Kind | None:
    """Check a credential of ours by the schema and the consistency rules of its type.

    Returns its kind, or None where it is none of ours. Raises SchemaViolated.
    """
    kind = kind_of(document)
    if kind is None:
        return None
    subject = document.get("credentialSubject")
    if isinstance(subject, list) and len(subject) == 1:
        subject = subject[0]
    if not isinstance(subject, Mapping):
        raise SchemaViolated(f"{kind.name}: it has one subject")
    check_claims(kind, subject, valid_from_s=_valid_from_s(document))
    return kind


def check_claims(
    kind: Kind, subject: Mapping[str, Any], *, valid_from_s: float | None = None
) -> None:
    """Check a `credentialSubject`, its `id` included. Raises SchemaViolated.

    `valid_from_s`: of the credential; nothing that it tells of ended later.
    """
    where = f"{kind.name}: "
    claims = kind.claims
    names = {"id"}.union(claim.name for claim in claims)
    for name in subject:
        if name not in names:
            raise SchemaViolated(f"{where}it has no claim {name!r:.60}")
    _SUBJECT.check(subject.get("id"), where)
    for claim in claims:
        if claim.name in subject:
            claim.check(subject[claim.name], where)
        elif claim.required:
            raise SchemaViolated(f"{where}{claim.name} is missing; it is {claim.bounds}")
    check_consistency(where, subject, valid_from_s)


def parse_claim(kind: Kind, text: str) -> tuple[str, Any]:
    """Parse `name=value` by the type the schema gives the claim, and check the value.

    Raises SchemaViolated.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise SchemaViolated(f"{text!r:.60} is not NAME=VALUE")
    claim = kind.claim(name.strip())
    parsed = claim.parse(value)
    claim.check(parsed, f"{kind.name}: ")
    return claim.name, parsed


def build_credential(
    kind: Kind,
    issuer: str,
    subject: str,
    claims: Mapping[str, Any],
    *,
    valid_from_s: float,
    valid_until_s: float | None = None,
    credential_id: str | None = None,
    status: Sequence[Document] = (),
) -> Document:
    """Return the unsigned credential (VCDM 2.0), claims checked.

    `valid_until_s` None: the kind's default after `valid_from_s`. `status`: of
    `status.build_status_entry`. What follows from other claims (`uptimeRatio`) may be left out.
    Raises SchemaViolated naming the claim and its bound; ModelInvalid for times out of range.
    """
    known = {claim.name: claim for claim in kind.claims}
    values = {name: kind.claim(name).normalize(value) for name, value in claims.items()}
    complete_claims(values, known)
    content = {"id": subject, **{name: values[name] for name in known if name in values}}
    check_claims(kind, content, valid_from_s=valid_from_s)
    if valid_until_s is None and kind.validity_s is not None:
        valid_until_s = valid_from_s + kind.validity_s
    if valid_until_s is not None and valid_until_s <= valid_from_s:
        raise SchemaViolated(f"{kind.name}: validUntil is not after validFrom")
    document: Document = {"@context": [BASE_CONTEXT_URL, CONTEXT_URL]}
    if credential_id is not None:
        document["id"] = credential_id
    document |= {
        "type": ["VerifiableCredential", kind.name],
        "issuer": issuer,
        "validFrom": encode_time(valid_from_s),
    }
    if valid_until_s is not None:
        document["validUntil"] = encode_time(valid_until_s)
    if status:
        document["credentialStatus"] = list(status) if len(status) > 1 else status[0]
    document["credentialSubject"] = content
    return document


@cache
def _claims(schema: str) -> tuple[Claim, ...]:
    subject = load_schema(schema)["properties"]["credentialSubject"]
    required: Iterable[str] = subject["required"]
    return tuple(
        read_claim(name, prop, name in required)
        for name, prop in subject["properties"].items()
        if name != "id"
    )


_SUBJECT: Final = read_claim(
    "id",
    {
        "title": "a DID",
        "description": "Whom the credential is about",
        "type": "string",
        "format": "did",
        "maxLength": 4096,
        "pattern": "^did:[a-z0-9]+:[A-Za-z0-9._:%-]+$",
    },
    required=True,
)


def _valid_from_s(document: Document) -> float | None:
    text = document.get("validFrom")
    if not isinstance(text, str):
        return None
    try:
        return parse_time(text)
    except CredentialsError as error:
        raise SchemaViolated(f"validFrom is {text!r:.60}, not a time") from error
