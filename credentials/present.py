"""Presentations: credentials shown by their holder, for one verifier and one moment.

1. document: the bytes are one JSON object within the limits.
2. data model: it is a presentation (`model`).
3. contexts: trusted or not. A finding, as for a credential.
4. proofs: every proof holds, one of them made for authentication.
5. holder: one key holder signed it, and it is the `holder` if one is named.
6. challenge: the proof was made for this verifier's challenge and domain, and not before.
7. credentials: each is verified (`verify`).
8. subject: each credential is about the holder, if that is demanded.

Does no I/O and keeps nothing: challenges are used up by a callable of the caller (`challenges`). A
credential without a proof of its own is refused, even if the holder's proof covers it. VC Data
Model 2.0 sections 4.13 and 7.1; Data Integrity 1.0 sections 4.3, 4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from credentials.binding import is_same_key
from credentials.contexts import PRESENTED, distrust_reason
from credentials.document import Document, check_document, encode_document, parse_document
from credentials.errors import (
    ChallengeWrong,
    CredentialsError,
    DomainWrong,
    HolderWrong,
    ModelInvalid,
)
from credentials.limits import (
    CHALLENGE_CHARS_MAX,
    PRESENTATION_BYTES_MAX,
    PRESENTATION_VALUES_MAX,
)
from credentials.model import CONTEXT_V2, PresentationView, check_presentation
from credentials.proof import CheckedProof, verify_proofs
from credentials.verified import (
    MADE_HERE,
    Outcome,
    Step,
    VerifiedCredential,
    VerifiedPresentation,
    number_steps,
)
from credentials.verify import Environment, signed_reason, verify_credential


def build_presentation(
    credentials: Sequence[Document | bytes], holder: str, *, presentation_id: str | None = None
) -> Document:
    """Return the unsigned presentation of signed credentials by a holder, a DID.

    Sign it with `proof.add_proof`, purpose `authentication`, and the verifier's challenge. Raises
    ModelInvalid, DocumentInvalid.
    """
    presentation: Document = {"@context": [CONTEXT_V2], "type": ["VerifiablePresentation"]}
    if presentation_id is not None:
        presentation["id"] = presentation_id
    presentation["holder"] = holder
    presentation["verifiableCredential"] = [
        parse_document(each) if isinstance(each, bytes) else each for each in credentials
    ]
    for credential in check_presentation(presentation).credentials:
        if "proof" not in credential:
            raise ModelInvalid("a credential without a proof cannot be presented")
    return presentation


def verify_presentation(
    data: bytes | Document,
    env: Environment,
    *,
    challenge: str | None,
    domain: str | None,
    consume: Callable[[str | None], None] | None = None,
    holder_must_be_subject: bool = True,
) -> VerifiedPresentation:
    """Verify a presentation and every credential in it. Raises a leaf of CredentialsError, which
    has `.steps`.

    `challenge`, `domain`: what the proof must have been made for; None: not compared, and then
    nothing but `consume` protects against a replay. `consume` gets the proof's challenge once the
    signature holds, and raises ChallengeWrong if it was not given out or is used. The status lists
    and schemas of the credentials come from `env`.
    """
    progress = _Progress()
    try:
        return _verify(data, env, progress, challenge, domain, consume, holder_must_be_subject)
    except CredentialsError as error:
        error.steps = _tell_steps(progress, (progress.step, str(error)))
        raise


@dataclass(slots=True)
class _Progress:
    """How far the verification has come: what the steps are told from."""

    step: int = 1
    view: PresentationView | None = None
    contexts_reason: str = ""
    proofs: tuple[CheckedProof, ...] = ()
    holder: str = ""
    challenge: Outcome = "skipped"
    compared: str = "not compared"
    credentials: list[VerifiedCredential] = field(default_factory=list)
    subject: Outcome = "skipped"


def _verify(
    data: bytes | Document,
    env: Environment,
    progress: _Progress,
    challenge: str | None,
    domain: str | None,
    consume: Callable[[str | None], None] | None,
    holder_must_be_subject: bool,
) -> VerifiedPresentation:
    original = data if isinstance(data, bytes) else encode_document(data)
    document = parse_document(original, bytes_max=PRESENTATION_BYTES_MAX)
    check_document(document, values_max=PRESENTATION_VALUES_MAX)
    progress.step = 2
    view = progress.view = check_presentation(document)
    progress.step = 3
    reason = distrust_reason(document, env.trusted_contexts, skipped=PRESENTED)
    progress.contexts_reason = reason
    progress.step = 4
    proofs = progress.proofs = verify_proofs(
        document, env.resolver, purpose="authentication", now_s=env.now_s, skew_s=env.skew_s
    )
    reason = reason or signed_reason(document, proofs, skipped=PRESENTED)
    progress.contexts_reason = reason
    progress.step = 5
    holder = progress.holder = _find_holder(view, proofs)
    own = tuple(proof for proof in proofs if proof.controller == holder)
    progress.step = 6
    _check_challenge(own, challenge, domain, consume)
    if challenge is not None or consume is not None:
        progress.challenge = "passed"
        progress.compared = _MADE_FOR if domain is not None else _MADE_FOR_ANYBODY
    progress.step = 7
    for credential in view.credentials:
        progress.credentials.append(verify_credential(credential, env))
    progress.step = 8
    if holder_must_be_subject:
        _check_subjects(holder, progress.credentials)
        progress.subject = "passed"
    return VerifiedPresentation(
        view=view,
        original=original,
        holder=holder,
        credentials=tuple(progress.credentials),
        proofs=own,
        contexts_reason=reason,
        verified_s=env.now_s,
        steps=_tell_steps(progress, None),
        made_here=MADE_HERE,
    )


def _find_holder(view: PresentationView, proofs: Sequence[CheckedProof]) -> str:
    """Return who presents. Where the presentation names nobody, all proofs are one DID's."""
    signers = {proof.controller for proof in proofs}
    if view.holder is not None:
        if view.holder not in signers:
            raise HolderWrong(
                f"the holder is {view.holder:.200}, the proof is by {proofs[0].controller:.200}"
            )
        return view.holder
    if len(signers) != 1:
        raise HolderWrong("it names no holder, and several have signed it")
    return signers.pop()


def _check_challenge(
    proofs: Sequence[CheckedProof],
    challenge: str | None,
    domain: str | None,
    consume: Callable[[str | None], None] | None,
) -> None:
    """Compare, and use the challenge up last: a stranger's garbage does not use it up."""
    said = {proof.challenge for proof in proofs}
    if len(said) != 1:
        raise ChallengeWrong("the holder's proofs have different challenges")
    answered = said.pop()
    if answered is not None and len(answered) > CHALLENGE_CHARS_MAX:
        raise ChallengeWrong(
            f"the proof's challenge has more than {CHALLENGE_CHARS_MAX} characters"
        )
    if challenge is not None and answered != challenge:
        raise ChallengeWrong("the presentation was not made for this challenge")
    for proof in proofs:
        if domain is not None and domain not in proof.domain:
            raise DomainWrong(
                f"the presentation was made for {', '.join(proof.domain) or 'no domain':.200}, "
                f"not for {domain:.200}"
            )
    if consume is not None:
        consume(answered)


def _check_subjects(holder: str, credentials: Sequence[VerifiedCredential]) -> None:
    """Ask that each is about the holder alone, by this DID or another one of the same key."""
    for credential in credentials:
        subject = credential.subject
        if subject is None or not (subject == holder or is_same_key(subject, holder)):
            about = ", ".join(credential.view.subjects) or "nobody by name"
            raise HolderWrong(f"a credential is about {about:.200}, presented by {holder:.200}")


def _tell_steps(progress: _Progress, failed: tuple[int, str] | None) -> tuple[Step, ...]:
    view = progress.view
    reason = progress.contexts_reason
    count = len(view.credentials) if view is not None else 0
    steps: list[tuple[str, Outcome, str]] = [
        ("document", "passed", "a JSON document within the limits"),
        ("data model", "passed", f"VC Data Model {view.version}" if view is not None else ""),
        ("contexts", "failed", f"not trusted: {reason}")
        if reason
        else ("contexts", "passed", "all trusted"),
        (
            "proofs",
            "passed",
            "; ".join(f"{each.suite} by {each.method}" for each in progress.proofs),
        ),
        ("holder", "passed", progress.holder),
        ("challenge", progress.challenge, progress.compared),
        ("credentials", "passed", f"{len(progress.credentials)} of {count} verified"),
        ("subject", progress.subject, _SUBJECT_WORDS[progress.subject]),
    ]
    return number_steps(steps, failed)


_MADE_FOR = "made for this verifier"
_MADE_FOR_ANYBODY = "the one that was asked for; whom it was made for (domain) was not compared"
_SUBJECT_WORDS = {"passed": "all are about the holder", "skipped": "not demanded"}
