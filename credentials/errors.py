"""The errors of this package, a tree of its own. Every leaf has a stable `code`.

Does not know exit codes, HTTP statuses or files: the caller says whose file it was and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class CredentialsError(ValueError):
    """Base of all."""

    code: ClassVar[str] = "credentials_invalid"


class KeyInvalid(CredentialsError):
    """Bytes that are no Ed25519 key, or not the pair they claim to be."""

    code = "key_invalid"


class IdentifierInvalid(CredentialsError):
    """A PeerId or DID that does not name an Ed25519 key."""

    code = "identifier_invalid"


class SignatureInvalid(CredentialsError):
    """A signature that the key did not make over these bytes."""

    code = "signature_invalid"
