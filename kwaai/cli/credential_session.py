"""What the credential commands begin with: the settings, the passphrase, the office of this home.

Turns the findings of `credentials` into the errors that a command ends with. Prints nothing.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kwaai.node.credential_check import Checker, StatusFetch
    from kwaai.node.credential_office import CredentialOffice
    from kwaai.store.home import Home


@contextlib.contextmanager
def office(
    arguments: argparse.Namespace, *, status_files: Sequence[str] = ()
) -> Iterator[CredentialOffice]:
    """Open the identity, the wallet and the issued register of this home; with `--as-owner` the
    owner's key too. `status_files` hold status lists that the node does not have.

    Raises IdentityMissing where `kwaainet setup` has not been run, IdentitySealed without the
    passphrase; CredentialRefused and CredentialUnknown for what `credentials` finds inside.
    """
    from kwaai.cli.identity_passphrase import unlocker
    from kwaai.cli.session import open_home
    from kwaai.node.credential_home import open_office
    from kwaai.store.owner_file import OWNER

    home, config = open_home(arguments)
    with (
        findings(),
        open_office(
            home,
            config,
            unlock=unlocker(arguments),
            owner_unlock=unlocker(argparse.Namespace(), OWNER),
            with_owner=getattr(arguments, "as_owner", False),
            fetch_status=node_lists(home),
            given_lists=read_lists(status_files),
        ) as opened,
    ):
        yield opened


@contextlib.contextmanager
def checker(arguments: argparse.Namespace, status_files: Sequence[str] = ()) -> Iterator[Checker]:
    """Open what verifies. Needs no identity, makes no home and asks for no passphrase."""
    from kwaai.cli.identity_passphrase import quiet_unlocker
    from kwaai.cli.session import load_settings
    from kwaai.node.credential_home import open_checker

    home, loaded = load_settings(arguments)
    with (
        findings(),
        open_checker(
            home,
            loaded.config,
            fetch_status=node_lists(home),
            given_lists=read_lists(status_files),
            unlock=quiet_unlocker(arguments),
        ) as opened,
    ):
        yield opened


def is_wallet_shut(arguments: argparse.Namespace) -> bool:
    """Say whether there is a wallet here that `checker` could not open for want of a passphrase."""
    from kwaai.cli.identity_passphrase import quiet_unlocker
    from kwaai.cli.session import load_settings
    from kwaai.errors import IdentityMissing, IdentitySealed
    from kwaai.node.credential_home import wallet_exists
    from kwaai.store.identity_file import is_identity_sealed

    home, loaded = load_settings(arguments)
    try:
        if wallet_exists(home) and is_identity_sealed(
            loaded.config.identity_key or home.identity_key
        ):
            quiet_unlocker(arguments)()
    except IdentityMissing:
        return False
    except IdentitySealed:
        return True
    return False


def node_lists(home: Home) -> StatusFetch:
    """Return a source of the status lists that the running node has, or gets from peers."""
    from credentials.errors import StatusUnknown
    from kwaai.cli.control import ControlClient
    from kwaai.errors import KwaaiError, NodeNotRunning

    def fetch(url: str) -> bytes:
        try:
            return ControlClient(home).status_list(url).encode()
        except NodeNotRunning:
            raise StatusUnknown(
                f"the status list {url!r:.200} is not here, and no node runs that could ask for "
                "it; start one (kwaainet start --daemon), or give it with --status-list FILE"
            ) from None
        except KwaaiError as error:
            raise StatusUnknown(error.message) from error

    return fetch


def read_lists(files: Sequence[str]) -> dict[str, bytes]:
    """Return the status lists that files hold, by the `id` that each gives itself."""
    from credentials.document import parse_document
    from credentials.errors import CredentialsError
    from kwaai.cli.credential_values import read_input
    from kwaai.cli.parser import UsageError

    lists: dict[str, bytes] = {}
    for file in files:
        data = read_input(file)
        try:
            name = parse_document(data).get("id")
        except CredentialsError as error:
            raise UsageError(f"--status-list: {file}: {error}") from error
        if not isinstance(name, str):
            raise UsageError(f"--status-list: {file} has no id: it is no status list credential")
        lists[name] = data
    return lists


@contextlib.contextmanager
def findings() -> Iterator[None]:
    """Raise what `credentials` finds as an error with an exit code."""
    from credentials.errors import CredentialsError

    try:
        yield
    except CredentialsError as error:
        from kwaai.node.credential_check import refusal

        raise refusal(error) from error
