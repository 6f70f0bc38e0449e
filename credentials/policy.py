"""What a verifier demands of a credential that holds: a value that raises.

Verifies nothing: it judges what `verify` found. That a credential holds says who said something;
whether that is enough is decided here, by the verifier, and never by the credential.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from credentials.errors import PolicyRefused
from credentials.kinds import kind_of
from credentials.verified import VerifiedCredential, VerifiedPresentation


@dataclass(frozen=True, slots=True)
class Policy:
    """Demands on a verified credential. The defaults are those of a node."""

    types: frozenset[str] = frozenset()
    """It has one of these types; empty: any type."""
    issuers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Type -> the DIDs that may issue it. A credential with a type that is listed here comes from
    one of its issuers; of several such types, from an issuer of each."""
    subjects: frozenset[str] = frozenset()
    """All of its subjects are among these; empty: any subjects."""
    contexts_trusted: bool = True
    """Its contexts are trusted: its claims mean what they say."""
    status_known: bool = True
    """If it has a status, the status was looked up."""
    schema_known: bool = False
    """If it names schemas, all of them were known."""
    age_s_max: float | None = None
    """How long ago its validFrom may be; one without validFrom is refused then."""
    lifetime_s_max: float | None = None
    """How long it may be valid in all; one without an end is refused then."""

    def require(self, verified: VerifiedCredential) -> None:
        """Raise PolicyRefused, naming the first demand that is not met."""
        if verified.unmet:
            raise PolicyRefused(f"it did not hold in all: {verified.unmet[0][1]}")
        if self.contexts_trusted and not verified.contexts_trusted:
            raise PolicyRefused(f"its contexts are not trusted: {verified.contexts_reason}")
        if self.status_known and verified.status == "unknown":
            raise PolicyRefused(f"its status is not known: {verified.status_reason}")
        if self.schema_known and any(schema.outcome != "passed" for schema in verified.schemas):
            raise PolicyRefused("one of the schemas it names is not known")
        if self.types and self.types.isdisjoint(_names(verified)):
            raise PolicyRefused(f"its type is none of {', '.join(sorted(self.types))}")
        self._require_parties(verified)
        self._require_times(verified)

    def require_presentation(self, verified: VerifiedPresentation) -> None:
        """Raise PolicyRefused for the presentation's contexts or any of its credentials."""
        if self.contexts_trusted and not verified.contexts_trusted:
            raise PolicyRefused(
                f"the presentation's contexts are not trusted: {verified.contexts_reason}"
            )
        for credential in verified.credentials:
            self.require(credential)

    def _require_parties(self, verified: VerifiedCredential) -> None:
        for name in _names(verified):
            allowed = self.issuers.get(name)
            if allowed is not None and verified.issuer not in allowed:
                raise PolicyRefused(f"{verified.issuer:.200} may not issue {name:.80} here")
        if self.subjects:
            named, subjects = verified.view.subjects, verified.document["credentialSubject"]
            count = len(subjects) if isinstance(subjects, list) else 1
            if len(named) != count or not self.subjects.issuperset(named):
                raise PolicyRefused("it is about somebody else")

    def _require_times(self, verified: VerifiedCredential) -> None:
        starts_s, ends_s = verified.view.valid_from_s, verified.view.valid_until_s
        if self.age_s_max is not None and (
            starts_s is None or verified.verified_s - starts_s > self.age_s_max
        ):
            raise PolicyRefused(f"it is older than {self.age_s_max:.0f} s, or says not how old")
        if self.lifetime_s_max is not None and (
            starts_s is None or ends_s is None or ends_s - starts_s > self.lifetime_s_max
        ):
            raise PolicyRefused(f"it is valid for longer than {self.lifetime_s_max:.0f} s")


def _names(verified: VerifiedCredential) -> tuple[str, ...]:
    """Return its types, and the type of ours that one of them is read as."""
    kind = kind_of(verified.document)
    return verified.types if kind is None else (*verified.types, kind.name)


NODE_POLICY: Final = Policy()
"""What a node demands of any credential before it counts: trusted contexts, known status."""
