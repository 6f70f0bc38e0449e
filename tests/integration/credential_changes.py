"""Changes of a signed JSON document: odd values, swapped fields, other names, other proofs."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from credential_targets import (
    CREDENTIALS_NS,
    DIDS,
    DOMAIN,
    EXAMPLES,
    ISSUER,
    JCS,
    NOW_S,
    RDFC,
    SECRETS,
    STRANGER,
    as_list,
    sign,
    targets,
)

from credentials.did import did_key, verification_method
from credentials.document import Document, encode_time
from credentials.errors import CredentialsError
from credentials.model import CONTEXT_V1, CONTEXT_V2

# Mutations of JSON

Place = tuple[Any, Any]
"""A dict or list, and a key or index in it."""
Change = Callable[[random.Random, Document, list[Place]], None]

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e300,
    2**53,
    2**80,
    "",
    " ",
    "x",
    "did:key:z",
    "did:example:x",
    DIDS[STRANGER],
    "https://example.org/",
    "https ://example.org/",
    "2026-11-21T10:00:00Z",
    "9999-12-31T23:59:59Z",
    "\ud800",
    "é",
    "é",
    "\x00",
    [],
    {},
    [[]],
    [None],
    {"id": "did:example:x"},
    {"@value": "x"},
    {"@id": "did:example:x"},
    {"@context": {}},
    {"@context": None},
    {"@list": ["x"]},
    ["x", "x"],
)
NAMES = (
    "id",
    "type",
    "issuer",
    "holder",
    "credentialSubject",
    "credentialStatus",
    "credentialSchema",
    "validFrom",
    "validUntil",
    "proof",
    "evidence",
    "expires",
    "created",
    "challenge",
    "domain",
    "nonce",
    "previousProof",
    "relatedResource",
    "unheardOf",
    "@id",
    "@type",
    "@graph",
    "@context",
    "@included",
    "@reverse",
    "@nest",
    "__proto__",
)


def places_in(value: Any) -> list[Place]:
    found: list[Place] = []
    queue = [value]
    while queue:
        each = queue.pop()
        for key in each if isinstance(each, dict) else range(len(each)):
            found.append((each, key))
            if isinstance(each[key], dict | list):
                queue.append(each[key])
    return found


def put_odd_value(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    where[key] = copy.deepcopy(draw.choice(ODD_VALUES))


def take_away(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    del where[key]


def rename(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    if isinstance(where, dict):
        where[draw.choice((*NAMES, key.upper(), key + " ", key[:-1]))] = where.pop(key)


def add_member(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, _ = draw.choice(places)
    if isinstance(where, dict):
        where[draw.choice(NAMES)] = copy.deepcopy(draw.choice(ODD_VALUES))


def exchange(draw: random.Random, document: Document, places: list[Place]) -> None:
    """Swap two values, wherever they are."""
    (a, key_a), (b, key_b) = draw.choice(places), draw.choice(places)
    value = copy.deepcopy(a[key_a])  # never itself: one may be inside the other
    a[key_a] = copy.deepcopy(b[key_b])
    b[key_b] = value


def from_another(draw: random.Random, document: Document, places: list[Place]) -> None:
    """Take a member that another signed document has."""
    other = json.loads(draw.choice(targets()).data)
    name = draw.choice(list(other))
    if name == "verifiableCredential" and draw.random() < 0.5:
        document.update(other[name][0])
    else:
        document[name] = other[name]


def wrap(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    value = where[key]
    where[key] = draw.choice(
        ([value], [value, value], {"id": value}, {"@value": value}, {"@id": value}, [[value]])
    )


def unwrap(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    value = where[key]
    if isinstance(value, dict | list) and value:
        where[key] = next(iter(value.values())) if isinstance(value, dict) else value[0]


def respell_text(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    text = where[key]
    if isinstance(text, str) and text:
        place = draw.randrange(len(text))
        where[key] = draw.choice(
            (
                text.upper(),
                text.lower(),
                text + " ",
                " " + text,
                text + "\n",
                text[:-1],
                text[::-1],
                text[:place] + "​" + text[place:],
                text[:place] + draw.choice("0zZ1/#?:.%") + text[place + 1 :],
                text.replace("Z", "+00:00"),
                text.replace("Z", ".000Z"),
                text.replace("did:key:", "did:peer:0"),
                text.partition("#")[0],
            )
        )


def change_contexts(draw: random.Random, document: Document, places: list[Place]) -> None:
    """Add, take away, reorder contexts, or carry one inline that gives things other names."""
    context = document.get("@context")
    if not isinstance(context, list) or not context:
        return
    inline = draw.choice(
        (
            {},
            {"@vocab": "https://example.org/#"},
            {"@vocab": CREDENTIALS_NS},
            {"@base": "https://example.org/"},
            {"@language": "en"},
            {"@version": 1.1, "until": {"@id": CREDENTIALS_NS + "validUntil", "@type": "@id"}},
            {"over18": EXAMPLES + "#employed", "employed": EXAMPLES + "#over18"},
            {"unheardOf": None},
            {"id": "@id", "proof": None},
            None,
            EXAMPLES,
            CONTEXT_V1,
            "https://w3id.org/security/data-integrity/v2",
            "https://example.org/context",
        )
    )
    how = draw.randrange(4)
    if how == 0:
        context.append(inline)
    elif how == 1:
        context.insert(draw.randrange(len(context) + 1), inline)
    elif how == 2:
        draw.shuffle(context)
    else:
        context[draw.randrange(len(context))] = inline


def write_as_iri(draw: random.Random, document: Document, places: list[Place]) -> None:
    """Write a member under its IRI, or an alias of one's own: the same graph, another reader."""
    inner = document.get("verifiableCredential")
    owner = inner[0] if isinstance(inner, list) and inner and draw.random() < 0.5 else document
    if not isinstance(owner, dict):
        return
    names = ("validUntil", "validFrom", "expirationDate", "issuer", "credentialStatus", "evidence")
    present = [name for name in names if name in owner]
    if not present or not isinstance(owner.get("@context"), list):
        return
    name = draw.choice(present)
    value = owner.pop(name)
    dated = isinstance(value, str) and value.endswith("Z")
    kind = "http://www.w3.org/2001/XMLSchema#dateTime" if dated else "@id"
    if draw.random() < 0.5:
        owner["@context"].append({"other": {"@id": CREDENTIALS_NS + name, "@type": kind}})
        owner["other"] = value
    else:
        if isinstance(value, str):
            value = {"@value": value, "@type": kind} if dated else {"@id": value}
        owner[CREDENTIALS_NS + name] = value


def change_proof(draw: random.Random, document: Document, places: list[Place]) -> None:
    proofs = as_list(document.get("proof"))
    proof = draw.choice(proofs) if proofs else None
    if not isinstance(proof, dict):
        return
    value = proof.get("proofValue")
    options: list[dict[str, Any]] = [
        {"cryptosuite": draw.choice((JCS, RDFC, "ecdsa-jcs-2019", None, "EDDSA-JCS-2022"))},
        {"type": draw.choice(("Ed25519Signature2020", "Ed25519Signature2018", "Other"))},
        {"proofPurpose": draw.choice(("authentication", "assertionMethod", "keyAgreement", "x"))},
        {"verificationMethod": verification_method(did_key(SECRETS[draw.randrange(3)].public))},
        {"verificationMethod": DIDS[ISSUER] + "#" + DIDS[STRANGER].removeprefix("did:key:")},
        {"verificationMethod": {"id": "did:key:z6Mk", "publicKeyMultibase": "z6Mk"}},
        {"created": encode_time(NOW_S - draw.randrange(1, 10**6))},
        {"expires": encode_time(NOW_S + 10**6)},
        {"challenge": "x"},
        {"domain": [DOMAIN, "other.example"]},
        {"domain": [DOMAIN]},
        {"nonce": "x"},
        {"@context": draw.choice(([], [CONTEXT_V2], CONTEXT_V2, None))},
        {"previousProof": "urn:x:first"},
        {"jws": "x"},
    ]
    if isinstance(value, str) and value:
        place = draw.randrange(len(value))
        options += [
            {"proofValue": value[:place] + draw.choice("123abcXYZ") + value[place + 1 :]},
            {"proofValue": value[:1] + "1" + value[1:]},
            {"proofValue": "u" + value[1:]},
            {"proofValue": value + value},
        ]
    proof.update(draw.choice(options))


def change_proofs(draw: random.Random, document: Document, places: list[Place]) -> None:
    """Reorder, repeat, strip and exchange whole proofs."""
    proofs = as_list(document.get("proof"))
    other = json.loads(draw.choice(targets()).data)["proof"]
    document["proof"] = draw.choice(
        (proofs[::-1], proofs[1:], proofs[:-1], proofs + proofs, proofs + as_list(other), other)
    )


def sign_again(draw: random.Random, document: Document, places: list[Place]) -> None:
    """Let a stranger sign: a proof that holds, by somebody who is not the issuer."""
    try:
        bare = {name: value for name, value in document.items() if name != "proof"}
        document["proof"] = sign(bare, JCS, STRANGER)["proof"]
        if draw.random() < 0.3:
            document["proof"]["verificationMethod"] = f"{DIDS[ISSUER]}#key-1"
    except CredentialsError:
        return


def shuffle_members(draw: random.Random, document: Document, places: list[Place]) -> None:
    """The same document in another order."""
    for where, _ in places:
        if isinstance(where, dict):
            items = list(where.items())
            draw.shuffle(items)
            where.clear()
            where.update(items)


def respell_numbers(draw: random.Random, document: Document, places: list[Place]) -> None:
    for where, key in places:
        if type(where[key]) is int:
            where[key] = float(where[key])


def nest(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    for _ in range(draw.choice((2, 30, 200))):
        where[key] = {"a": where[key]} if draw.random() < 0.5 else [where[key]]


def multiply(draw: random.Random, document: Document, places: list[Place]) -> None:
    where, key = draw.choice(places)
    where[key] = [copy.deepcopy(where[key]) for _ in range(draw.choice((2, 9, 40, 300)))]


CHANGES: tuple[Change, ...] = (
    put_odd_value,
    put_odd_value,
    take_away,
    rename,
    add_member,
    exchange,
    from_another,
    wrap,
    unwrap,
    respell_text,
    respell_text,
    change_contexts,
    change_contexts,
    write_as_iri,
    change_proof,
    change_proof,
    change_proofs,
    sign_again,
    shuffle_members,
    respell_numbers,
    nest,
    multiply,
)
