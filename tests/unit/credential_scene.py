"""An issuer, a holder, a status list and a moment: what tests of verification are made of."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from credentials.bitstring import StatusList
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_time
from credentials.keys import SecretKey
from credentials.model import CONTEXT_V2
from credentials.proof import ProofOptions, Suite, add_proof
from credentials.status import build_list_credential, build_status_entry
from credentials.verify import Environment

JCS: Suite = "eddsa-jcs-2022"
RDFC: Suite = "eddsa-rdfc-2022"
SUITES: tuple[Suite, ...] = (JCS, RDFC)

NOW_S = 1_795_255_200.0  # 2026-11-21T10:00:00Z
DAY_S = 86_400.0
LIST_URL = "https://issuer.example/status/1"
SUSPENSION_URL = "https://issuer.example/status/2"
EXAMPLES = "https://www.w3.org/ns/credentials/examples/v2"


class Party:
    """Somebody with a key and its did:key."""

    def __init__(self, number: int) -> None:
        self.secret = SecretKey(bytes([number]) * 32)
        self.did = str(did_key(self.secret.public))
        self.method = verification_method(did_key(self.secret.public))

    def options(self, suite: Suite, **changes: Any) -> ProofOptions:
        return replace(ProofOptions(suite, self.method, created_s=NOW_S - 60), **changes)

    def sign(self, document: Document, suite: Suite = JCS, **changes: Any) -> Document:
        return add_proof(document, self.options(suite, **changes), self.secret)


ISSUER, HOLDER, STRANGER = Party(1), Party(2), Party(3)


def unsigned(**changes: Any) -> Document:
    """Return a credential by ISSUER about HOLDER. A change to None takes the property away."""
    document: Document = {
        "@context": [CONTEXT_V2],
        "id": "urn:uuid:5f1b3c1e-7d0a-4d6f-9a55-0d6c1b1f7a10",
        "type": ["VerifiableCredential"],
        "issuer": ISSUER.did,
        "validFrom": encode_time(NOW_S - DAY_S),
        "validUntil": encode_time(NOW_S + DAY_S),
        "credentialSubject": {"id": HOLDER.did},
        **changes,
    }
    return {name: value for name, value in document.items() if value is not None}


def signed(suite: Suite = JCS, **changes: Any) -> Document:
    return ISSUER.sign(unsigned(**changes), suite)


def encoded(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def environment(**changes: Any) -> Environment:
    return replace(Environment(now_s=NOW_S), **changes)


def statuses() -> list[Document]:
    return [
        build_status_entry(LIST_URL, "revocation", 94),
        build_status_entry(SUSPENSION_URL, "suspension", 95),
    ]


def lists(
    *,
    revoked: tuple[int, ...] = (),
    suspended: tuple[int, ...] = (),
    by: Party = ISSUER,
    suite: Suite = JCS,
    valid_until_s: float = NOW_S + DAY_S,
) -> Mapping[str, bytes]:
    """Return both status lists of the issuer, by URL."""
    found = {}
    for url, purpose, indices in (
        (LIST_URL, "revocation", revoked),
        (SUSPENSION_URL, "suspension", suspended),
    ):
        bits = StatusList.new()
        for index in indices:
            bits.set(index)
        document = build_list_credential(
            by.did,
            url,
            purpose,
            bits,
            valid_from_s=NOW_S - 3600,
            valid_until_s=valid_until_s,
        )
        found[url] = encoded(by.sign(document, suite))
    return found


def bomb() -> str:
    """Return an encodedList of 260 kB that inflates to 256 MiB."""
    import zlib

    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    return "u" + base64.urlsafe_b64encode(packed).decode().rstrip("=")
