"""The errors of this package, a tree of its own. Every leaf has a stable `code`.

Does not know exit codes, HTTP statuses or files: the caller says whose file it was and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar

_VCDM = "https://www.w3.org/TR/vc-data-model#"
_SECURITY = "https://w3id.org/security#"
_STATUS = "https://www.w3.org/ns/credentials/status-list#"


class CredentialsError(ValueError):
    """Base of all. `code` is ours and stable, `problem` the standards' problem type (a URL)."""

    code: ClassVar[str] = "credentials_invalid"
    problem: ClassVar[str] = _VCDM + "MALFORMED_VALUE_ERROR"

    steps: tuple[Any, ...] = ()
    """What a verification had checked when it raised this: `verified.Step`s."""


class KeyInvalid(CredentialsError):
    """Bytes that are no Ed25519 key, or not the pair they claim to be."""

    code = "key_invalid"


class IdentifierInvalid(CredentialsError):
    """A PeerId or DID that does not name an Ed25519 key."""

    code = "identifier_invalid"


class KeyLengthInvalid(IdentifierInvalid):
    """A Multikey with too few or too many bytes."""

    code = "key_length_invalid"


class KeyTypeUnsupported(IdentifierInvalid):
    """A Multikey of another type than Ed25519."""

    code = "key_type_unsupported"


class SignatureInvalid(CredentialsError):
    """A signature that the key did not make over these bytes."""

    code = "signature_invalid"


class DidNotFound(CredentialsError):
    """A DID whose document nobody here has."""

    code = "did_not_found"


class DidMethodUnsupported(CredentialsError):
    """A DID of a method that is not resolved here."""

    code = "did_method_unsupported"


class DidDocumentInvalid(CredentialsError):
    """A DID document that contradicts its DID or the DID Core data model."""

    code = "did_document_invalid"
    problem = _SECURITY + "INVALID_CONTROLLED_IDENTIFIER_DOCUMENT"


class DocumentInvalid(CredentialsError):
    """Bytes or a value that are no acceptable JSON document: syntax, duplicate keys, depth, size,
    numbers that JCS cannot hold.
    """

    code = "document_invalid"
    problem = _VCDM + "PARSING_ERROR"


class ContextUnknown(CredentialsError):
    """A JSON-LD context that is not pinned here. It is never downloaded."""

    code = "context_unknown"


class TermUndefined(CredentialsError):
    """A term, type or relative id that no context defines: a signature would not cover it."""

    code = "term_undefined"
    problem = _SECURITY + "DATA_LOSS_DETECTION_ERROR"


class GraphTooComplex(CredentialsError):
    """A graph whose canonical form costs more work than is allowed (a poison graph)."""

    code = "graph_too_complex"
    problem = _SECURITY + "PROOF_TRANSFORMATION_ERROR"


class ModelInvalid(CredentialsError):
    """A document that breaks the VC data model."""

    code = "credential_malformed"


class ProofInvalid(CredentialsError):
    """A proof that does not hold. Base of what can be wrong with one."""

    code = "proof_invalid"
    problem = _SECURITY + "PROOF_VERIFICATION_ERROR"


class ProofMissing(ProofInvalid):
    """A document that nobody signed, or not for this purpose."""

    code = "proof_missing"


class ProofUnsupported(ProofInvalid):
    """A proof of a type or cryptosuite that is not verified here."""

    code = "proof_unsupported"


class MethodNotAuthorized(ProofInvalid):
    """A verification method that its controller's document does not list for the purpose."""

    code = "method_not_authorized"
    problem = _SECURITY + "INVALID_VERIFICATION_METHOD"


class ProofExpired(ProofInvalid):
    """A proof that has expired, or was made in the future."""

    code = "proof_expired"


class ProofNotMade(CredentialsError):
    """Options with which no proof can be made."""

    code = "proof_not_made"
    problem = _SECURITY + "PROOF_GENERATION_ERROR"


class ChallengeWrong(ProofInvalid):
    """A presentation without this verifier's challenge, or with one that was used before."""

    code = "challenge_wrong"
    problem = _SECURITY + "INVALID_CHALLENGE_ERROR"


class DomainWrong(ProofInvalid):
    """A presentation made for somebody else."""

    code = "domain_wrong"
    problem = _SECURITY + "INVALID_DOMAIN_ERROR"


class HolderWrong(ProofInvalid):
    """A presentation by somebody who is not the subject of what they present."""

    code = "holder_wrong"


class CredentialExpired(CredentialsError):
    """A credential after its validUntil."""

    code = "credential_expired"
    problem = _VCDM + "RANGE_ERROR"


class CredentialNotYetValid(CredentialsError):
    """A credential before its validFrom."""

    code = "credential_not_yet_valid"
    problem = _VCDM + "RANGE_ERROR"


class CredentialRevoked(CredentialsError):
    """A credential that its issuer revoked: for good."""

    code = "credential_revoked"
    problem = _STATUS + "STATUS_VERIFICATION_ERROR"


class CredentialSuspended(CredentialsError):
    """A credential that its issuer suspended: for now."""

    code = "credential_suspended"
    problem = _STATUS + "STATUS_VERIFICATION_ERROR"


class StatusUnknown(CredentialsError):
    """A status list that could not be had, or is too old: neither valid nor invalid."""

    code = "status_unknown"
    problem = _STATUS + "STATUS_RETRIEVAL_ERROR"


class StatusListInvalid(CredentialsError):
    """A status list that is not the issuer's, not of this purpose, or not well formed."""

    code = "status_list_invalid"
    problem = _STATUS + "STATUS_VERIFICATION_ERROR"


class StatusListTooShort(StatusListInvalid):
    """A status list of less than 131,072 entries: it hides nobody in a crowd."""

    code = "status_list_too_short"
    problem = _STATUS + "STATUS_LIST_LENGTH_ERROR"


class StatusIndexBeyondEnd(StatusListInvalid):
    """A credential whose status would lie beyond the end of its list."""

    code = "status_index_beyond_end"
    problem = _VCDM + "RANGE_ERROR"


class StatusEntryInvalid(CredentialsError):
    """A `credentialStatus` that is no well-formed BitstringStatusListEntry."""

    code = "status_entry_invalid"


class SchemaViolated(CredentialsError):
    """A credential that its credentialSchema, or the schema of its type, refuses."""

    code = "schema_violated"


class SchemaInvalid(CredentialsError):
    """A JSON Schema that is none, or contradicts the `credentialSchema` that names it."""

    code = "schema_invalid"


class SchemaUnknown(CredentialsError):
    """A `credentialSchema` that nobody here has or can evaluate: neither valid nor invalid."""

    code = "schema_unknown"


class KindUnknown(CredentialsError):
    """A credential type that is none of this network's."""

    code = "kind_unknown"


class BindingInvalid(CredentialsError):
    """A credential that binds no node to its owner."""

    code = "binding_invalid"


class PolicyRefused(CredentialsError):
    """A credential that is valid, and not good enough for this verifier's policy."""

    code = "policy_refused"


class SealInvalid(CredentialsError):
    """A sealed secret that does not open: the wrong passphrase, or changed bytes."""

    code = "seal_invalid"


class WalletFull(CredentialsError):
    """A wallet in memory that may hold no more."""

    code = "wallet_full"
