"""`kwaainet credential issue`: sign a credential about somebody, with this node's key or the
owner's, and note it in the register so that it can be revoked.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai.cli.credential_values import add_out, add_suite
from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from kwaai.node.credential_office import Issued

_MORE = """\
The credential is printed (or goes to --out); hand it to its subject. One about this node is kept in
its own wallet as well. Types and claims: kwaainet credential schema list

for example:
  kwaainet credential issue UptimeVC --subject 12D3KooW... --from-file uptime.json --expires 90d
  kwaainet credential issue EventAttendeeVC --subject did:key:z6Mk... \\
    --claim eventName="Summit 2026" --claim eventDate=2026-11-21 --out ada.json
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "issue", issue, help="sign a credential about somebody", more=_MORE
    )
    parser.add_argument("kind", metavar="TYPE", help="a type of `kwaainet credential schema list`")
    parser.add_argument(
        "--subject",
        required=True,
        metavar="DID",
        help="whom it is about: a DID, a PeerId, self (this node) or owner",
    )
    parser.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one thing it says; read as the type's schema has it",
    )
    parser.add_argument(
        "--from-file", metavar="FILE", help="a JSON object of claims; - for standard input"
    )
    parser.add_argument(
        "--expires",
        metavar="WHEN",
        help="90d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z (default: the type's own)",
    )
    parser.add_argument(
        "--not-revocable",
        action="store_true",
        help="give it no entry in a status list: it can never be revoked or suspended",
    )
    parser.add_argument(
        "--as-owner", action="store_true", help="sign it with the owner's key, not the node's"
    )
    add_suite(parser)
    add_out(parser)
    add_passphrase(parser)


def issue(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import (
        check_output,
        now_s,
        read_claims,
        read_did,
        read_expires,
        read_kind,
        refuse_missing_claims,
    )

    check_output(arguments.out)
    kind = read_kind(arguments.kind)
    claims = read_claims(kind, arguments.claim, arguments.from_file)
    expires_s = read_expires(arguments.expires, now_s())
    with office(arguments) as opened:
        subject = read_did(arguments.subject, "--subject", opened.did, opened.owner_did)
        refuse_missing_claims(kind, claims)
        issued = opened.issue(
            kind.name,
            subject,
            claims,
            expires_s=expires_s,
            suite=arguments.suite,
            revocable=not arguments.not_revocable,
            as_owner=arguments.as_owner,
        )
    deliver_issued(arguments, issued)
    return 0


def deliver_issued(arguments: argparse.Namespace, issued: Issued) -> None:
    """Print what was issued, or write it to `--out`, and say how it is revoked."""
    from kwaai.cli.credential_values import name_types, show_end, write_output
    from kwaai.cli.output import note, one_line, print_json

    if arguments.out is not None:
        write_output(arguments.out, issued.data)
    if arguments.json:
        print_json(describe_issued(issued))
        return
    document = issued.document
    subject = document["credentialSubject"]["id"]
    end = show_end(document.get("validUntil"))
    about = f"{name_types(document['type'])} about {subject}, {end}"
    if arguments.out is not None:
        about += f", in {arguments.out}"
    else:
        print(issued.data.decode("utf-8"))
    note(one_line(f"issued {about}"))
    if issued.statuses:
        note(f"to take it back: kwaainet credential revoke {issued.id}")


def describe_issued(issued: Issued) -> dict[str, Any]:
    """Return what `--json` prints of a new credential."""
    return {
        "id": issued.id,
        "credential": issued.document,
        "statuses": {
            purpose: {"list": url, "index": index}
            for purpose, (url, index) in issued.statuses.items()
        },
    }
