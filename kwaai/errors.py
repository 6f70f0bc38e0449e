"""Every error that a person or a program can meet, by who is at fault. One table: code, exit code,
HTTP status.

Does not print, log or translate. A message says what happened, names the thing, and says what to do
next.
"""

from __future__ import annotations

from typing import ClassVar


class KwaaiError(Exception):
    """Base of all. `code` is stable: programs may match on it."""

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 70
    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """The request field or option at fault, where there is one."""
        self.retry_after_s = retry_after_s


class UserError(KwaaiError):
    """The caller asked for something that cannot be: fix the request, then try again."""

    code, exit_code, http_status = "invalid_request", 2, 400


class ConfigError(UserError):
    code, exit_code = "config_invalid", 78


class ModelNotFound(UserError):
    code, exit_code, http_status = "model_not_found", 3, 404


class ModelUnsupported(UserError):
    code, exit_code, http_status = "model_unsupported", 4, 422


class AccessDenied(UserError):
    """A hub wants a token, or a licence accepted, before it hands out a model."""

    code, exit_code, http_status = "model_access_denied", 77, 403


class ContextExceeded(UserError):
    code, http_status = "context_length_exceeded", 400


class BodyTooLarge(UserError):
    code, http_status = "request_too_large", 413


class Unauthorized(UserError):
    code, exit_code, http_status = "invalid_api_key", 77, 401


class FileCorrupt(KwaaiError):
    """A file on disk is not what it should be. It has been named, and is never loaded."""

    code, exit_code, http_status = "file_corrupt", 65, 500


class PeerError(KwaaiError):
    """Another machine (a hub, a peer) answered wrongly, or not at all. Becomes evidence."""

    code, exit_code, http_status = "peer_failed", 69, 502

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        peer: str | None = None,
        accuser: str | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.peer = peer
        """The PeerId of whoever is at fault, where it is known."""
        self.accuser = accuser
        """Who says so, where this node has not seen it itself: one of the two is at fault."""


class DownloadFailed(PeerError):
    code = "download_failed"


class ResourceError(KwaaiError):
    """This machine lacks something now: memory, disk, a port, a free slot. Says when to retry, if
    that helps.
    """

    code, exit_code, http_status = "resource_exhausted", 75, 503


class OutOfMemory(ResourceError):
    code = "insufficient_memory"


class DiskFull(ResourceError):
    code, exit_code, http_status = "disk_full", 74, 507


class PortInUse(ResourceError):
    code = "port_in_use"


class Locked(ResourceError):
    code = "locked"


class Busy(ResourceError):
    code, http_status = "busy", 429


class WorkerLost(ResourceError):
    """A slice's process died or stopped answering: a request is lost, the node is not."""

    code = "worker_lost"


def error_from_code(code: str, message: str, param: str | None = None) -> KwaaiError:
    """Make the error that has this stable code; one that is not known here becomes a KwaaiError."""
    kinds = [KwaaiError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    # Bases come first: the last match is the leaf that gave itself this code.
    kind = next((k for k in reversed(kinds) if k.code == code and "code" in vars(k)), KwaaiError)
    return kind(message, param=param)


class IdentityMissing(UserError):
    """The node has no identity key yet."""

    code, exit_code, http_status = "identity_missing", 78, 503


# HTTP only: what a route refuses before it looks at the request's content.
class Forbidden(UserError):
    """A web page, or a name that is not this machine, tries to drive the node."""

    code, http_status = "forbidden", 403


class RouteNotFound(UserError):
    code, http_status = "route_not_found", 404


class MethodNotAllowed(UserError):
    code, http_status = "method_not_allowed", 405


class BodyTimeout(UserError):
    code, http_status = "request_timeout", 408


class MediaTypeUnsupported(UserError):
    code, http_status = "unsupported_media_type", 415


# Between nodes. The message names the peer and the reason; `peer` is its PeerId, for the record.
class PeerUnreachable(PeerError):
    """No address of the peer answers."""

    code, http_status = "peer_unreachable", 503


class PeerLost(PeerError):
    """The connection to a peer ended while it was needed."""

    code = "peer_lost"


class PeerStalled(PeerError):
    """A peer is connected, and does not answer in time."""

    code, http_status = "peer_stalled", 504


class PeerMisbehaved(PeerError):
    """A peer answered with what the protocol does not allow: shape, order, version, signature."""

    code = "peer_misbehaved"


class PeerRefused(PeerError):
    """A peer said no: busy, not held, draining, version, too large."""

    code, http_status = "peer_refused", 503


class PathMissing(ResourceError):
    """No set of online peers covers all layers of the model."""

    code = "path_missing"


class IntentUnmet(PathMissing):
    """There are paths, and none meets what was asked; the message says what would."""

    code = "intent_unmet"


class NodeNotRunning(UserError):
    """The command asks the running node of this home, and there is none."""

    code, exit_code = "node_not_running", 69


class NodeRunning(UserError):
    """There is a node running in this home already."""

    code, exit_code, http_status = "node_running", 75, 409


class OutputForgotten(ResourceError):
    """A repeated step asks for an output that this hop keeps no more: run the request anew."""

    code = "output_forgotten"


# Credentials: what `credentials` found, as faces tell it. The message is the finding.
class CredentialRefused(UserError):
    """A credential, presentation or claim that was looked at and does not hold."""

    code, exit_code, http_status = "credential_invalid", 1, 400

    def __init__(
        self, message: str, *, param: str | None = None, reason: str = "", problem: str = ""
    ) -> None:
        super().__init__(message, param=param)
        self.reason = reason
        """The stable code of the finding, such as `credential_revoked`."""
        self.problem = problem
        """The standards' problem type, a URL."""


class CredentialUnknown(CredentialRefused):
    """A credential that cannot be judged here: no status list, DID document or context for it."""

    code, exit_code, http_status = "credential_unverified", 69, 503


class InputMissing(UserError):
    """A file named on the command line is not there or cannot be read."""

    code, exit_code = "input_missing", 66


# Identity and wallet.
class IdentitySealed(UserError):
    """The identity or owner key is sealed, and no passphrase was given."""

    code, exit_code, http_status = "identity_sealed", 77, 503


class PassphraseWrong(UserError):
    """A sealed key, or a backup, that this passphrase does not open."""

    code, exit_code, http_status = "passphrase_wrong", 77, 403


class IdentityExists(UserError):
    """There is a key already where another one was to be put."""

    code, exit_code, http_status = "identity_exists", 73, 409


class OwnerMissing(UserError):
    """There is no owner key on this machine."""

    code, exit_code, http_status = "owner_missing", 78, 503


class WalletLocked(UserError):
    """Neither this identity nor this passphrase opens the wallet."""

    code, exit_code, http_status = "wallet_locked", 77, 503


class WalletFull(ResourceError):
    """The wallet, or one of its registers, holds as much as it may."""

    code, http_status = "wallet_full", 507


class CredentialMissing(UserError):
    """No credential, request, status entry or status list of that name is kept here."""

    code, exit_code, http_status = "credential_not_found", 66, 404


class StatusPermanent(UserError):
    """A revocation cannot be taken back."""

    code, http_status = "status_permanent", 409


class RequestClosed(UserError):
    """A credential request or offer that somebody has decided already."""

    code, http_status = "request_closed", 409


class TrustGraphFull(ResourceError):
    """The trust graph holds as many endorsements as it may."""

    code, http_status = "trust_graph_full", 507


# Circuits.
class CircuitMissing(UserError):
    """No circuit of that name is open: it was closed, its time is over, or the node restarted."""

    code, exit_code, http_status = "circuit_not_found", 66, 404


class CircuitBroken(ResourceError):
    """No path meets any more what a circuit was made for; the message says why."""

    code = "circuit_broken"


# Private knowledge (VPK).
class StorageFull(ResourceError):
    """A host has no room, or the tenant's quota there is used up."""

    code, http_status = "storage_full", 507


class ManifestConflict(ResourceError):
    """Another device of the same owner has published since: take its changes in, then try again."""

    code, http_status = "manifest_conflict", 409

    current: bytes = b""
    """The manifest that is there, as it came."""


class BaseMissing(UserError):
    code, exit_code, http_status = "base_not_found", 66, 404


class DocumentMissing(UserError):
    code, exit_code, http_status = "document_not_found", 66, 404


class BaseExists(UserError):
    code, http_status = "base_exists", 409


class EmbedderMismatch(UserError):
    """A base's vectors were made by another model: they cannot be compared."""

    code, http_status = "embedder_mismatch", 409


class EmbedderMissing(ResourceError):
    """Nothing on this machine makes vectors; full-text search works without."""

    code, http_status = "embedder_missing", 503


class SealBroken(PeerError):
    """Bytes that came back are not what was sealed: altered, of another place, or another key."""

    code, exit_code = "seal_broken", 65


class StorageRefused(UserError):
    """A tenant's request that its signature, its rights or the host's rules do not allow."""

    code, exit_code, http_status = "storage_refused", 77, 403


class TenantMissing(UserError):
    """No tenant of that id has vectors here."""

    code, exit_code, http_status = "tenant_not_found", 66, 404


class DocumentInvalid(UserError):
    """A file that no text can be taken from."""

    code, exit_code, http_status = "document_invalid", 65, 422


class TooFewHosts(ResourceError):
    """Not enough hosts, of enough different owners and tiers, for what is asked."""

    code, http_status = "too_few_hosts", 503


class ManifestInvalid(PeerError):
    """A manifest that is not the tenant's, not of this base, or older than one already seen."""

    code, exit_code = "manifest_invalid", 65


class RecordInvalid(KwaaiError):
    """An object that opens with the right key and is not what this version writes: whoever sealed
    it is at fault, and no host.
    """

    code, exit_code = "record_invalid", 65
