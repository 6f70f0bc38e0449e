"""Backups: everything comes back elsewhere, joining loses nothing, damage lets nothing in."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credentials.keys import SecretKey, peer_id
from credentials.sealed import seal
from credentials.wallet import WalletEntry
from kwaai.errors import (
    FileCorrupt,
    IdentityMissing,
    KwaaiError,
    PassphraseWrong,
    UserError,
)
from kwaai.store import backup as module
from kwaai.store.backup import (
    Backup,
    Restored,
    export_wallet,
    read_backup,
    restore_home,
    restore_wallet,
)
from kwaai.store.home import Home
from kwaai.store.identity_file import former_identities, is_identity_sealed, load_identity
from kwaai.store.issued import IssuedRegister, StatusPlace
from kwaai.store.requests import CredentialRequest, RequestBook
from kwaai.store.wallet import Wallet, open_wallet

SECRET = SecretKey(b"S" * 32)
PASSPHRASE = b"correct horse battery"
ISSUER = "did:key:z6MkIssuer"
ENTRY = WalletEntry(
    types=("VerifiableCredential", "UptimeVC"),
    issuer=ISSUER,
    subjects=("did:key:z6MkSubject",),
    valid_from_s=1000.0,
    valid_until_s=None,
    credential_id="urn:uuid:1",
    added_s=1500.0,
)
REQUEST = CredentialRequest(
    f"{1:032x}",
    "in",
    "request",
    str(peer_id(SECRET.public)),
    "UptimeVC",
    b'{"claims":{},"note":""}',
    "pending",
    "",
    1.0,
    1.0,
)


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[Wallet]:
    with open_wallet(Home(tmp_path / "one"), SECRET) as opened:
        fill(opened)
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Wallet]:
    with open_wallet(Home(tmp_path / "two"), SecretKey(b"N" * 32)) as opened:
        yield opened


def fill(wallet: Wallet) -> None:
    wallet.add(b"first \xff", ENTRY)
    wallet.add(b"second", replace(ENTRY, quarantined=True, reason="no proof", subjects=("a", "b")))
    wallet.put_status_list("https://example.org/1", b"list", 5.0)
    wallet.put_long_form("short", "long")
    register = IssuedRegister(wallet.database)
    for n in range(3):
        issue(register, n)
    register.set_status("urn:uuid:0", "revocation", True, 7.0)
    register.set_status("urn:uuid:1", "suspension", True, 8.0)
    register.reserve(ISSUER, ["revocation"], 9.0)
    RequestBook(wallet.database).put(REQUEST)


def issue(register: IssuedRegister, n: int, text: bytes = b"") -> tuple[StatusPlace, ...]:
    places = register.reserve(ISSUER, ("revocation", "suspension"), 2.0)
    register.record(
        b"issued %d" % n + text,
        credential_id=f"urn:uuid:{n}",
        issuer=ISSUER,
        subject="did:key:z6MkSubject",
        kind="UptimeVC",
        issued_s=3.0,
        valid_until_s=9.0,
        places=places,
    )
    return places


def backup_of(wallet: Wallet, **options: Any) -> bytes:
    return export_wallet(wallet, PASSPHRASE, now_s=4.0, cost="interactive", **options)


def opened(wallet: Wallet, **options: Any) -> Backup:
    return read_backup(backup_of(wallet, **options), PASSPHRASE)


def state(wallet: Wallet) -> dict[str, object]:
    register = IssuedRegister(wallet.database)
    return {
        "credentials": [(s.entry, s.original) for s in wallet.iterate()],
        "lists": {
            row.name: (row.purpose, row.entries, row.used, register.list_bits(ISSUER, row.name))
            for row in register.lists(ISSUER)
        },
        "issued": [replace(c, number=0) for c in register.iterate()],
        "requests": RequestBook(wallet.database).find(),
        "fetched": wallet.get_status_list("https://example.org/1"),
        "long": wallet.long_forms(),
    }


def test_everything_comes_back(wallet: Wallet, other: Wallet) -> None:
    backup = opened(wallet)
    assert (backup.made_s, backup.identity) == (4.0, None)
    assert restore_wallet(other, backup) == Restored(credentials=2, issued=3, requests=1)
    assert state(other) == state(wallet)
    assert restore_wallet(other, backup) == Restored(0, 0, 0)
    assert state(other) == state(wallet)
    other.check()
    # What was signed of the lists is outdated, whatever version it was signed for.
    before = {row.name: row.version for row in IssuedRegister(wallet.database).lists()}
    for row in IssuedRegister(other.database).lists():
        assert row.version > before[row.name]


def test_it_shows_nothing(wallet: Wallet) -> None:
    data = backup_of(wallet, identity=SECRET)
    for text in (b"first", b"UptimeVC", b"z6Mk", SECRET.expose_seed(), SECRET.public.raw):
        assert text not in data
    shown = repr(read_backup(data, PASSPHRASE))
    assert SECRET.expose_seed().hex() not in shown
    assert "SSSS" not in shown
    assert "_lines" not in shown


def test_a_weak_passphrase_is_refused(wallet: Wallet) -> None:
    with pytest.raises(UserError, match="a passphrase has 8"):
        export_wallet(wallet, b"short", now_s=1.0)


def test_a_machine_that_has_nothing(wallet: Wallet, tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    home.path.mkdir()
    with pytest.raises(IdentityMissing, match="the backup holds no identity"):
        restore_home(home, home.identity_key, opened(wallet))
    backup = opened(wallet, identity=SECRET, former=[SecretKey(b"F" * 32), SecretKey(b"E" * 32)])
    restored = restore_home(
        home, home.identity_key, backup, passphrase=b"new passphrase", cost="interactive"
    )
    assert restored.credentials == 2
    assert is_identity_sealed(home.identity_key)

    def unlock() -> bytes:
        return b"new passphrase"

    assert load_identity(home.identity_key, unlock=unlock).public == SECRET.public
    with open_wallet(home, SECRET) as new:
        assert state(new) == state(wallet)
    former = former_identities(home.identity_key)
    assert {load_identity(path, unlock=unlock).public for path in former} == {
        key.public for key in backup.former
    }
    # An identity that is there stays.
    another = opened(wallet, identity=SecretKey(b"N" * 32))
    assert restore_home(home, home.identity_key, another, unlock=unlock) == Restored(0, 0, 0)
    assert load_identity(home.identity_key, unlock=unlock).public == SECRET.public
    assert former_identities(home.identity_key) == former


def test_a_revocation_on_either_side_stays(wallet: Wallet, other: Wallet) -> None:
    old = opened(wallet)
    restore_wallet(other, old)
    here, there = IssuedRegister(wallet.database), IssuedRegister(other.database)
    here.set_status("urn:uuid:2", "revocation", True, 20.0)  # after the backup
    here.set_status("urn:uuid:1", "suspension", False, 20.0)  # lifted after the backup
    there.set_status("urn:uuid:1", "revocation", True, 21.0)
    there.set_status("urn:uuid:2", "suspension", True, 21.0)
    expected = {0: (True, False), 1: (True, False), 2: (True, True)}

    def said(register: IssuedRegister) -> dict[int, tuple[bool, ...]]:
        found = (register.get(f"urn:uuid:{n}") for n in range(3))
        return {n: tuple(s.on for s in c.statuses) for n, c in enumerate(found) if c}

    restore_wallet(wallet, old)
    assert said(here) == {0: (True, False), 1: (False, False), 2: (True, False)}
    restore_wallet(wallet, opened(other))
    restore_wallet(other, opened(wallet))
    assert said(here) == said(there) == expected


def test_registers_that_went_apart_are_joined(wallet: Wallet, other: Wallet) -> None:
    """Both gave the same entry to another credential: revoking either says so for both."""
    restore_wallet(other, opened(wallet))
    at_7 = {w: IssuedRegister(w.database, draw=lambda _: 7) for w in (wallet, other)}
    assert issue(at_7[wallet], 10)[0].index == issue(at_7[other], 11)[0].index == 7
    at_7[other].reserve(ISSUER, ["revocation"], 1.0)  # taken, and never finished
    restore_wallet(wallet, opened(other))
    assert len(list(at_7[wallet].iterate())) == 5
    (row,) = [r for r in at_7[wallet].lists() if r.name == "revocation-1"]
    assert row.used == 6
    at_7[wallet].set_status("urn:uuid:11", "revocation", True, 1.0)
    assert at_7[wallet].list_bits(ISSUER, "revocation-1")[0] & 1
    assert at_7[wallet].reserve(ISSUER, ["revocation"], 1.0)[0].index not in (7, 0)
    wallet.check()


def test_an_entry_that_was_taken_becomes_the_credentials(wallet: Wallet, other: Wallet) -> None:
    """Backed up between taking an entry and recording; then the other way round."""
    register = IssuedRegister(wallet.database)
    places = register.reserve(ISSUER, ["revocation"], 1.0)
    before = opened(wallet)
    register.record(
        b"late",
        credential_id="urn:uuid:late",
        issuer=ISSUER,
        subject="s",
        kind="k",
        issued_s=1.0,
        valid_until_s=None,
        places=places,
    )
    complete = state(wallet)
    restore_wallet(wallet, before)
    assert state(wallet) == complete
    restore_wallet(other, before)
    restore_wallet(other, opened(wallet))
    assert state(other)["lists"] == complete["lists"]
    found = IssuedRegister(other.database).at(ISSUER, "revocation-1", places[0].index)
    assert found is not None
    assert found.credential_id == "urn:uuid:late"


def test_another_credential_under_the_same_id(wallet: Wallet, other: Wallet) -> None:
    issue(IssuedRegister(other.database), 2, b"!")
    before = state(other)
    with pytest.raises(UserError, match="another credential with the id urn:uuid:2"):
        restore_wallet(other, opened(wallet))
    assert state(other) == before  # nothing of it


def test_what_is_said_here_is_newer(wallet: Wallet, other: Wallet) -> None:
    backup = opened(wallet)
    restore_wallet(other, backup)
    (first,) = other.find()
    other.set_quarantine(first.id, True, "distrusted")
    other.put_status_list("https://example.org/1", b"newer", 6.0)
    restore_wallet(other, backup)
    assert other.count() == 0
    kept = other.get_status_list("https://example.org/1")
    assert kept is not None
    assert kept.original == b"newer"


def sealed(plain: bytes) -> bytes:
    return seal(
        plain,
        PASSPHRASE,
        salt=bytes(16),
        nonce=bytes(24),
        purpose="wallet-backup",
        cost="interactive",
    )


HEAD = (
    json.dumps({"kwaainet_backup": 1, "made_s": 1, "identity": None, "former": []}).encode() + b"\n"
)


def test_wrong_passphrase_or_damage(wallet: Wallet) -> None:
    data = backup_of(wallet)
    with pytest.raises(PassphraseWrong, match="does not open the backup"):
        read_backup(data, PASSPHRASE + b"!")
    for damaged in (b"", data[:-1], data[:40], data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(PassphraseWrong):
            read_backup(damaged, PASSPHRASE)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (b"", "ends too early"),
        (b"not deflated", "cannot be unpacked"),
        (zlib.compress(b""), "a version that is not known"),
        (zlib.compress(b"[]\n"), "a version that is not known"),
        (zlib.compress(b'{"kwaainet_backup":3}\n'), "a version that is not known"),
        (zlib.compress(b'{"kwaainet_backup":1}\n'), "first line is wrong"),
        (
            zlib.compress(b'{"kwaainet_backup":1,"made_s":1,"identity":"00","former":[]}\n'),
            "first line is wr",
        ),
        *(
            (
                zlib.compress(
                    b'{"kwaainet_backup":1,"made_s":%s,"identity":null,"former":[]}\n' % time
                ),
                "first line is",
            )
            for time in (b"Infinity", b"NaN", b"1e300", b"-1", b"1" + b"0" * 400)
        ),
        (
            zlib.compress(b'{"kwaainet_backup":1,"made_s":"x","identity":null,"former":[]}\n'),
            "first line is",
        ),
        (zlib.compress(b"[" * 100_000 + b"\n"), "cannot be unpacked"),
        (zlib.compress(b"{}"), "last line has no end|a version that is not known"),
        (zlib.compress(HEAD)[:-8], None),
    ],
)
def test_what_is_no_backup(plain: bytes, message: str | None, other: Wallet) -> None:
    with pytest.raises(FileCorrupt, match=message):
        restore_wallet(other, read_backup(sealed(plain), PASSPHRASE))
    assert other.count(quarantined=None) == 0


def test_bombs(other: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKUP_BYTES_MAX", 4_000_000)
    for bomb in (b" " * 30_000_000, (b"1" * 1000 + b"\n") * 30_000):
        backup = read_backup(sealed(zlib.compress(HEAD + bomb)), PASSPHRASE)
        with pytest.raises(FileCorrupt, match=r"unpacks to more|row that no wallet has"):
            restore_wallet(other, backup)


CREDENTIAL = ["credential", "YQ==", ["A"], "i", ["s"], None, 2, None, 3, False, ""]
LIST = ["list", "i", "revocation-1", "revocation", 131072, 0]


def request_row(
    *, id: str = "00" * 16, peer: str = REQUEST.peer, body: bytes = REQUEST.body
) -> list[Any]:
    packed = base64.b64encode(body).decode()
    return ["request", 1, packed, id, "in", "request", peer, "t", "pending", "", 1, 1]


@pytest.mark.parametrize(
    "rows",
    [
        [5],
        [[]],
        [["none"]],
        [["credential"]],
        [[*CREDENTIAL, 1]],
        [[*CREDENTIAL[:1], "!", *CREDENTIAL[2:]]],
        [[*CREDENTIAL[:2], "A", 5, *CREDENTIAL[4:]]],
        [[*CREDENTIAL[:2], [5], *CREDENTIAL[3:]]],
        [[*CREDENTIAL[:3], "\ud800", *CREDENTIAL[4:]]],
        [[*CREDENTIAL[:5], "1", *CREDENTIAL[6:]]],
        [[*CREDENTIAL[:5], True, *CREDENTIAL[6:]]],
        [CREDENTIAL, ["long_form", "a"]],
        [CREDENTIAL, ["long_form", "a", 5]],
        [["fetched_list", "u", "YQ==", None]],
        [["list", "i", "n", "p", 7, 0]],
        [["list", "i", "n", "p", 1 << 60, 0]],
        [["list", "i", "n", "p", "8", 0]],
        [["list", "i", "n", "p", 8, 1 << 64]],
        [["long_form", "a", "b", "c"]],
        [["fetched_list", "u", "YQ==", 10**400]],
        [LIST, ["list", "i", "revocation-1", "suspension", 131072, 0]],
        [["entry", "i", "revocation-1", 1, 1, None, 0, None]],
        [LIST, ["entry", "i", "revocation-1", 131072, 1, None, 0, None]],
        [LIST, ["entry", "i", "revocation-1", -1, 1, None, 0, None]],
        [LIST, ["entry", "i", "revocation-1", 1, 1, None, 2, None]],
        [LIST, ["entry", "i", "revocation-1", 1, 1, "urn:none", 0, None]],
        [["issued", "YQ==", "id", "i", "s", "k", None, None]],
        [["request", 1, "YQ==", "id", "sideways", "request", "p", "t", "pending", "", 1, 1]],
        [["list", "i", "revocation-1", "suspension", 131072, 0]],
        [["list", "i", "../revocation-1", "revocation", 131072, 0]],
        [request_row(id="zz" * 16)],
        [request_row(id="00")],
        [request_row(peer="12D3KooWnobody")],
        [request_row(body=b"a")],
        [request_row(body=b"[" * 100_000)],
        [request_row(body=b'{"claims":[],"note":""}')],
        [request_row(body=b'{"claims":{}}')],
    ],
)
def test_rows_that_no_wallet_has(rows: list[Any], other: Wallet) -> None:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    backup = read_backup(sealed(zlib.compress(HEAD + lines)), PASSPHRASE)
    with pytest.raises(FileCorrupt, match="a row that no wallet has"):
        restore_wallet(other, backup)
    assert state(other)["credentials"] == []
    assert state(other)["lists"] == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("YQ=="),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KINDS = ["credential", "fetched_list", "long_form", "list", "issued", "entry", "request"]


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.sampled_from([CREDENTIAL, LIST])
        | st.tuples(st.sampled_from(KINDS), st.lists(JSON, max_size=12)).map(
            lambda r: [r[0], *r[1]]
        ),
        max_size=4,
    )
)
def test_any_rows_are_a_wallet_or_refused(rows: list[Any], joined: Callable[[Any], None]) -> None:
    joined(rows)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], None]]:
    with open_wallet(Home(tmp_path_factory.mktemp("fuzz")), SECRET) as wallet:

        def join(rows: Any) -> None:
            lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
            with contextlib.suppress(KwaaiError):
                restore_wallet(wallet, Backup(1.0, None, (), zlib.compress(HEAD + lines)))

        yield join
        wallet.check()
