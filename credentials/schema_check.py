"""VC JSON Schema: a credential against each `credentialSchema` it names.

Fetches nothing: schemas are pinned here or come from `source`; what nobody has is a finding, and an
error only where it is required. Evaluation, and what of a stranger's schema is evaluated at all, is
json_schema.py's. W3C VC JSON Schema, https://www.w3.org/TR/vc-json-schema/.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from credentials.document import Document, parse_document
from credentials.errors import CredentialsError, SchemaInvalid, SchemaUnknown
from credentials.kinds import CONTEXT_URL, KINDS
from credentials.limits import SCHEMAS_MAX
from schemas import load_schema

if TYPE_CHECKING:
    from credentials.verified import VerifiedCredential

JSON_SCHEMA: Final = "JsonSchema"
JSON_SCHEMA_CREDENTIAL: Final = "JsonSchemaCredential"
META_SCHEMAS: Final = frozenset(
    {
        "https://www.w3.org/2022/credentials/v2/json-schema-credential-schema.json",
        "https://www.w3.org/ns/credentials/json-schema/v2.json",
        "https://w3c.github.io/vc-json-schema/schema/json-schema-credential-schema.json",
    }
)
"""URLs of the one schema that a JsonSchemaCredential has. Its rules are checked in code here."""

SchemaSource: TypeAlias = Callable[[str], Document | bytes | None]
"""URL -> the schema or the JsonSchemaCredential, from memory; None: unknown."""
SchemaVerifier: TypeAlias = Callable[[Document | bytes], "VerifiedCredential"]
"""Verifies a JsonSchemaCredential: structure, proof and validity period."""


@dataclass(frozen=True, slots=True)
class SchemaFinding:
    """What came of one `credentialSchema`. A violation is no finding: it raises."""

    url: str
    type: str
    outcome: Literal["passed", "unknown"]
    detail: str


def schema_url(schema: str) -> str:
    """Return the URL of a schema of this network's, by its name in `schemas`."""
    return f"{CONTEXT_URL}/schemas/{schema}.json"


_PINNED: Final = {schema_url(kind.schema): kind.schema for kind in KINDS.values()}


def check_schemas(
    document: Document,
    *,
    source: SchemaSource | None = None,
    verify: SchemaVerifier | None = None,
    required: bool = False,
) -> tuple[SchemaFinding, ...]:
    """Check a credential by each of its `credentialSchema`.

    `required`: a schema that is unknown, or that cannot be evaluated here, raises SchemaUnknown
    instead of being a finding. Raises SchemaViolated; SchemaInvalid for a schema that is none, or
    is not the one that is named.
    """
    named = document.get("credentialSchema", [])
    named = named if isinstance(named, list) else [named]
    if len(named) > SCHEMAS_MAX:
        raise SchemaInvalid(f"{len(named)} credentialSchema; at most {SCHEMAS_MAX} are checked")
    findings = []
    for reference in named:
        url, kind = _read_reference(reference)
        try:
            _check_one(document, reference, url, kind, source, verify)
        except SchemaUnknown as error:
            if required:
                raise
            findings.append(SchemaFinding(url, kind, "unknown", str(error)))
        else:
            findings.append(SchemaFinding(url, kind, "passed", "the claims are as it wants them"))
    return tuple(findings)


def _read_reference(reference: Any) -> tuple[str, str]:
    """Return URL and type of one `credentialSchema`."""
    if not isinstance(reference, Mapping):
        raise SchemaInvalid(f"credentialSchema is {reference!r:.60}, not an object")
    url, types = reference.get("id"), reference.get("type")
    types = types if isinstance(types, list) else [types]
    if not isinstance(url, str) or not all(isinstance(one, str) for one in types):
        raise SchemaInvalid("credentialSchema has no id (the schema's URL) or no type")
    return url, next((one for one in types if one in _TYPES), " ".join(types))


_TYPES: Final = (JSON_SCHEMA, JSON_SCHEMA_CREDENTIAL)


def _check_one(
    document: Document,
    reference: Mapping[str, Any],
    url: str,
    kind: str,
    source: SchemaSource | None,
    verify: SchemaVerifier | None,
) -> None:
    if kind not in _TYPES:
        raise SchemaUnknown(f"a schema of type {kind!r:.80} is not evaluated here")
    if kind == JSON_SCHEMA and url in META_SCHEMAS:
        _read_schema_credential(document)
        return
    data: Document | bytes | None
    pinned = _PINNED.get(url)
    data = load_schema(pinned) if pinned is not None else source(url) if source else None
    if data is None:
        raise SchemaUnknown(f"the schema {url:.200} is not known here, and none is downloaded")
    _check_digest(reference, data, url)
    if kind == JSON_SCHEMA:
        schema = parse_document(data) if isinstance(data, bytes) else data
        if schema.get("$id") != url:
            raise SchemaInvalid(f"the schema's $id is {schema.get('$id')!r:.200}, not {url:.200}")
    else:
        schema = _schema_of_credential(data, url, verify)
    from credentials.json_schema import check_json_schema  # the library takes 0.1 s to import

    check_json_schema(document, schema, trusted=pinned is not None)


def _schema_of_credential(
    data: Document | bytes, url: str, verify: SchemaVerifier | None
) -> Document:
    """Return the schema in a JsonSchemaCredential, which is verified where it has a proof."""
    document = parse_document(data) if isinstance(data, bytes) else data
    if document.get("id") != url:
        raise SchemaInvalid(f"the credential {document.get('id')!r:.200} was had for {url:.200}")
    if "proof" in document:
        if verify is None:
            raise SchemaUnknown(f"the proof of the schema credential {url:.200} was not checked")
        try:
            verified = verify(data)
        except CredentialsError as error:
            raise SchemaInvalid(
                f"the schema credential {url:.200} does not hold: {error}"
            ) from error
        if verified.contexts_reason:
            raise SchemaInvalid(f"the schema credential {url:.200}: {verified.contexts_reason}")
        document = verified.document
    return _read_schema_credential(document)


def _read_schema_credential(document: Document) -> Document:
    """Return the schema of a JsonSchemaCredential by the rules of section 2.2."""
    types, subject = document.get("type"), document.get("credentialSubject")
    if not isinstance(types, list) or JSON_SCHEMA_CREDENTIAL not in types:
        raise SchemaInvalid("the schema's credential is no JsonSchemaCredential")
    if not isinstance(subject, Mapping) or subject.get("type") not in (JSON_SCHEMA, [JSON_SCHEMA]):
        raise SchemaInvalid("the subject of a JsonSchemaCredential is no JsonSchema")
    schema = subject.get("jsonSchema")
    if not isinstance(schema, dict):
        raise SchemaInvalid("a JsonSchemaCredential has no jsonSchema")
    own = document.get("credentialSchema")
    own = own[0] if isinstance(own, list) and len(own) == 1 else own
    if (
        not isinstance(own, Mapping)
        or own.get("type") != JSON_SCHEMA
        or own.get("id") not in META_SCHEMAS
    ):
        raise SchemaInvalid("a JsonSchemaCredential's credentialSchema is the W3C's schema for it")
    return schema


def _check_digest(reference: Mapping[str, Any], data: Document | bytes, url: str) -> None:
    """Compare `digestSRI` (Subresource Integrity), where there is one."""
    digest = reference.get("digestSRI")
    if digest is None:
        return
    name, _, text = digest.partition("-") if isinstance(digest, str) else ("", "", "")
    if name not in ("sha256", "sha384", "sha512") or len(text) > 100:
        raise SchemaInvalid(f"digestSRI is {digest!r:.120}, not sha256-, sha384- or sha512-")
    try:
        wanted = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SchemaInvalid(f"digestSRI is {digest!r:.120}, not base64") from error
    if not isinstance(data, bytes):
        raise SchemaUnknown(f"the bytes of the schema {url:.200} are not at hand for its digestSRI")
    if not hmac.compare_digest(hashlib.new(name, data).digest(), wanted):
        raise SchemaInvalid(f"digestSRI is not the digest of the schema {url:.200}")
