"""Where a command gets a passphrase: a file that is named, the environment, or the person.

Never from the command line, which other users of the machine can read. Prints nothing else.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kwaai.cli.parser import Parser, UsageError

if TYPE_CHECKING:
    from kwaai.errors import KwaaiError
    from kwaai.store.key_file import KeyKind, Unlock


def add_passphrase(
    parser: Parser, help: str = "a file that holds the passphrase of a sealed identity key"
) -> None:
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help=help)


def add_new_passphrase(parser: Parser, help: str = "a file that holds the new passphrase") -> None:
    parser.add_argument("--new-passphrase-file", type=Path, metavar="FILE", help=help)


def unlocker(arguments: argparse.Namespace, kind: KeyKind | None = None) -> Unlock:
    """Return what gives the passphrase of a sealed key when it is needed, asked for once.

    From `--passphrase-file`, the key's environment variable, or the terminal. Raises IdentitySealed
    where there is none of them. `kind` None: the node's identity.
    """
    from kwaai.errors import IdentitySealed
    from kwaai.store.identity_file import IDENTITY
    from kwaai.store.key_file import environment_unlock, read_passphrase

    described = kind or IDENTITY
    known: list[bytes] = []

    def unlock() -> bytes:
        named = getattr(arguments, "passphrase_file", None)
        if known:
            return known[0]
        if named is not None:
            passphrase = read_passphrase(named)
        else:
            try:
                passphrase = environment_unlock(described, Path(described.what))()
            except IdentitySealed:
                if not can_ask():
                    raise _sealed(described, hasattr(arguments, "passphrase_file")) from None
                passphrase = ask(f"Passphrase of the {described.what}: ")
        known.append(passphrase)
        return passphrase

    return unlock


def _sealed(kind: KeyKind, has_option: bool) -> KwaaiError:
    from kwaai.errors import IdentitySealed

    option = "--passphrase-file, " if has_option else ""
    return IdentitySealed(
        f"the {kind.what} is sealed, and no passphrase was given: it is taken from {option}"
        f"{kind.variable}, the file that {kind.variable}_FILE names, or typed at a terminal"
    )


def quiet_unlocker(arguments: argparse.Namespace) -> Unlock:
    """Return what gives the passphrase without asking anybody."""
    from kwaai.store.identity_file import IDENTITY
    from kwaai.store.key_file import environment_unlock, read_passphrase

    named = getattr(arguments, "passphrase_file", None)
    if named is not None:
        return lambda: read_passphrase(named)
    return environment_unlock(IDENTITY, Path(IDENTITY.what))


def typed_passphrase(named: Path | None, what: str) -> bytes:
    """Return the passphrase that opens `what`: from a file that is named, or typed."""
    from kwaai.store.key_file import read_passphrase

    if named is not None:
        return read_passphrase(named)
    if not can_ask():
        raise UsageError(
            f"the passphrase of {what} is needed: name a file that holds it with "
            "--backup-passphrase-file, or run this on a terminal"
        )
    return ask(f"Passphrase of {what}: ")


def new_passphrase(arguments: argparse.Namespace, what: str) -> bytes:
    """Return a new passphrase for `what`: from `--new-passphrase-file`, or typed twice."""
    from kwaai.store.key_file import check_passphrase, read_passphrase

    named = getattr(arguments, "new_passphrase_file", None)
    if named is not None:
        passphrase = read_passphrase(named)
    elif can_ask():
        passphrase = ask(f"New passphrase for {what}: ")
        check_passphrase(passphrase)
        if ask("The same again: ") != passphrase:
            raise UsageError("the two passphrases differ; nothing was changed")
    else:
        raise UsageError(
            f"a passphrase for {what} is needed: name a file that holds it with "
            "--new-passphrase-file, or run this on a terminal"
        )
    check_passphrase(passphrase)
    return passphrase


def can_ask() -> bool:
    """Say whether there is a person at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(prompt: str) -> bytes:
    """Ask the person at the terminal; what they type is not shown."""
    try:
        return os.fsencode(getpass.getpass(prompt))
    except EOFError:
        print(file=sys.stderr)  # the prompt's line has not ended
        raise UsageError("no passphrase was typed") from None
