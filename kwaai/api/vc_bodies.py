"""Bodies of the credential routes, parsed once. Knows the VC-API's shapes, not what they lead to.

The bytes are read with the API's bounds and parsed by `credentials.document`: duplicate keys,
numbers that JCS cannot hold, depth and size are refused before anything else looks. Options that
are not known here are refused by name. Shapes: VC API 0.7 and its successor VCALM 1.0.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from credentials.document import Document, parse_document
from kwaai import limits
from kwaai.api.jsonbody import read_body
from kwaai.api.validation import explain

Suite: TypeAlias = Literal["eddsa-rdfc-2022", "eddsa-jcs-2022"]
SUITES: tuple[Suite, ...] = ("eddsa-rdfc-2022", "eddsa-jcs-2022")
CHECKS = ("proof", "issuer", "validity", "status", "schema", "contexts")
PURPOSES = ("revocation", "suspension")

_MEDIA_TYPES = ("application/json", "application/ld+json", "application/vc", "application/vp")
_CHECK_NAMES = {name: name for name in CHECKS} | {"credentialStatus": "status"}
_TEXT_CHARS_MAX = 1024


async def read_document(request: web.Request) -> Document:
    """Read the body of `request` as one JSON document. Raises UserError leaves, DocumentInvalid."""
    body = await read_body(request, limits.VC_BODY_BYTES_MAX, media_types=_MEDIA_TYPES)
    if len(body) > limits.JSON_THREAD_BYTES:
        return await asyncio.to_thread(_parse, body)
    return _parse(body)


def _parse(body: bytes) -> Document:
    return parse_document(body, bytes_max=limits.VC_BODY_BYTES_MAX)


def _checks(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _refuse("must be a list of strings")
    for name in value:
        if name not in _CHECK_NAMES:
            raise _refuse(f"has {name[:40]!r}, which is none of {', '.join(CHECKS)}")
    return [_CHECK_NAMES[name] for name in value]


def _status_wishes(value: Any) -> Any:
    """Accept one wish, a list of them, or false for none."""
    if value is False:
        return []
    return value if isinstance(value, list) else [value]


def _flag(value: Any) -> Any:
    """Accept true and false as the VC-API writes them: also as "1" and "0"."""
    return {"1": True, "0": False}.get(value, value) if isinstance(value, str) else value


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("kwaai", "{message}", {"message": message})


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=_TEXT_CHARS_MAX)]


class StatusWish(_Strict):
    """A status that a credential to be issued shall have."""

    type: Literal["BitstringStatusListEntry"] = "BitstringStatusListEntry"
    statusPurpose: Literal["revocation", "suspension"] = "revocation"


class IssueOptions(_Strict):
    credentialId: Text | None = None
    type: Literal["DataIntegrityProof"] = "DataIntegrityProof"
    cryptosuite: Suite | None = None
    credentialStatus: (
        Annotated[list[StatusWish], Field(max_length=2), BeforeValidator(_status_wishes)] | None
    ) = None
    created: Text | None = None
    expires: Text | None = None
    mandatoryPointers: Annotated[list[str], Field(max_length=0)] = []


class IssueBody(_Strict):
    credential: dict[str, Any]
    options: IssueOptions = IssueOptions()


class _VerifyOptions(_Strict):
    checks: Annotated[list[str], BeforeValidator(_checks)] | None = None
    challenge: Text | None = None
    domain: Text | None = None
    expectedProofPurpose: Text | None = None
    returnProblemDetails: bool = True
    returnResults: bool = True


class CredentialOptions(_VerifyOptions):
    returnCredential: bool = False


class VerifyBody(_Strict):
    verifiableCredential: dict[str, Any]
    options: CredentialOptions = CredentialOptions()


class PresentationOptions(_VerifyOptions):
    returnPresentation: bool = False
    holderMustBeSubject: bool = False
    """Ours: whether every credential must be about the holder."""


class VerifyPresentationBody(_Strict):
    verifiablePresentation: dict[str, Any]
    options: PresentationOptions = PresentationOptions()


class ProveOptions(_Strict):
    type: Literal["DataIntegrityProof"] = "DataIntegrityProof"
    cryptosuite: Suite | None = None
    proofPurpose: Literal["authentication"] = "authentication"
    challenge: Text | None = None
    domain: Text | None = None


class ProveBody(_Strict):
    presentation: dict[str, Any]
    options: ProveOptions = ProveOptions()


class StatusChange(_Strict):
    type: Literal["BitstringStatusListEntry"] = "BitstringStatusListEntry"
    statusPurpose: Literal["revocation", "suspension"] = "revocation"
    status: Annotated[bool, BeforeValidator(_flag)] = True


class StatusBody(_Strict):
    credentialId: Text
    credentialStatus: Annotated[
        list[StatusChange], Field(min_length=1, max_length=2), BeforeValidator(_status_wishes)
    ]
    status: Annotated[bool, BeforeValidator(_flag)] | None = None


_Body = TypeVar("_Body", bound=BaseModel)


def parse_body(shape: type[_Body], document: Document) -> _Body:
    """Parse a request's document. `null` counts as not given. Raises UserError naming the field."""
    fields = {name: value for name, value in document.items() if value is not None}
    options = fields.get("options")
    if isinstance(options, dict):
        fields["options"] = {name: value for name, value in options.items() if value is not None}
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise explain(error, list(shape.model_fields)) from None
