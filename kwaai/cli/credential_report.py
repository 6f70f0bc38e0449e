"""A verification as a report: what was checked, step by step, and what came of it.

Verifies through a Checker and prints nothing; `credential_tree` does. Exit codes: 0 it holds, 1 it
does not, 69 it cannot be judged here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from credentials.document import encode_time
from credentials.errors import CredentialsError
from kwaai.cli.credential_tree import Branch, step_branches
from kwaai.cli.credential_values import name_types
from kwaai.errors import CredentialUnknown
from kwaai.node.credential_check import refusal

if TYPE_CHECKING:
    from credentials.model import CredentialView
    from credentials.policy import Policy
    from credentials.verified import Step, VerifiedCredential, VerifiedPresentation
    from kwaai.node.credential_check import Checker

_CLAIMS_SHOWN = 32
_REMEDIES = {
    "status_unknown": "ask the issuer for its status lists (kwaainet credential status-list NAME) "
    "and give each with --status-list FILE",
    "did_not_found": "for a did:web, allow its host: kwaainet config set web_hosts HOST",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One verification, for people (`tree`) and for programs (`described`)."""

    exit_code: int
    described: dict[str, Any]
    tree: Branch
    remedy: str = ""
    """What to do, where something is missing."""


def report_credential(checker: Checker, data: bytes, policy: Policy) -> Report:
    """Verify a credential."""

    def look() -> Report:
        verified = checker.verify(data)
        refused = _refused(lambda: policy.require(verified))
        text = f"{name_types(verified.types)} from {verified.issuer}"
        described = {"kind": "credential", **describe_credential(verified)}
        return _report(text, _credential_lines(verified), described, refused)

    return _found(look)


def report_presentation(
    checker: Checker,
    data: bytes,
    policy: Policy,
    *,
    challenge: str,
    domain: str | None,
    holder_must_be_subject: bool,
) -> Report:
    """Verify a presentation and what it holds."""

    def look() -> Report:
        shown = checker.verify_presentation(
            data,
            challenge=challenge,
            domain=domain,
            holder_must_be_subject=holder_must_be_subject,
        )
        refused = _refused(lambda: policy.require_presentation(shown))
        lines = step_branches(shown.steps)
        for verified in shown.credentials:
            text = f"{name_types(verified.types)} from {verified.issuer}"
            lines.append(Branch(text, "passed", _credential_lines(verified)))
        described = {"kind": "presentation", **_describe_presentation(shown)}
        return _report(f"presentation by {shown.holder}", lines, described, refused)

    return _found(look)


def _refused(demand: Callable[[], None]) -> CredentialsError | None:
    try:
        demand()
    except CredentialsError as error:
        return error
    return None


def _report(
    text: str, lines: list[Branch], described: dict[str, Any], refused: CredentialsError | None
) -> Report:
    if refused is None:
        return Report(0, {"verified": True, **described}, Branch(text, "valid", lines))
    lines.append(Branch(f"policy: {refused}", "failed"))
    described |= {"verified": False, "error": _describe_error(refused)}
    return Report(refusal(refused).exit_code, described, Branch(text, "not valid", lines))


def _found(look: Callable[[], Report]) -> Report:
    try:
        return look()
    except CredentialsError as error:
        refused = refusal(error)
        unable = isinstance(refused, CredentialUnknown)
        steps: Sequence[Step] = error.steps
        if unable:  # what could not be looked at has not failed
            steps = [
                replace(step, outcome="unknown") if step.outcome == "failed" else step
                for step in steps
            ]
        described = {
            "verified": None if unable else False,
            "steps": describe_steps(steps),
            "error": _describe_error(error),
        }
        word = "unknown" if unable else "not valid"
        tree = Branch(f"{error} ({error.code})", word, step_branches(steps))
        return Report(refused.exit_code, described, tree, _REMEDIES.get(error.code, ""))


def describe_credential(verified: VerifiedCredential) -> dict[str, Any]:
    """Return what `--json` prints of a credential that holds."""
    return {
        **_describe_view(verified.view),
        "proofs": [
            {"suite": proof.suite, "method": proof.method, "purpose": proof.purpose}
            for proof in verified.proofs
        ],
        "contexts_trusted": verified.contexts_trusted,
        "contexts_reason": verified.contexts_reason,
        "steps": describe_steps(verified.steps),
    }


def _describe_presentation(shown: VerifiedPresentation) -> dict[str, Any]:
    return {
        "holder": shown.holder,
        "credentials": [describe_credential(credential) for credential in shown.credentials],
        "steps": describe_steps(shown.steps),
    }


def describe_steps(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the steps of a verification as `--json` prints them."""
    return [
        {"number": s.number, "name": s.name, "outcome": s.outcome, "detail": s.detail}
        for s in steps
    ]


def _describe_view(view: CredentialView) -> dict[str, Any]:
    begin, end = view.valid_from_s, view.valid_until_s
    return {
        "id": view.id,
        "types": list(view.types),
        "issuer": view.issuer,
        "subjects": list(view.subjects),
        "valid_from": None if begin is None else encode_time(begin),
        "valid_until": None if end is None else encode_time(end),
    }


def _describe_error(error: CredentialsError) -> dict[str, str]:
    return {"code": error.code, "problem": error.problem, "message": str(error)}


def _credential_lines(verified: VerifiedCredential) -> list[Branch]:
    described = _describe_view(verified.view)
    period = f"{described['valid_from'] or 'any time'} to {described['valid_until'] or 'no end'}"
    subjects = ", ".join(described["subjects"]) or "nobody by name"
    return [
        Branch(f"about {subjects}", children=_claim_lines(verified.document)),
        Branch(f"valid from {period}"),
        *step_branches(verified.steps),
    ]


def _claim_lines(document: Mapping[str, Any]) -> list[Branch]:
    """Return what a credential says of its subjects, a line for each claim."""
    subjects = document.get("credentialSubject")
    lines = []
    for subject in subjects if isinstance(subjects, list) else [subjects]:
        for name, value in subject.items() if isinstance(subject, dict) else ():
            if name not in ("id", "type"):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                lines.append(Branch(f"{name}: {text}"))
    if len(lines) > _CLAIMS_SHOWN:
        rest = len(lines) - _CLAIMS_SHOWN
        lines = [*lines[:_CLAIMS_SHOWN], Branch(f"and {rest} more; --json prints all")]
    return lines
