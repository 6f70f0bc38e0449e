"""Owners and nodes: a BindingVC is an owner's word that a node is theirs.

It is the owner's word only: anybody can sign one about any node. A node agrees by presenting it
(the presentation is signed by the node), so count those that the node itself presented. Unbinding
is revoking the BindingVC by its status list; the owner's key and its other bindings stay as they
are. Signs and verifies nothing: builds what is to be signed, reads what was verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from credentials.did import parse_did
from credentials.document import Document
from credentials.errors import BindingInvalid, IdentifierInvalid, KeyInvalid
from credentials.kinds import KINDS, build_credential, kind_of
from credentials.limits import CLOCK_SKEW_S
from credentials.policy import NODE_POLICY
from credentials.verified import VerifiedCredential

KIND = KINDS["BindingVC"]


@dataclass(frozen=True, slots=True)
class Binding:
    """An owner's word that a node is theirs, as verified at one moment."""

    owner: str
    node: str
    label: str
    owner_name: str | None
    credential_id: str | None
    valid_from_s: float
    valid_until_s: float | None

    def holds(self, now_s: float, skew_s: float = CLOCK_SKEW_S) -> bool:
        """Answer whether now is within its validity period."""
        started = self.valid_from_s <= now_s + skew_s
        return started and (self.valid_until_s is None or now_s - skew_s < self.valid_until_s)


def build_binding(
    owner: str,
    node: str,
    label: str,
    *,
    valid_from_s: float,
    valid_until_s: float | None = None,
    owner_name: str | None = None,
    credential_id: str | None = None,
    status: Sequence[Document] = (),
) -> Document:
    """Return the unsigned BindingVC, for the owner's key to sign.

    `valid_until_s` None: a year. Raises BindingInvalid for a node that owns itself, SchemaViolated
    for a label or name that is none.
    """
    if is_same_key(owner, node):
        raise BindingInvalid("an owner is another key than its nodes'; make one for the owner")
    claims = {"nodeLabel": label} | ({} if owner_name is None else {"ownerName": owner_name})
    return build_credential(
        KIND,
        owner,
        node,
        claims,
        valid_from_s=valid_from_s,
        valid_until_s=valid_until_s,
        credential_id=credential_id,
        status=status,
    )


def read_binding(verified: VerifiedCredential) -> Binding:
    """Return what a verified BindingVC says.

    Raises BindingInvalid for another credential, PolicyRefused for one that a node does not count:
    untrusted contexts, a status that is not known.
    """
    if kind_of(verified.document) is not KIND:
        raise BindingInvalid(f"a credential of {', '.join(verified.types):.100} binds no node")
    NODE_POLICY.require(verified)
    node, view = verified.subject, verified.view
    if node is None or view.valid_from_s is None:
        raise BindingInvalid("the binding names no node, or no time from which it holds")
    if is_same_key(verified.issuer, node):
        raise BindingInvalid("the node says of itself that it is its owner's")
    subject = verified.document["credentialSubject"]
    subject = subject[0] if isinstance(subject, list) else subject
    return Binding(
        verified.issuer,
        node,
        subject["nodeLabel"],
        subject.get("ownerName"),
        verified.id,
        view.valid_from_s,
        view.valid_until_s,
    )


def owner_of(node: str, bindings: Iterable[Binding], *, now_s: float) -> Binding | None:
    """Return the binding in force of a node, the latest of several; None: it has no owner.

    `bindings`: those that the node itself presented.
    """
    own = [each for each in bindings if is_same_key(each.node, node) and each.holds(now_s)]
    return max(own, key=lambda each: (each.valid_from_s, each.owner), default=None)


def is_same_key(one: str, other: str) -> bool:
    """Answer whether two DIDs are of one key, be they written as did:key or by PeerId."""
    if one == other:
        return True
    try:
        return parse_did(one) == parse_did(other)
    except (IdentifierInvalid, KeyInvalid):
        return False
