"""Opening what a home has of credentials: the office with its keys and wallet, or just a checker.

Asks nobody for a passphrase: `unlock` does, or the environment has it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from credentials.errors import StatusUnknown
from kwaai.errors import (
    IdentityMissing,
    IdentitySealed,
    KwaaiError,
    OwnerMissing,
    PassphraseWrong,
    WalletLocked,
)
from kwaai.node.credential_check import Checker, StatusFetch
from kwaai.node.credential_documents import WebDocuments
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.status_fetch import status_fetch
from kwaai.store.identity_file import former_identities, load_identity
from kwaai.store.issued import IssuedRegister
from kwaai.store.owner_file import load_owner, owner_key
from kwaai.store.wallet import open_wallet, wallet_key

if TYPE_CHECKING:
    from credentials.keys import SecretKey
    from kwaai.config import Config
    from kwaai.store.home import Home
    from kwaai.store.key_file import Unlock

_NO_LISTS: Final[Mapping[str, bytes]] = MappingProxyType({})


@contextlib.contextmanager
def open_office(
    home: Home,
    config: Config,
    *,
    secret: SecretKey | None = None,
    unlock: Unlock | None = None,
    owner_unlock: Unlock | None = None,
    with_owner: bool = False,
    status_base: str | None = None,
    fetch_status: StatusFetch | None = None,
    given_lists: Mapping[str, bytes] = _NO_LISTS,
    clock: Callable[[], float] = time.time,
) -> Iterator[CredentialOffice]:
    """Open the office of a home; its wallet is made where there is none.

    `given_lists`: status lists that the caller has, by URL; they count before kept ones.
    `secret` is the identity, where the caller has it. `unlock`, `owner_unlock` give the passphrases
    of sealed keys; None: the environment. An owner key that does not open is left out, unless
    `with_owner` needs it. Raises as `load_identity`, `load_owner` and `open_wallet`.
    """
    path = config.identity_key or home.identity_key
    secret = secret or load_identity(path, unlock=unlock)
    owner = _owner(home, owner_unlock, needed=with_owner)
    former = []
    for kept in former_identities(path):
        with contextlib.suppress(KwaaiError):  # under another passphrase: its lists stay unsigned
            former.append(load_identity(kept, unlock=unlock))
    with open_wallet(home, secret) as wallet:
        yield CredentialOffice(
            secret,
            wallet,
            IssuedRegister(wallet.database),
            owner=owner,
            former=former,
            status_base=status_base,
            clock=clock,
            fetch_status=status_fetch(config.web_hosts, fetch_status),
            given_lists=given_lists,
            web_hosts=config.web_hosts,
        )


def _owner(home: Home, unlock: Unlock | None, *, needed: bool) -> SecretKey | None:
    path = owner_key(home)
    if needed:
        return load_owner(path, unlock=unlock)
    with contextlib.suppress(OwnerMissing, IdentitySealed, PassphraseWrong):
        return load_owner(path)
    return None


def wallet_exists(home: Home) -> bool:
    """Say whether a home has a wallet, or had one. Opens nothing."""
    return wallet_key(home.credentials).exists()


@contextlib.contextmanager
def open_checker(
    home: Home,
    config: Config,
    *,
    fetch_status: StatusFetch | None = None,
    given_lists: Mapping[str, bytes] = _NO_LISTS,
    unlock: Unlock | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[Checker]:
    """Open what verifies: with this home's status lists where there is a wallet that opens without
    asking anybody. Makes no wallet.
    """
    with contextlib.ExitStack() as stack:
        if wallet_exists(home):
            with contextlib.suppress(IdentityMissing, IdentitySealed, WalletLocked):
                opening = open_office(
                    home,
                    config,
                    unlock=unlock,
                    fetch_status=fetch_status,
                    given_lists=given_lists,
                    clock=clock,
                )
                office = stack.enter_context(opening)
                yield office.checker
                return
        sources = (_given(given_lists), status_fetch(config.web_hosts, fetch_status))
        yield Checker(sources, clock=clock, web=WebDocuments(config.web_hosts, clock))


def _given(lists: Mapping[str, bytes]) -> StatusFetch:
    def fetch(url: str) -> bytes:
        if url not in lists:
            raise StatusUnknown(f"the status list {url!r:.200} was not given")
        return lists[url]

    return fetch
