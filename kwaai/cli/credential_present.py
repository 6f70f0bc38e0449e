"""`kwaainet credential present`: show one's credentials to somebody who asked with a challenge."""

from __future__ import annotations

import argparse

from kwaai.cli.credential_values import add_out, add_suite
from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, add_command

_MORE = """\
The presentation is printed (or goes to --out). It answers this one challenge, is made for this one
verifier and ends after ten minutes. Without --type and --id it shows every valid credential about
this node; name what is asked for to show no more than that.

for example:
  kwaainet credential present --to 12D3KooW... --challenge 8c1f... --type UptimeVC --out shown.json
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "present",
        present,
        help="sign a presentation of credentials for somebody who asked",
        more=_MORE,
    )
    parser.add_argument("--to", required=True, metavar="DID", help="who asked: a DID or a PeerId")
    parser.add_argument(
        "--challenge", required=True, metavar="TEXT", help="what they asked to have signed"
    )
    parser.add_argument(
        "--domain", metavar="TEXT", help="the name they check it against (default: --to)"
    )
    parser.add_argument(
        "--type", action="append", default=[], metavar="TYPE", help="show those of this type"
    )
    parser.add_argument(
        "--id", action="append", default=[], metavar="ID", help="show this one of the wallet"
    )
    parser.add_argument(
        "--as-owner", action="store_true", help="show what is about the owner, signed by the owner"
    )
    add_suite(parser)
    add_out(parser)
    add_passphrase(parser)


def present(arguments: argparse.Namespace) -> int:
    from credentials.document import encode_document
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import check_output, name_types, read_did, write_output
    from kwaai.cli.output import note, one_line, print_json

    check_output(arguments.out)
    with office(arguments) as opened:
        to = read_did(arguments.to, "--to", opened.did, opened.owner_did)
        document = opened.present(
            to,
            arguments.challenge,
            types=arguments.type,
            ids=arguments.id,
            domain=arguments.domain,
            suite=arguments.suite,
            as_owner=arguments.as_owner,
        )
    if arguments.out is not None:
        write_output(arguments.out, encode_document(document) + b"\n")
    if arguments.json:
        print_json(document)
    elif arguments.out is None:
        print(encode_document(document).decode("utf-8"))
    shown = document["verifiableCredential"]
    shown = shown if isinstance(shown, list) else [shown]
    kinds = ", ".join(name_types(credential["type"]) for credential in shown)
    note(one_line(f"shown to {to}: {kinds}"))
    return 0
