"""`kwaainet credential backup` and `restore`: all that the wallet holds, sealed, for
another disk or another machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kwaai.cli.identity_passphrase import add_new_passphrase, add_passphrase
from kwaai.cli.parser import Commands, add_command

_BACKUP_MORE = """\
The file has the credentials, what was issued here and its status, and the identity key unless
--without-identity. It is sealed under a passphrase of its own; keep that elsewhere. An owner's key
is not in it: copy owner.key.

for example:
  kwaainet credential backup wallet.backup
  kwaainet credential restore wallet.backup   (on the other machine)
"""
_RESTORE_MORE = """\
What is in the wallet stays: a restore only adds, and a revocation on either side stays one. On a
machine without an identity the backup's becomes its own. Credentials are checked again when they
are used.
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "backup", backup, help="write the wallet to a file, sealed", more=_BACKUP_MORE
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the new file")
    parser.add_argument(
        "--without-identity", action="store_true", help="leave the identity key out of it"
    )
    add_new_passphrase(parser, "a file that holds the passphrase to seal the backup with")
    add_passphrase(parser)
    parser = add_command(
        commands, "restore", restore, help="join a backup with the wallet", more=_RESTORE_MORE
    )
    parser.add_argument("file", metavar="FILE", help="what `credential backup` wrote")
    parser.add_argument(
        "--backup-passphrase-file",
        type=Path,
        metavar="FILE",
        help="a file that holds the passphrase of the backup",
    )
    add_new_passphrase(parser, "a file that holds the passphrase to seal a restored identity with")
    add_passphrase(parser)


def backup(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import check_output, now_s, write_output
    from kwaai.cli.identity_passphrase import new_passphrase
    from kwaai.cli.output import Spinner, print_json, show_bytes

    check_output(arguments.file)
    with office(arguments) as opened:
        passphrase = new_passphrase(arguments, "the backup")
        with Spinner("sealing the backup"):
            data = opened.backup(
                passphrase, now_s=now_s(), with_identity=not arguments.without_identity
            )
        kept = opened.wallet.count(quarantined=None)
        issued = opened.issued.count()
    write_output(arguments.file, data)
    if arguments.json:
        print_json(
            {
                "file": str(arguments.file),
                "size_bytes": len(data),
                "credentials": kept,
                "issued": issued,
                "identity": not arguments.without_identity,
            }
        )
        return 0
    also = "" if arguments.without_identity else ", the identity key"
    print(f"{arguments.file}: {kept} kept, {issued} issued{also} ({show_bytes(len(data))})")
    return 0


def restore(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import read_bytes
    from kwaai.cli.identity_passphrase import new_passphrase, typed_passphrase, unlocker
    from kwaai.cli.output import Spinner, note, print_json
    from kwaai.cli.session import open_home
    from kwaai.limits import BACKUP_BYTES_MAX
    from kwaai.store.backup import read_backup, restore_home

    home, config = open_home(arguments)
    key = config.identity_key or home.identity_key
    is_new = not key.exists()
    data = read_bytes(arguments.file, BACKUP_BYTES_MAX)
    passphrase = typed_passphrase(arguments.backup_passphrase_file, "the backup")
    sealed_with = None
    if arguments.new_passphrase_file is not None:
        sealed_with = new_passphrase(arguments, "the identity key")
    with Spinner("opening the backup"):
        restored = restore_home(
            home,
            key,
            read_backup(data, passphrase),
            unlock=unlocker(arguments),
            passphrase=sealed_with,
        )
    if arguments.json:
        told = {"credentials": restored.credentials, "issued": restored.issued}
        print_json({**told, "identity": is_new})
        return 0
    print(f"added {restored.credentials} kept and {restored.issued} issued credentials")
    if is_new:
        note(f"the backup's identity is this home's now, in {key}")
        if sealed_with is None:
            note("it is stored without a passphrase; to change that: kwaainet identity seal")
    return 0
