"""Errors of the credential routes: problem details (RFC 9457) in the words of the standards.

Decides nothing about what is an error. Types are URLs of the VC data model (section 7.2), of Data
Integrity (section 4.8) and of Bitstring Status List (section 3.6); an error that is only HTTP's has
the type `about:blank`.
"""

from __future__ import annotations

import http
import math
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from credentials.errors import CredentialsError
from credentials.verified import Step
from kwaai.api.errors import encode_json
from kwaai.errors import CredentialRefused, KwaaiError

PROBLEM_MEDIA_TYPE = "application/problem+json"
BLANK = "about:blank"
MALFORMED_VALUE_ERROR = "https://www.w3.org/TR/vc-data-model#MALFORMED_VALUE_ERROR"
RANGE_ERROR = "https://www.w3.org/TR/vc-data-model#RANGE_ERROR"
INVALID_CHALLENGE_ERROR = "https://w3id.org/security#INVALID_CHALLENGE_ERROR"
STATUS_RETRIEVAL_ERROR = "https://www.w3.org/ns/credentials/status-list#STATUS_RETRIEVAL_ERROR"

_TITLES = {
    "PARSING_ERROR": "The document cannot be parsed",
    "MALFORMED_VALUE_ERROR": "A value is malformed",
    "RANGE_ERROR": "A value is outside of its range",
    "CRYPTOGRAPHIC_SECURITY_ERROR": "The securing mechanism does not hold",
    "PROOF_GENERATION_ERROR": "The proof cannot be made",
    "PROOF_VERIFICATION_ERROR": "The proof does not hold",
    "PROOF_TRANSFORMATION_ERROR": "The document cannot be transformed for its proof",
    "DATA_LOSS_DETECTION_ERROR": "A part of the document has no meaning that a proof could cover",
    "INVALID_DOMAIN_ERROR": "The domain is not the expected one",
    "INVALID_CHALLENGE_ERROR": "The challenge is not the expected one",
    "INVALID_VERIFICATION_METHOD": "The verification method may not be used for this",
    "INVALID_CONTROLLED_IDENTIFIER_DOCUMENT": "The controller's document is invalid",
    "STATUS_RETRIEVAL_ERROR": "The status cannot be retrieved",
    "STATUS_VERIFICATION_ERROR": "The status does not hold",
    "STATUS_LIST_LENGTH_ERROR": "The status list is too short",
}


def make_problem(
    type_url: str, detail: str, *, code: str = "", status: int | None = None
) -> dict[str, Any]:
    """Return problem details. `code` is this project's stable name of the error."""
    name = type_url.rpartition("#")[2]
    title = _TITLES.get(name)
    if title is None:
        title = http.HTTPStatus(status).phrase if status is not None else "Invalid"
    problem: dict[str, Any] = {"type": type_url, "title": title, "detail": detail}
    if status is not None:
        problem["status"] = status
    if code:
        problem["code"] = code
    return problem


def problem_of(error: CredentialsError | KwaaiError) -> dict[str, Any]:
    """Return an error as problem details with its HTTP status."""
    if isinstance(error, CredentialsError):
        return make_problem(error.problem, str(error), code=error.code, status=400)
    type_url, code = BLANK, error.code
    if isinstance(error, CredentialRefused) and error.problem:
        type_url, code = error.problem, error.reason or error.code
    problem = make_problem(type_url, error.message, code=code, status=error.http_status)
    if error.param is not None:
        problem["param"] = error.param
    return problem


def problem_response(
    error: CredentialsError | KwaaiError, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error as a complete response."""
    return response_of(problem_of(error), error, headers)


def response_of(
    body: Mapping[str, Any],
    error: CredentialsError | KwaaiError | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return problem details, with whatever a route adds to them, as a response."""
    status = int(body["status"])
    response = web.Response(
        body=encode_json(body), status=status, headers=headers, content_type=PROBLEM_MEDIA_TYPE
    )
    if isinstance(error, KwaaiError) and error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def steps_of(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return what was checked, in order."""
    return [
        {"number": s.number, "name": s.name, "outcome": s.outcome, "detail": s.detail}
        for s in steps
    ]
