"""What the verifying routes answer: what was checked, what held, and what to be warned of.

Does not verify. The standards' response has `verified`, `errors` and `warnings`; `steps`,
`contextsTrusted`, `conclusive` and `checks` are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from credentials.errors import (
    ChallengeWrong,
    CredentialsError,
    DomainWrong,
    PolicyRefused,
    ProofInvalid,
)
from credentials.proof import CheckedProof
from credentials.verified import Step, VerifiedCredential, VerifiedPresentation
from kwaai.api.vc_bodies import CHECKS, CredentialOptions, PresentationOptions
from kwaai.api.vc_problems import (
    INVALID_CHALLENGE_ERROR,
    MALFORMED_VALUE_ERROR,
    RANGE_ERROR,
    STATUS_RETRIEVAL_ERROR,
    make_problem,
    problem_of,
    response_of,
    steps_of,
)
from kwaai.errors import CredentialUnknown
from kwaai.node.credential_check import refusal

_ALWAYS = ("proof",)
_USUAL = tuple(name for name in CHECKS if name != "contexts")
_STEP_TYPES = {"validity period": RANGE_ERROR, "status": STATUS_RETRIEVAL_ERROR}


def checks_of(asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return what must hold, in order: the proof always, the rest as asked or as usual."""
    wanted = _USUAL if asked is None else (*_ALWAYS, *asked)
    return tuple(name for name in CHECKS if name in wanted)


def expect(proofs: Sequence[CheckedProof], options: CredentialOptions) -> None:
    """Compare every proof with what the caller expects of it. Raises ProofInvalid leaves."""
    for proof in proofs:
        expect_purpose(proof, options.expectedProofPurpose)
        if options.domain is not None and options.domain not in proof.domain:
            raise DomainWrong("the proof was made for another domain than options.domain")
        if options.challenge not in (None, proof.challenge):
            raise ChallengeWrong("the proof answers another challenge than options.challenge")


def expect_purpose(proof: CheckedProof, purpose: str | None) -> None:
    """Refuse a proof that was made for another purpose. Raises ProofInvalid."""
    if purpose not in (None, proof.purpose):
        raise ProofInvalid(f"the proof was made for {proof.purpose}, not {purpose:.100}")


def require_contexts(
    verified: VerifiedCredential | VerifiedPresentation, checks: Sequence[str]
) -> None:
    """Refuse contexts that are not trusted, where that was asked for. Raises PolicyRefused."""
    if "contexts" in checks and not verified.contexts_trusted:
        raise PolicyRefused(f"its contexts are not trusted: {verified.contexts_reason}")


def _passed(checks: Sequence[str]) -> dict[str, Any]:
    return {"verified": True, "checks": list(checks), "errors": [], "problemDetails": []}


def refused_response(error: CredentialsError, checks: Sequence[str]) -> web.Response:
    """Return a finding: status 400, whatever is wrong; `conclusive` is false where something that
    is needed to judge is missing here.
    """
    problem = problem_of(error)
    steps: Sequence[Step] = getattr(error, "steps", ())
    body = problem | {
        "verified": False,
        "conclusive": not isinstance(refusal(error), CredentialUnknown),
        "checks": list(checks),
        "errors": [problem],
        "problemDetails": [problem],
        "warnings": [],
        "steps": steps_of(steps),
    }
    return response_of(body)


def credential_answer(
    verified: VerifiedCredential, checks: Sequence[str], options: CredentialOptions
) -> dict[str, Any]:
    """Return what `/credentials/verify` says of a credential that holds."""
    answer = _passed(checks) | _credential_result(verified)
    if options.returnCredential:
        answer["credential"] = verified.document
    return answer


def _credential_result(verified: VerifiedCredential) -> dict[str, Any]:
    return {
        "credentialId": verified.id,
        "issuer": verified.issuer,
        "contextsTrusted": verified.contexts_trusted,
        "warnings": _warnings(verified.steps),
        "steps": steps_of(verified.steps),
    }


def _warnings(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the steps that did not pass and were not demanded, as problem details."""
    return [
        make_problem(_STEP_TYPES.get(step.name, MALFORMED_VALUE_ERROR), step.detail)
        | {"step": step.name}
        for step in steps
        if step.outcome in ("failed", "unknown")
    ]


def presentation_answer(
    verified: VerifiedPresentation, checks: Sequence[str], options: PresentationOptions
) -> dict[str, Any]:
    """Return what `/presentations/verify` says of a presentation that holds."""
    warnings = _warnings(verified.steps)
    if options.challenge is None:
        warnings.append(
            make_problem(
                INVALID_CHALLENGE_ERROR,
                "options.challenge was not given, so the proof's challenge was not compared: "
                "whoever saw this presentation can show it again",
            )
            | {"step": "challenge"}
        )
    answer = _passed(checks) | {
        "holder": verified.holder,
        "contextsTrusted": verified.contexts_trusted,
        "warnings": warnings,
        "presentationResult": {"verified": True, "steps": steps_of(verified.steps)},
        "credentialResults": [
            {"verified": True} | _credential_result(credential)
            for credential in verified.credentials
        ],
    }
    if options.returnPresentation:
        answer["presentation"] = verified.document
    return answer
