"""`kwaainet identity owner create|bind|unbind|show`: the person or organisation behind nodes.

The owner has a key of its own. It certifies a node with a BindingVC and takes one back by its
status list; neither changes the owner's key or another node.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai.cli.credential_values import add_out, add_suite
from kwaai.cli.identity_passphrase import add_new_passphrase, add_passphrase
from kwaai.cli.parser import Commands, add_command, add_group

if TYPE_CHECKING:
    from kwaai.node.credential_office import CredentialOffice
    from kwaai.store.issued import IssuedCredential

SEALED_OWNER = "not known, the owner's key here is sealed: set KWAAINET_OWNER_PASSPHRASE_FILE"
"""What is said where the status lists that a certificate needs cannot be signed."""
_KIND = "BindingVC"
_CREATE_MORE = """\
The key is in owner.key in the node's home, and need not stay on a node: copy it where you certify
from. With --sealed it is under a passphrase, from --new-passphrase-file or the terminal; it is then
needed for bind, from KWAAINET_OWNER_PASSPHRASE, the file that KWAAINET_OWNER_PASSPHRASE_FILE names,
or the terminal. Whatever signs with it also signs the owner's status lists, which the node here
hands out for a month. A node that has one of the first two signs new ones by itself; else use the
key once a month, or nobody can tell whether a certificate is still in force.
"""
_BIND_MORE = """\
NODE is a DID, a PeerId, or self for this node. The credential is printed (or goes to --out): carry
it to the node and run `kwaainet credential import`. That of this node is in its wallet already.

for example:
  kwaainet identity owner bind --label "the one under the desk"
  kwaainet identity owner bind 12D3KooW... --label garage --out garage.json
"""


def add_parser(group: Commands) -> None:
    owner = add_group(group, "owner", help="the person or organisation that nodes belong to")
    parser = add_command(
        owner, "create", create, help="make an owner's key here", more=_CREATE_MORE
    )
    parser.add_argument("--sealed", action="store_true", help="put it under a passphrase")
    add_new_passphrase(parser)
    parser = add_command(
        owner, "bind", bind, help="certify that a node is this owner's", more=_BIND_MORE
    )
    parser.add_argument(
        "node", nargs="?", default="self", metavar="NODE", help="a DID or PeerId (default: self)"
    )
    parser.add_argument("--label", required=True, metavar="TEXT", help="what the owner calls it")
    parser.add_argument("--name", metavar="TEXT", help="what the owner is called")
    parser.add_argument("--expires", metavar="WHEN", help="90d, 2027-01-31 (default: the type's)")
    add_suite(parser)
    add_out(parser)
    add_passphrase(parser)
    parser = add_command(owner, "unbind", unbind, help="take a node's certificate back, for good")
    parser.add_argument("node", metavar="NODE", help="a DID, a PeerId, or self for this node")
    add_passphrase(parser)
    parser = add_command(owner, "show", show, help="print the owner and the nodes it certified")
    add_passphrase(parser)


def create(arguments: argparse.Namespace) -> int:
    from credentials.did import did_key
    from kwaai.cli.identity_passphrase import new_passphrase
    from kwaai.cli.output import note, print_json, print_pairs
    from kwaai.cli.session import open_home
    from kwaai.store.owner_file import create_owner, owner_key

    home, _ = open_home(arguments)
    path = owner_key(home)
    sealed = arguments.sealed or arguments.new_passphrase_file is not None
    passphrase = new_passphrase(arguments, "the owner key") if sealed else None
    did = did_key(create_owner(path, passphrase).public)
    if arguments.json:
        print_json({"did": did, "key_file": str(path), "sealed": sealed})
        return 0
    print_pairs([("Owner", did), ("Key file", f"{path}{' (sealed)' if sealed else ''}")])
    note("certify this node with: kwaainet identity owner bind --label NAME")
    return 0


def bind(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_issue import deliver_issued
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import check_output, now_s, read_did, read_expires

    check_output(arguments.out)
    expires_s = read_expires(arguments.expires, now_s())
    arguments.as_owner = True
    with office(arguments) as opened:
        node = read_did(arguments.node, "NODE", opened.did)
        claims = {"nodeLabel": arguments.label}
        if arguments.name is not None:
            claims["ownerName"] = arguments.name
        issued = opened.issue(
            _KIND,
            node,
            claims,
            expires_s=expires_s,
            suite=arguments.suite,
            as_owner=True,
        )
    deliver_issued(arguments, issued)
    return 0


def unbind(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import read_did
    from kwaai.cli.output import note, print_json
    from kwaai.errors import CredentialMissing

    with office(arguments) as opened:
        node = read_did(arguments.node, "NODE", opened.did)
        bindings = [row for row in _bindings(opened, node) if _is_in_force(row)]
        if not bindings:
            raise CredentialMissing(
                f"no certificate of {node} is in force here (see: kwaainet identity owner show)"
            )
        for row in bindings:
            opened.revoke(row.credential_id)
        is_sealed = opened.owner_did is None
    if is_sealed:
        note("others are told once the owner's key is open here, which signs its status lists")
    if arguments.json:
        print_json({"node": node, "revoked": [row.credential_id for row in bindings]})
    else:
        print(f"no longer certified: {node}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.output import print_json, print_pairs
    from kwaai.cli.session import open_home
    from kwaai.store.owner_file import OWNER, owner_key

    home, _ = open_home(arguments)
    path = owner_key(home)
    with office(arguments) as opened:
        bindings = _bindings(opened, None)
        known = opened.owner_binding()
        did = opened.owner_did
    is_sealed = did is None and path.exists()
    if is_sealed and bindings:
        did = bindings[0].issuer  # the key is sealed; what it signed names it
    belongs = None if known is None else {"did": known.owner, "label": known.label}
    if arguments.json:
        nodes = [_describe(row) for row in bindings]
        key = str(path) if path.exists() else None
        print_json({"did": did, "key_file": key, "this_node": belongs, "nodes": nodes})
        return 0
    whose = SEALED_OWNER if is_sealed else "nobody has certified it"
    if belongs is not None:
        whose = belongs["did"]
    print_pairs(
        [
            ("Owner here", did or ("sealed" if path.exists() else f"none; {OWNER.remedy}")),
            *([("Key file", str(path) + " (sealed)" * is_sealed)] if path.exists() else []),
            ("This node is of", whose),
        ]
    )
    if bindings:
        _print_bindings(bindings)
    return 0


def _print_bindings(bindings: list[IssuedCredential]) -> None:
    from kwaai.cli.credential_status import show_state
    from kwaai.cli.credential_values import show_time
    from kwaai.cli.output import one_line, print_table

    rows = [
        (
            one_line(_label(row)),
            row.subject,
            show_time(row.issued_s),
            show_time(row.valid_until_s),
            show_state(row),
        )
        for row in bindings
    ]
    print()
    print_table(("Label", "Node", "Since", "Valid until", "State"), rows, ids=("Node",))


def _bindings(opened: CredentialOffice, node: str | None) -> list[IssuedCredential]:
    """Return the certificates that an owner issued here, the newest first: none of the node's own,
    which make nobody its owner.
    """
    from kwaai.limits import WALLET_FIND_MAX

    rows = opened.issued.find(subject=node, kind=_KIND, limit=WALLET_FIND_MAX)
    return [row for row in rows if row.issuer != opened.did]


def _is_in_force(row: IssuedCredential) -> bool:
    from kwaai.cli.credential_status import show_state

    return show_state(row) != "revoked"


def _describe(row: IssuedCredential) -> dict[str, Any]:
    from kwaai.cli.credential_status import describe_issued_row

    return {"label": _label(row), **describe_issued_row(row)}


def _label(row: IssuedCredential) -> str:
    from credentials.document import parse_document

    subject = parse_document(row.original).get("credentialSubject")
    return str(subject.get("nodeLabel", "")) if isinstance(subject, dict) else ""
