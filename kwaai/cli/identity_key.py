"""`kwaainet identity export|import|rotate|seal|unseal`: the node's key, with care.

A secret is never printed: it is written to a new file, sealed under a passphrase.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kwaai.cli.identity_passphrase import add_new_passphrase, add_passphrase
from kwaai.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from credentials.keys import PublicKey
    from kwaai.store.home import Home

_EXPORT_MORE = """\
The file is sealed under a passphrase of its own (at least 8 bytes; take several words). The wallet
is not in it: kwaainet credential backup has both.
"""
_IMPORT_MORE = """\
FILE is what `identity export` wrote, or a libp2p Ed25519 key file. A key that is there already is
replaced only with --replace, and then kept beside the new one. Not while a node runs here.
"""
_ROTATE_MORE = """\
A new key, hence a new DID and Peer ID: who knows this node by the old one knows it no more, and
credentials about the old DID stay the old one's. The old key is kept beside the new one: only it
can take back what it issued. The wallet opens with the new key. Not while a node runs here.
"""
_SEAL_MORE = """\
A sealed key needs its passphrase whenever it is used: from --passphrase-file, KWAAINET_PASSPHRASE,
the file that KWAAINET_PASSPHRASE_FILE names, or the terminal. A node that starts by itself needs
one of the first three. Sealing a sealed key gives it another passphrase.
"""


def add_parser(group: Commands) -> None:
    parser = add_command(
        group, "export", export, help="write the key to a new file, sealed", more=_EXPORT_MORE
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the new file")
    add_new_passphrase(parser, "a file that holds the passphrase to seal the export with")
    add_passphrase(parser)
    parser = add_command(
        group, "import", import_key, help="take a key that was exported", more=_IMPORT_MORE
    )
    parser.add_argument("file", metavar="FILE", help="the exported key")
    parser.add_argument(
        "--replace", action="store_true", help="put it in place of the key that is there"
    )
    add_passphrase(parser, "a file that holds the passphrase of the exported key")
    add_new_passphrase(parser, "a file that holds the passphrase to seal it with here")
    parser = add_command(
        group, "rotate", rotate, help="make a new key; the old one is kept", more=_ROTATE_MORE
    )
    add_passphrase(parser)
    parser = add_command(
        group, "seal", seal, help="put the key under a passphrase", more=_SEAL_MORE
    )
    add_new_passphrase(parser)
    add_passphrase(parser, "a file that holds the passphrase that it has now, if it is sealed")
    parser = add_command(group, "unseal", unseal, help="store the key without a passphrase")
    add_passphrase(parser)


def export(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import check_output, write_output
    from kwaai.cli.identity_passphrase import new_passphrase, unlocker
    from kwaai.cli.output import print_json
    from kwaai.store.identity_file import export_identity, load_identity

    check_output(arguments.file)
    _, path = _home(arguments)
    unlock = unlocker(arguments)
    load_identity(path, unlock=unlock)  # what is wrong with it is said before anybody types
    passphrase = new_passphrase(arguments, "the exported key")
    write_output(arguments.file, export_identity(path, passphrase, unlock=unlock))
    if arguments.json:
        print_json({"file": str(arguments.file)})
    else:
        print(f"the key is in {arguments.file}, sealed; keep the passphrase elsewhere")
    return 0


def import_key(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import read_bytes
    from kwaai.cli.identity_passphrase import new_passphrase, unlocker
    from kwaai.cli.output import note
    from kwaai.limits import KEY_FILE_BYTES_MAX
    from kwaai.store.identity_file import IDENTITY
    from kwaai.store.rotation import import_identity

    home, path = _home(arguments)
    data = read_bytes(arguments.file, KEY_FILE_BYTES_MAX)
    given = replace(IDENTITY, what="exported key")
    sealed_with = None
    if arguments.new_passphrase_file is not None:
        sealed_with = new_passphrase(arguments, "the key here")
    with _node_at_rest(home):
        secret = import_identity(
            home,
            path,
            data,
            unlocker(arguments, given),
            replace=arguments.replace,
            passphrase=sealed_with,
            current_unlock=unlocker(argparse.Namespace()),
        )
    if sealed_with is None:
        note("it is stored without a passphrase; to change that: kwaainet identity seal")
    return _say_new(arguments, secret.public, path, "imported")


def rotate(arguments: argparse.Namespace) -> int:
    from kwaai.cli.identity_passphrase import unlocker
    from kwaai.store.rotation import rotate_identity

    home, path = _home(arguments)
    with _node_at_rest(home):
        secret = rotate_identity(home, path, unlock=unlocker(arguments))
    return _say_new(arguments, secret.public, path, "new")


def seal(arguments: argparse.Namespace) -> int:
    from kwaai.cli.identity_passphrase import new_passphrase, unlocker
    from kwaai.store.identity_file import load_identity, seal_identity

    _, path = _home(arguments)
    unlock = unlocker(arguments)
    load_identity(path, unlock=unlock)
    seal_identity(path, new_passphrase(arguments, "the identity key"), unlock=unlock)
    return _say_sealed(arguments, path, True)


def unseal(arguments: argparse.Namespace) -> int:
    from kwaai.cli.identity_passphrase import unlocker
    from kwaai.store.identity_file import unseal_identity

    _, path = _home(arguments)
    unseal_identity(path, unlock=unlocker(arguments))
    return _say_sealed(arguments, path, False)


def _home(arguments: argparse.Namespace) -> tuple[Home, Path]:
    from kwaai.cli.session import open_home

    home, config = open_home(arguments)
    return home, config.identity_key or home.identity_key


@contextmanager
def _node_at_rest(home: Home) -> Iterator[None]:
    """Be the only one that uses the identity: a running node goes by the key that it has read."""
    from kwaai.node.daemon import claim

    with claim(home):
        yield


def _say_new(arguments: argparse.Namespace, public: PublicKey, path: Path, word: str) -> int:
    from kwaai.cli.identity import describe
    from kwaai.cli.output import note, print_json, print_pairs
    from kwaai.store.identity_file import former_identities

    described = describe(public, str(path))
    former = [str(kept) for kept in former_identities(path)]
    if arguments.json:
        print_json({**described, "former_keys": former})
        return 0
    print_pairs([(f"DID ({word})", described["did"]), ("Peer ID", described["peer_id"])])
    if former:
        note(f"former keys, which only can take back what they issued: {', '.join(former)}")
    return 0


def _say_sealed(arguments: argparse.Namespace, path: Path, sealed: bool) -> int:
    from kwaai.cli.output import print_json

    if arguments.json:
        print_json({"key_file": str(path), "sealed": sealed})
    else:
        print(f"{path} is {'sealed' if sealed else 'stored without a passphrase'}")
    return 0
