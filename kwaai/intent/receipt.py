"""Receipts: what requester and hop each sign of one answer about the other, and how they compare.

Pure: a party's own account and bytes of the other's in, signed halves and contradictions out. Sends
and keeps nothing, counts no steps (`kwaai.wire.transcript`). A half is an InferenceReceiptVC; it
says who saw which digests, not that what was computed is right. docs/protocol/receipts.md.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

from credentials.constructors import Frame, Receipt, build_inference_receipt
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_document, parse_document, parse_time
from credentials.errors import CredentialsError, PolicyRefused
from credentials.keys import PeerId, SecretKey, parse_peer_id, peer_id
from credentials.kinds import BASE_CONTEXT_URL, CONTEXT_URL
from credentials.limits import CLOCK_SKEW_S
from credentials.policy import NODE_POLICY
from credentials.proof import ProofOptions, add_proof
from credentials.proof_fields import EDDSA_JCS
from credentials.verified import VerifiedCredential
from credentials.verify import Environment, verify_credential
from kwaai.errors import PeerMisbehaved
from kwaai.limits import RECEIPT_BYTES_MAX, RECEIPT_LIFE_S
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.messages import CloseReason
from kwaai.wire.shard import encode_sampling
from kwaai.wire.transcript import Cover, Mark, Tail

KIND: Final = "InferenceReceiptVC"
Role: TypeAlias = Literal["requester", "hop"]
Outcome: TypeAlias = Literal["completed", "cancelled", "refused", "failed", "timed-out"]
State: TypeAlias = Literal["agreed", "contradicted", "disputed", "refused", "missing"]
"""How two halves stand: the other's says the same; something else than this node saw itself;
something else than the hop beside it says; is no receipt of that answer; or did not come."""

OUTCOMES: Final[Mapping[CloseReason, Outcome]] = {
    CloseReason.DONE: "completed",
    CloseReason.CANCELLED: "cancelled",
    CloseReason.FAILED: "failed",
    CloseReason.DRAINING: "cancelled",
}

_NONCE_SEED: Final = b"kwaai receipt nonce 1\0"
_FIELDS: Final = frozenset(
    {"@context", "type", "issuer", "validFrom", "validUntil", "credentialSubject", "proof"}
)
"""Of a half. Nothing else, so that nothing else has to be looked up or canonicalised."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one party saw itself of one hop's part in a session that is over."""

    session: bytes
    requester: PeerId
    peer: PeerId
    """The hop."""
    role: Role
    """Whose account it is."""
    handle: ModelHandle
    layers: LayerRange
    """What the hop ran."""
    hop: int
    hops: int
    taken: Tail
    """The hop's: what went into it. The requester's: what it put into the path."""
    given: Tail
    """The hop's: what came out of it. The requester's: what came out of the path."""
    started_s: float
    """Unix seconds, as all times here."""
    finished_s: float
    first_s: float | None
    """From the start until the first output that was asked for."""
    outcome: Outcome
    intent_digest: str = ""
    """`sha256:...` of the intent in the OPEN; empty: there was none."""
    parameters_digest: str = ""
    """The same of the sampling parameters; empty for a hop that does not sample."""

    @property
    def other(self) -> PeerId:
        """Whom its half is about."""
        return self.peer if self.role == "requester" else self.requester

    @property
    def is_first(self) -> bool:
        return self.hop == 0

    @property
    def is_last(self) -> bool:
        return self.hop == self.hops - 1


@dataclass(frozen=True, slots=True)
class Half:
    """One side's signed receipt about the other. Made by `sign_half` and `verify_half` only."""

    receipt: Receipt
    issuer: PeerId
    subject: PeerId
    original: bytes
    """The credential."""


def nonce_of(session: bytes) -> str:
    """Return the nonce of both halves. Not the session's id: that salts the digests, and stays
    with those who took part.
    """
    digest = hashlib.sha256(_NONCE_SEED + session).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def digest_of(data: bytes) -> str:
    """Return `sha256:` and the hex digest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_intent(intent: bytes) -> str:
    """Return what a half calls the intent of an OPEN; empty where there was none."""
    return digest_of(intent) if intent else ""


def digest_of_sampling(sampling: Mapping[str, Any] | None) -> str:
    """Return what a half calls sampling parameters; empty where the hop does not sample."""
    return "" if sampling is None else digest_of(encode_sampling(sampling))


# One half.


def receipt_of(account: Account, cover: Cover) -> Receipt:
    """Return what an account says of the steps that `cover` has; of all that it knows, where it
    does not reach back so far.
    """
    taken = account.taken.at(cover) or account.taken.last
    given = account.given.at(cover) or account.given.last
    return _receipt(account, taken, given)


def _receipt(account: Account, taken: Mark, given: Mark) -> Receipt:
    first_ms = None
    if account.first_s is not None:
        elapsed_s = max(0.0, account.finished_s - account.started_s)
        first_ms = float(round(1000 * min(max(0.0, account.first_s), elapsed_s)))
    return Receipt(
        nonce=nonce_of(account.session),
        role=account.role,
        model=account.handle,
        block_start=account.layers.start,
        block_stop=account.layers.stop,
        input_sha256=taken.digest.hex(),
        output_sha256=given.digest.hex(),
        prompt_tokens=taken.prompt_tokens,
        answer_tokens=taken.answer_tokens,
        started_s=account.started_s,
        finished_s=max(account.started_s, account.finished_s),
        outcome=account.outcome,
        first_token_ms=first_ms,
        intent_sha256=account.intent_digest.removeprefix("sha256:") or None,
        parameters_sha256=account.parameters_digest.removeprefix("sha256:") or None,
    )


def sign_half(receipt: Receipt, about: PeerId, secret: SecretKey, now_s: float) -> Half:
    """Sign a receipt about `about`. Raises SchemaViolated for claims that no receipt can have."""
    issuer = did_key(secret.public)
    issued_s = max(now_s, receipt.finished_s)
    frame = Frame(issuer, did_key(parse_peer_id(about)), issued_s, issued_s + RECEIPT_LIFE_S)
    options = ProofOptions(EDDSA_JCS, verification_method(issuer), created_s=issued_s)
    original = encode_document(add_proof(build_inference_receipt(frame, receipt), options, secret))
    return Half(receipt, peer_id(secret.public), about, original)


def verify_half(data: bytes, *, issuer: PeerId, subject: PeerId, now_s: float) -> Half:
    """Return the half that `issuer` signed about `subject`. Raises PeerMisbehaved, naming the
    issuer.

    A bounded amount of work for any bytes: what no half of ours has (other contexts, other proofs,
    a status) is refused before anything is canonicalised, and nothing is looked up.
    """
    try:
        document = parse_document(data, bytes_max=RECEIPT_BYTES_MAX)
        if document.get("issuer") != did_key(parse_peer_id(issuer)):
            raise PolicyRefused("somebody else signed it")
        verified = _verify(data, document, subject, now_s)
        return Half(_receipt_in(verified), issuer, subject, verified.original)
    except CredentialsError as error:
        why = f"the receipt of {issuer} does not count: {error!s:.200}"
        raise PeerMisbehaved(why, peer=issuer) from error


def verify_receipt_of(data: bytes, subject: PeerId, now_s: float) -> VerifiedCredential:
    """Return what whoever asked `subject` for something signed about it. Raises CredentialsError.

    As bounded as `verify_half`. That somebody signed it is all that it says: what it is worth
    depends on who that is.
    """
    document = parse_document(data, bytes_max=RECEIPT_BYTES_MAX)
    verified = _verify(data, document, subject, now_s)
    if _receipt_in(verified).role != "requester":
        raise PolicyRefused("a hop signed it")
    if verified.issuer == verified.subject:
        raise PolicyRefused("it is by the one whom it is about")
    return verified


def _verify(data: bytes, document: Document, subject: PeerId, now_s: float) -> VerifiedCredential:
    proof, about = document.get("proof"), document.get("credentialSubject")
    if not document.keys() <= _FIELDS:
        raise PolicyRefused("it has properties that no receipt has")
    if document.get("@context") != [BASE_CONTEXT_URL, CONTEXT_URL] or (
        document.get("type") != ["VerifiableCredential", KIND]
    ):
        raise PolicyRefused(f"it is no {KIND}")
    if not isinstance(proof, dict) or proof.get("cryptosuite") != EDDSA_JCS:
        raise PolicyRefused(f"it has not one proof, by {EDDSA_JCS}")
    if not isinstance(about, dict) or about.get("id") != did_key(parse_peer_id(subject)):
        raise PolicyRefused("it is about somebody else")
    verified = verify_credential(data, Environment(now_s=now_s))
    NODE_POLICY.require(verified)
    starts_s, ends_s = verified.view.valid_from_s, verified.view.valid_until_s
    if starts_s is None or ends_s is None or ends_s - starts_s > RECEIPT_LIFE_S + CLOCK_SKEW_S:
        raise PolicyRefused("it is not valid for a year at most")
    return verified


def _receipt_in(verified: VerifiedCredential) -> Receipt:
    """Read the claims, which are as the schema has them."""
    claims = verified.document["credentialSubject"]
    first_ms = claims.get("firstTokenMilliseconds")
    return Receipt(
        nonce=claims["requestNonce"],
        role=claims["receiptRole"],
        model=claims["modelHandle"],
        block_start=int(claims["blockStart"]),
        block_stop=int(claims["blockStop"]),
        input_sha256=_hex(claims["inputDigest"]),
        output_sha256=_hex(claims["outputDigest"]),
        prompt_tokens=int(claims["promptTokenCount"]),
        answer_tokens=int(claims["answerTokenCount"]),
        started_s=parse_time(claims["startedAt"]),
        finished_s=parse_time(claims["finishedAt"]),
        outcome=claims["inferenceOutcome"],
        first_token_ms=None if first_ms is None else float(first_ms),
        intent_sha256=_hex(claims.get("intentDigest", "")) or None,
        parameters_sha256=_hex(claims.get("parametersDigest", "")) or None,
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


# Two halves, and the halves of a path.


def contradictions(account: Account, own: Receipt, other: Receipt) -> tuple[str, ...]:
    """Return in what the other side's receipt contradicts this one's, in words; () if in nothing.

    account: this side's, which `own` was made from. Digests are compared only where both sides know
    them: what goes into the first hop and what comes out of the last one.
    """
    found = [
        f"{name}: {_show(mine)} here, {_show(theirs)} there"
        for name, mine, theirs in _pairs(account, own, other)
        if mine != theirs
    ]
    requester, hop = (own, other) if account.role == "requester" else (other, own)
    if requester.role != "requester" or hop.role != "hop":
        found.append(f"role: both are {other.role}")
    if hop.outcome == "completed" and requester.outcome != "completed":
        # The hop knows only what the requester told it when it closed the session.
        found.append(f"outcome: {hop.outcome} at the hop, {requester.outcome} at the requester")
    if hop.started_s < requester.started_s - CLOCK_SKEW_S or (
        hop.finished_s > requester.finished_s + CLOCK_SKEW_S
    ):
        found.append("times: the hop was at it while the requester was not")
    return tuple(found)


def _pairs(account: Account, own: Receipt, other: Receipt) -> list[tuple[str, Any, Any]]:
    pairs: list[tuple[str, Any, Any]] = [
        ("nonce", own.nonce, other.nonce),
        ("model", own.model, other.model),
        ("first layer", own.block_start, other.block_start),
        ("end of layers", own.block_stop, other.block_stop),
        ("intent", own.intent_sha256, other.intent_sha256),
        ("parameters", own.parameters_sha256, other.parameters_sha256),
        ("tokens of the prompt", own.prompt_tokens, other.prompt_tokens),
        ("tokens of the answer", own.answer_tokens, other.answer_tokens),
    ]
    if account.is_first:
        pairs.append(("what went in", own.input_sha256, other.input_sha256))
    if account.is_last:
        pairs.append(("what came out", own.output_sha256, other.output_sha256))
    return pairs


def check_chain(hops: Sequence[Receipt | None]) -> tuple[int, ...]:
    """Return the hops k whose output is not what hop k + 1 says that it got: one of the two says
    what was not, and which is not known. None: a hop without a receipt, which proves nothing.
    """
    return tuple(
        number
        for number, (one, following) in enumerate(pairwise(hops))
        if one is not None and following is not None and one.output_sha256 != following.input_sha256
    )


def _show(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:16]}..."
