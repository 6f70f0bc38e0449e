"""One function per credential type of ours: claims as arguments with their units.

Thin over kinds.build_credential, which checks everything; BindingVC is in binding.py. Times are
Unix seconds here and text in the document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from credentials.document import Document, encode_time
from credentials.kinds import KINDS, build_credential


@dataclass(frozen=True, slots=True)
class Frame:
    """What every credential has: who says it, of whom, from when to when, and its status.

    `valid_until_s` None: the default of the type. `status`: of `status.build_status_entry`.
    """

    issuer: str
    subject: str
    valid_from_s: float
    valid_until_s: float | None = None
    credential_id: str | None = None
    status: Sequence[Document] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """When something was observed, in Unix seconds."""

    start_s: float
    end_s: float

    def claims(self) -> dict[str, Any]:
        return {"windowStart": encode_time(self.start_s), "windowEnd": encode_time(self.end_s)}


def build_fiduciary_pledge(
    frame: Frame, *, name: str, sha256: str, url: str | None = None
) -> Document:
    """Return a FiduciaryPledgeVC. `sha256`: hex digest of the text that was pledged."""
    return _build(
        "FiduciaryPledgeVC",
        frame,
        {"pledgeName": name, "pledgeHash": f"sha256:{sha256}", "pledgeUrl": url},
    )


def build_verified_node(
    frame: Frame,
    *,
    checks: Iterable[str],
    checked_s: float,
    operator: str | None = None,
    evidence_sha256: str | None = None,
) -> Document:
    """Return a VerifiedNodeVC. `operator`: DID of who answers for the node."""
    return _build(
        "VerifiedNodeVC",
        frame,
        {
            "checksPassed": sorted(checks),
            "checkedAt": encode_time(checked_s),
            "nodeOperator": operator,
            "evidenceDigest": None if evidence_sha256 is None else f"sha256:{evidence_sha256}",
        },
    )


def build_uptime(
    frame: Frame,
    window: Window,
    *,
    probes: int,
    successes: int,
    median_round_trip_ms: float | None = None,
) -> Document:
    """Return an UptimeVC; the ratio is computed."""
    return _build(
        "UptimeVC",
        frame,
        {
            **window.claims(),
            "probeCount": probes,
            "successCount": successes,
            "medianRoundTripMilliseconds": median_round_trip_ms,
        },
    )


def build_throughput(
    frame: Frame,
    window: Window,
    *,
    model: str,
    block_start: int,
    block_stop: int,
    phase: Literal["decode", "prefill"],
    tokens_per_s: float,
    samples: int,
    claimed_tokens_per_s: float | None = None,
    model_name: str | None = None,
) -> Document:
    """Return a ThroughputVC. `model`: its handle, `sha256:...`; blocks are half-open."""
    return _build(
        "ThroughputVC",
        frame,
        {
            "modelHandle": model,
            "modelName": model_name,
            "blockStart": block_start,
            "blockStop": block_stop,
            "measuredPhase": phase,
            "tokensPerSecond": tokens_per_s,
            "claimedTokensPerSecond": claimed_tokens_per_s,
            "sampleCount": samples,
            **window.claims(),
        },
    )


def build_event_attendee(
    frame: Frame, *, event: str, date: str, location: str | None = None, role: str | None = None
) -> Document:
    """Return an EventAttendeeVC. `date`: the first day, YYYY-MM-DD."""
    return _build(
        "EventAttendeeVC",
        frame,
        {"eventName": event, "eventDate": date, "eventLocation": location, "attendeeRole": role},
    )


def build_peer_endorsement(
    frame: Frame,
    window: Window,
    *,
    interactions: int,
    successes: int | None = None,
    statement: str | None = None,
) -> Document:
    """Return a PeerEndorsementVC."""
    return _build(
        "PeerEndorsementVC",
        frame,
        {
            "interactionCount": interactions,
            "successCount": successes,
            **window.claims(),
            "endorsementStatement": statement,
        },
    )


def build_membership(
    frame: Frame, *, swarm: str, role: str, name: str | None = None, since: str | None = None
) -> Document:
    """Return a MembershipVC. `since`: the first day, YYYY-MM-DD."""
    return _build(
        "MembershipVC",
        frame,
        {"swarmId": swarm, "swarmName": name, "memberRole": role, "memberSince": since},
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one inference was, without its content. Digests are hex SHA-256, blocks half-open."""

    nonce: str
    """base64url, the same on both sides."""
    role: Literal["requester", "hop"]
    """Which side the issuer was."""
    model: str
    block_start: int
    block_stop: int
    input_sha256: str
    output_sha256: str
    prompt_tokens: int
    answer_tokens: int
    started_s: float
    finished_s: float
    outcome: Literal["completed", "cancelled", "refused", "failed", "timed-out"]
    first_token_ms: float | None = None
    intent_sha256: str | None = None
    parameters_sha256: str | None = None


def build_inference_receipt(frame: Frame, receipt: Receipt) -> Document:
    """Return an InferenceReceiptVC of one side about the other."""
    digests = {
        "intentDigest": receipt.intent_sha256,
        "parametersDigest": receipt.parameters_sha256,
        "inputDigest": receipt.input_sha256,
        "outputDigest": receipt.output_sha256,
    }
    return _build(
        "InferenceReceiptVC",
        frame,
        {
            "requestNonce": receipt.nonce,
            "receiptRole": receipt.role,
            "modelHandle": receipt.model,
            "blockStart": receipt.block_start,
            "blockStop": receipt.block_stop,
            **{name: f"sha256:{hexes}" for name, hexes in digests.items() if hexes is not None},
            "promptTokenCount": receipt.prompt_tokens,
            "answerTokenCount": receipt.answer_tokens,
            "startedAt": encode_time(receipt.started_s),
            "finishedAt": encode_time(receipt.finished_s),
            "firstTokenMilliseconds": receipt.first_token_ms,
            "inferenceOutcome": receipt.outcome,
        },
    )


def _build(name: str, frame: Frame, claims: dict[str, Any]) -> Document:
    """Build a credential of the type; a claim that is None is left out."""
    return build_credential(
        KINDS[name],
        frame.issuer,
        frame.subject,
        {key: value for key, value in claims.items() if value is not None},
        valid_from_s=frame.valid_from_s,
        valid_until_s=frame.valid_until_s,
        credential_id=frame.credential_id,
        status=frame.status,
    )
