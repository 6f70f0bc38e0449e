"""`kwaainet credential verify` and `import`: is it true, and if so, keep it.

The answer is a tree of what was checked and an exit code. No network is used: what a check needs
besides is in the wallet, or given as a file.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, Parser, UsageError, add_command

if TYPE_CHECKING:
    from credentials.policy import Policy
    from kwaai.cli.credential_report import Report
    from kwaai.node.credential_check import Checker

_MORE = """\
exit codes: 0 it holds, 1 it does not, 69 it cannot be judged here (no status list, DID document or
context for it). FILE may be a credential or a presentation; - reads standard input. Nothing is
fetched: give a status list that this node does not have with --status-list.

for example:
  kwaainet credential verify ada.json
  kwaainet credential verify shown.json --challenge 8c1f... --domain did:key:z6Mk...
"""

_EVERY_TYPE = "VerifiableCredential"


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "verify",
        verify,
        help="check a credential or a presentation, and print what was checked",
        more=_MORE,
    )
    parser.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    parser.add_argument(
        "--type", action="append", default=[], metavar="TYPE", help="it must have this type"
    )
    parser.add_argument(
        "--issuer",
        action="append",
        default=[],
        metavar="DID",
        help="it must be issued by this DID or PeerId",
    )
    parser.add_argument(
        "--challenge", metavar="TEXT", help="of a presentation: what its holder was asked to sign"
    )
    parser.add_argument(
        "--domain", metavar="TEXT", help="of a presentation: whom it must be made for"
    )
    parser.add_argument(
        "--any-holder",
        action="store_true",
        help="of a presentation: its holder need not be the subject of what it shows",
    )
    parser.add_argument(
        "--any-context",
        action="store_true",
        help="accept contexts beyond those that are known to give every term its usual meaning",
    )
    _add_status_list(parser)
    add_passphrase(parser)
    parser = add_command(
        commands,
        "import",
        import_credential,
        help="check a credential and keep it in the wallet",
        more="What does not hold, or has contexts that are not trusted, is kept only with "
        "--quarantine; nothing counts it there.",
    )
    parser.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    parser.add_argument(
        "--quarantine", action="store_true", help="keep it even if it does not hold, set apart"
    )
    _add_status_list(parser)
    add_passphrase(parser)


def _add_status_list(parser: Parser) -> None:
    parser.add_argument(
        "--status-list",
        action="append",
        default=[],
        metavar="FILE",
        help="a status list credential that this node does not have",
    )


def verify(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import checker, is_wallet_shut
    from kwaai.cli.credential_tree import print_tree
    from kwaai.cli.credential_values import read_input
    from kwaai.cli.output import note, print_json

    policy = _policy(arguments)
    data = read_input(arguments.file)
    with checker(arguments, arguments.status_list) as opened:
        report = _report(arguments, opened, data, policy)
    if arguments.json:
        print_json(report.described)
    else:
        print_tree(report.tree)
        if report.remedy:
            note(report.remedy)
            if is_wallet_shut(arguments):
                note("the wallet here stayed shut: its lists count with --passphrase-file")
    return report.exit_code


def _policy(arguments: argparse.Namespace) -> Policy:
    from credentials.policy import Policy
    from kwaai.cli.credential_values import read_issuer

    issuers = frozenset(read_issuer(text, "--issuer") for text in arguments.issuer)
    return Policy(
        types=frozenset(arguments.type),
        issuers={_EVERY_TYPE: issuers} if issuers else {},
        contexts_trusted=not arguments.any_context,
    )


def _report(arguments: argparse.Namespace, opened: Checker, data: bytes, policy: Policy) -> Report:
    from kwaai.cli.credential_report import report_credential, report_presentation
    from kwaai.cli.credential_values import is_presentation

    if not is_presentation(data):
        if arguments.challenge is not None or arguments.domain is not None:
            raise UsageError("--challenge and --domain are for presentations; this is not one")
        return report_credential(opened, data, policy)
    if arguments.challenge is None:
        raise UsageError(
            "this is a presentation: --challenge TEXT is needed, what its holder was asked to sign"
        )
    return report_presentation(
        opened,
        data,
        policy,
        challenge=arguments.challenge,
        domain=arguments.domain,
        holder_must_be_subject=not arguments.any_holder,
    )


def import_credential(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import is_presentation, name_types, read_input
    from kwaai.cli.credential_wallet import ID_SHOWN, describe_stored
    from kwaai.cli.output import note, one_line, print_json

    data = read_input(arguments.file)
    if is_presentation(data):
        raise UsageError("this is a presentation, made for one verifier; import what it shows")
    with office(arguments, status_files=arguments.status_list) as opened:
        stored = opened.import_credential(data, quarantine=arguments.quarantine)
    entry = stored.entry
    if arguments.json:
        print_json(describe_stored(stored))
        return 0
    what = name_types(entry.types)
    print(one_line(f"kept {stored.id[:ID_SHOWN]}: {what} from {entry.issuer or 'nobody'}"))
    if entry.quarantined:
        note(one_line(f"in quarantine, where nothing counts it: {entry.reason}"))
    return 0
