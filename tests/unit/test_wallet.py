"""The wallet on disk: who may open it, what its files show, what breaks it; indexes and bounds."""

from __future__ import annotations

import json
import os
import stat
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from credentials.keys import SecretKey
from credentials.wallet import WalletEntry, wallet_id
from kwaai import sqlite
from kwaai.errors import (
    BodyTooLarge,
    ConfigError,
    CredentialMissing,
    FileCorrupt,
    KwaaiError,
    Locked,
    UserError,
    WalletLocked,
)
from kwaai.store import database, wallet_rows
from kwaai.store.home import Home
from kwaai.store.migrations import MIGRATIONS
from kwaai.store.wallet import Wallet, open_wallet, wallet_key, wallet_lock
from kwaai.store.wallet_key import load_wallet_keys

SECRET = SecretKey(b"S" * 32)
ENTRY = WalletEntry(
    types=("VerifiableCredential", "MarkerTypeVC"),
    issuer="did:key:z6MkMarkerIssuer",
    subjects=("did:key:z6MkMarkerSubject",),
    valid_from_s=1000.0,
    valid_until_s=None,
    credential_id="urn:uuid:marker-credential-id",
    added_s=1500.0,
    reason="MarkerReason",
)
ORIGINAL = b'{"credentialSubject":{"name":"MarkerClaim"}}'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def wallet(home: Home) -> Iterator[Wallet]:
    with open_wallet(home, SECRET) as opened:
        yield opened


def files(home: Home) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.credentials.iterdir()}


def test_its_files_are_the_owners_alone(home: Home) -> None:
    previous = os.umask(0)
    try:
        with open_wallet(home, SECRET) as wallet:
            wallet.add(ORIGINAL, ENTRY)
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in home.credentials.iterdir()}
    finally:
        os.umask(previous)
    assert set(modes) == {
        "wallet.db",
        "wallet.db-wal",
        "wallet.db-shm",
        "wallet.key",
        ".wallet.lock",
    }
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(home.credentials.stat().st_mode) == 0o700
    assert set(files(home)) == {"wallet.db", "wallet.key", ".wallet.lock"}


def test_no_file_holds_plain_text(home: Home) -> None:
    """Open and closed, with a log that was checkpointed and one that was not."""
    markers = [b"Marker", b"marker", b"SQLite format", b"CREATE TABLE", b"credentials_by_number"]
    markers += [SECRET.expose_seed(), SECRET.expose_seed()[:8]]
    keys = None
    with open_wallet(home, SECRET) as wallet:
        for round_ in range(3):
            for n in range(50):
                wallet.add(ORIGINAL + b"%d-%d" % (round_, n), ENTRY)
            wallet.put_status_list("https://marker.example/1", ORIGINAL, 1.0)
            wallet.put_long_form("did:peer:4Marker", "did:peer:4Marker:z")
            wallet.remove(wallet_id(ORIGINAL + b"%d-0" % round_))
            wallet.find(text="marker")
            shown = files(home)
            assert len(shown["wallet.db-wal"]) > 100_000 or round_
            keys = load_wallet_keys(wallet_key(home.credentials))
            assert keys is not None
            page_key = keys.open(SECRET)
            for name, data in shown.items():
                for marker in [*markers, page_key, page_key.hex().encode()]:
                    assert marker not in data, (name, marker)
            if round_ == 1:
                with wallet.database._lock:
                    wallet.database._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    for name, data in files(home).items():
        assert not any(marker in data for marker in markers), name


def test_another_identity_does_not_open_it(home: Home) -> None:
    open_wallet(home, SECRET).close()
    before = files(home)
    with pytest.raises(WalletLocked, match=r"is not for the identity did:key:.*; put the key of"):
        open_wallet(home, SecretKey(b"N" * 32))
    with pytest.raises(WalletLocked, match="no passphrase opens the wallet"):
        open_wallet(home, b"a passphrase")
    assert files(home) == before


def test_a_passphrase_opens_what_it_made(home: Home) -> None:
    with pytest.raises(UserError, match="a passphrase has 8"):
        open_wallet(home, b"short")
    with open_wallet(home, b"a passphrase", cost="interactive") as wallet:
        wallet.add(ORIGINAL, ENTRY)
    with open_wallet(home, b"a passphrase") as wallet:
        assert wallet.count() == 1
    with pytest.raises(WalletLocked, match="this passphrase does not open the wallet"):
        open_wallet(home, b"wrong passphrase")
    with pytest.raises(WalletLocked, match="give the wallet's passphrase"):
        open_wallet(home, SECRET)


@pytest.mark.parametrize("name", ["wallet.key", "wallet.db"])
def test_files_open_to_others_are_refused(name: str, home: Home) -> None:
    open_wallet(home, SECRET).close()
    path = home.credentials / name
    path.chmod(0o640)
    with pytest.raises(
        ConfigError, match=rf"{name} is open to other users \(mode 0640\); run: chm"
    ):
        open_wallet(home, SECRET)
    path.chmod(0o600)
    kept = path.rename(path.with_suffix(".away"))
    path.symlink_to(kept)
    with pytest.raises(ConfigError, match="is not a regular file"):
        open_wallet(home, SECRET)


def test_a_lost_half_is_a_loss_and_no_beginning(home: Home) -> None:
    with open_wallet(home, SECRET) as wallet:
        wallet.add(ORIGINAL, ENTRY)
    path = home.credentials / "wallet.db"
    away = path.rename(home.path / "away")
    with pytest.raises(FileCorrupt, match=r"is missing, and its key is there; restore it"):
        open_wallet(home, SECRET)
    assert not path.exists()
    away.rename(path)
    key = wallet_key(home.credentials).rename(home.path / "away")
    with pytest.raises(FileCorrupt, match=r"no wallet.key beside it"):
        open_wallet(home, SECRET)
    assert not wallet_key(home.credentials).exists()
    key.rename(wallet_key(home.credentials))
    with open_wallet(home, SECRET) as wallet:
        assert wallet.count() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "Expecting value"),
        ("[]", "is no wallet key"),
        ("{}", "'version'"),
        ('{"version": 2}', "version 2 is not known here"),
        ('{"version": 1, "made": true, "slots": []}', "it has no slots"),
        ('{"version": 1, "made": true, "slots": [{"kind": "x"}]}', "a slot of an unknown kind"),
        ('{"version": 1, "slots": [{"kind": "passphrase", "did": "", "wrapped": "x"}]}', "non-hex"),
        ("[" * 70_000, "it is too long"),
        ("[" * 60_000, "is no wallet key"),
    ],
)
def test_a_damaged_wallet_key_is_named(change: str, message: str, home: Home) -> None:
    open_wallet(home, SECRET).close()
    wallet_key(home.credentials).write_text(change)
    with pytest.raises(FileCorrupt, match=message):
        open_wallet(home, SECRET)
    assert wallet_key(home.credentials).read_text() == change


def test_a_swapped_wallet_key_is_named(home: Home, tmp_path: Path) -> None:
    open_wallet(home, SECRET).close()
    other = Home(tmp_path / "other")
    open_wallet(other, SECRET).close()
    wallet_key(home.credentials).write_bytes(wallet_key(other.credentials).read_bytes())
    with pytest.raises(FileCorrupt, match="is damaged, or not under its key; restore it"):
        open_wallet(home, SECRET)


def test_damaged_pages_are_named(home: Home) -> None:
    with open_wallet(home, SECRET) as wallet:
        for n in range(300):
            wallet.add(ORIGINAL + b"%d" % n + b"x" * 1000, ENTRY)
    path = home.credentials / "wallet.db"
    whole = path.read_bytes()
    for at in (20, 100, 5000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(FileCorrupt, match="is damaged"), open_wallet(home, SECRET) as wallet:
            wallet.check()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileCorrupt), open_wallet(home, SECRET) as wallet:
        wallet.check()
    path.write_bytes(whole)
    with open_wallet(home, SECRET) as wallet:
        wallet.check()
        assert wallet.count() == 300


def test_a_newer_wallet_is_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(database, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (a TEXT) STRICT;"))
        open_wallet(home, SECRET).close()
    versions = f"version {len(MIGRATIONS) + 1}, this one knows {len(MIGRATIONS)}"
    with pytest.raises(ConfigError, match=f"was made by a newer kwaainet .{versions}"):
        open_wallet(home, SECRET)


def test_an_older_wallet_is_brought_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_wallet(home, SECRET) as wallet:
        wallet.add(ORIGINAL, ENTRY)
    step = "CREATE TABLE later (a TEXT) STRICT; INSERT INTO later VALUES ('x');"
    with monkeypatch.context() as failing:
        failing.setattr(database, "MIGRATIONS", (*MIGRATIONS, step + "INSERT INTO none VALUES (1)"))
        with pytest.raises(apsw.SQLError):
            open_wallet(home, SECRET)
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, step))
    for _ in range(2):  # once only
        with open_wallet(home, SECRET) as wallet, wallet.database.read() as connection:
            assert connection.execute("SELECT count(*) FROM later").get == 1
            assert wallet.count() == 1


def test_resolving(wallet: Wallet) -> None:
    name = wallet.add(ORIGINAL, ENTRY)
    other = wallet.add(b"other", replace(ENTRY, credential_id="urn:uuid:2", quarantined=True))
    third = wallet.add(b"third", replace(ENTRY, credential_id="urn:uuid:2"))
    for text in (name, name[:6], name[:40], "urn:uuid:marker-credential-id"):
        assert wallet.resolve(text).original == ORIGINAL
    assert wallet.resolve(other[:8]).entry.quarantined
    assert wallet.resolve(third).original == b"third"
    for text in ("", name[:5], "0" * 64, "urn:uuid:3", name.upper(), name[:10] + "%", "%" * 8):
        with pytest.raises(CredentialMissing, match="the wallet holds no credential"):
            wallet.resolve(text)
    with pytest.raises(UserError, match="names several credentials"):
        wallet.resolve("urn:uuid:2")
    alike = [wallet.add(text, replace(ENTRY, credential_id=None)) for text in (b"4163", b"8864")]
    assert alike[0][:6] == alike[1][:6]  # of these two bytes, as it happens
    with pytest.raises(UserError, match="names several"):
        wallet.resolve(alike[0][:6])
    assert wallet.resolve(alike[0][:7]).original == b"4163"


def test_bounds_of_one_credential(wallet: Wallet) -> None:
    with pytest.raises(BodyTooLarge):
        wallet.add(b"x" * (256 * 1024 + 1), ENTRY)
    many = tuple(f"T{n}" for n in range(33))
    for entry in (
        replace(ENTRY, types=many),
        replace(ENTRY, subjects=many),
        replace(ENTRY, issuer="d" * 5000),
        replace(ENTRY, reason="r" * 5000),
        replace(ENTRY, types=("\ud800",)),
    ):
        with pytest.raises(UserError):
            wallet.add(b"x", entry)
    assert wallet.count(quarantined=None) == 0
    wallet.add(b"x" * 256 * 1024, replace(ENTRY, types=many[:32], subjects=many[:32]))
    with wallet.database.read() as connection:
        assert connection.execute("SELECT count(*) FROM facets").get == 1024


def test_names_go_with_the_last_that_uses_them(wallet: Wallet) -> None:
    a, b = wallet.add(b"a", ENTRY), wallet.add(b"b", replace(ENTRY, subjects=("did:key:other",)))
    wallet.remove(a)
    with wallet.database.read() as connection:
        texts = wallet_rows.column(connection, "SELECT text FROM names", ())
    assert set(texts) == {*ENTRY.types, ENTRY.issuer, "did:key:other"}
    wallet.remove(b)
    with wallet.database.read() as connection:
        for table in ("names", "facets", "originals", "credential_types", "credential_subjects"):
            assert connection.execute(f"SELECT count(*) FROM {table}").get == 0
    wallet.check()


FILTERS = [
    {},
    {"type": "T1"},
    {"issuer": "I1"},
    {"subject": "S1"},
    {"type": "T1", "issuer": "I1"},
    {"type": "T1", "subject": "S1"},
    {"issuer": "I1", "subject": "S1"},
    {"type": "T1", "issuer": "I1", "subject": "S1"},
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("valid_at_s", [None, 1.0])
@pytest.mark.parametrize("quarantined", [None, False])
@pytest.mark.parametrize("after", [None, 500])
def test_every_search_reads_one_index(
    filters: dict[str, str],
    valid_at_s: float | None,
    quarantined: bool | None,
    after: int | None,
    many: Wallet,
) -> None:
    """No table is read, nothing is sorted, and `after` is where the index is entered."""
    wanted = wallet_rows.Search(
        **filters, valid_at_s=valid_at_s, quarantined=quarantined, after=after
    )
    with many.database.read() as connection:
        query = wallet_rows.search_query(connection, wanted)
        assert query is not None
        statement, values = query
        plan = [
            row[3]
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement} LIMIT 100", values)
        ]
    (line,) = plan
    assert "USING COVERING INDEX" in line or "USING INTEGER PRIMARY KEY" in line or not filters
    assert "TEMP B-TREE" not in line
    if filters:
        assert line.startswith("SEARCH facets USING COVERING INDEX facets_by_")
        assert ("credential<?" in line) == (after is not None)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wallet]:
    with open_wallet(Home(tmp_path_factory.mktemp("many")), SECRET) as wallet:
        wallet.add_many(
            (
                b"%d" % n,
                replace(ENTRY, types=(f"T{n % 3}",), issuer=f"I{n % 20}", subjects=(f"S{n % 50}",)),
            )
            for n in range(1000)
        )
        yield wallet


def test_many_are_all_or_none(wallet: Wallet) -> None:
    def some() -> Iterator[tuple[bytes, WalletEntry]]:
        yield b"a", ENTRY
        yield b"b", replace(ENTRY, issuer="d" * 5000)

    with pytest.raises(UserError):
        wallet.add_many(some())
    assert wallet.count() == 0
    assert len(wallet.add_many([(b"a", ENTRY), (b"b", ENTRY), (b"a", ENTRY)])) == 3
    assert wallet.count() == 2
    with pytest.raises(KeyboardInterrupt):
        _interrupted(wallet)
    assert wallet.count() == 2


def _interrupted(wallet: Wallet) -> None:
    with wallet.batch():
        wallet.remove(wallet_id(b"a"))
        assert wallet.count() == 1
        raise KeyboardInterrupt


def test_a_write_inside_a_read_is_a_mistake(wallet: Wallet) -> None:
    with wallet.database.read(), pytest.raises(RuntimeError, match="a write inside a read"):
        wallet.add(b"a", ENTRY)
    wallet.add(b"a", ENTRY)


def test_threads_take_turns(wallet: Wallet) -> None:
    def work(n: int) -> None:
        for m in range(20):
            name = wallet.add(b"%d-%d" % (n, m), ENTRY)
            assert wallet.get(name) is not None
            if m % 2:
                wallet.remove(name)
            wallet.find(type="MarkerTypeVC", limit=5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert wallet.count() == 80
    wallet.check()


def test_two_that_have_it_open(home: Home) -> None:
    """As two processes do: each its own connection, each sees what the other has finished."""
    with open_wallet(home, SECRET) as one, open_wallet(home, SECRET) as two:
        one.add(b"a", ENTRY)
        assert two.count() == 1
        with one.batch():
            one.add(b"b", ENTRY)
            assert two.count() == 1  # not finished yet, and nobody has to wait to read
        assert two.count() == 2
        started = threading.Event()

        def write() -> None:
            with one.batch():
                one.add(b"c", ENTRY)
                started.set()
                for n in range(50):
                    one.add(b"c%d" % n, ENTRY)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(write)
            started.wait()
            two.add(b"d", ENTRY)  # waits for its turn
            done.result()
        assert one.count() == two.count() == 54


def test_waiting_has_an_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WALLET_BUSY_S", 0.05)
    with open_wallet(home, SECRET) as one, open_wallet(home, SECRET) as two:
        with one.batch(), pytest.raises(Locked, match="is in use by another process") as caught:
            two.add(b"a", ENTRY)
        assert caught.value.retry_after_s == 1.0
        two.add(b"a", ENTRY)
        assert one.count() == 1


def test_opening_waits_for_another_that_opens(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from kwaai.atomic import exclusive_lock
    from kwaai.store import wallet as module

    open_wallet(home, SECRET).close()
    monkeypatch.setattr(module, "WALLET_BUSY_S", 0.05)
    with exclusive_lock(wallet_lock(home.credentials)), pytest.raises(Locked):
        open_wallet(home, SECRET)


def test_many_that_make_it_at_once(home: Home) -> None:
    def make(n: int) -> str:
        with open_wallet(home, SECRET) as wallet:
            return wallet.add(b"%d" % n, ENTRY)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(16)))) == 16
    with open_wallet(home, SECRET) as wallet:
        assert wallet.count() == 16


def test_a_crash_while_it_is_made(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is there and the database is not, or is empty: it is made, not missed."""

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    for name in ("create_database", "open_database"):
        with monkeypatch.context() as crashing:
            crashing.setattr(f"kwaai.store.wallet.{name}", crash)
            with pytest.raises(Crash):
                open_wallet(home, SECRET)
    keys = load_wallet_keys(wallet_key(home.credentials))
    assert keys is not None
    assert not keys.made
    with open_wallet(home, SECRET) as wallet:
        wallet.add(ORIGINAL, ENTRY)
    assert json.loads(wallet_key(home.credentials).read_text())["made"] is True
    with open_wallet(home, SECRET) as wallet:
        assert wallet.count() == 1


def test_closing_twice_is_once(wallet: Wallet) -> None:
    wallet.close()
    wallet.close()


def test_secrets_reach_no_message(home: Home) -> None:
    with open_wallet(home, SECRET) as wallet:
        wallet.add(ORIGINAL, ENTRY)
        keys = load_wallet_keys(wallet_key(home.credentials))
        assert keys is not None
        key = keys.open(SECRET)
        said = [repr(wallet), repr(wallet.database), repr(keys), str(keys)]
    (home.credentials / "wallet.db").write_bytes(b"x" * 8192)

    for call in (lambda: open_wallet(home, SECRET), lambda: sqlite._set_key(NO_CIPHERS, key)):
        with pytest.raises(KwaaiError) as caught:
            call()
        said.append("".join(traceback.format_exception(caught.value)))
    text = "".join(said)
    for secret in (key, SECRET.expose_seed()):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


class NoCiphers:
    """A SQLite that cannot encrypt, and says the whole statement when it is asked to."""

    def execute(self, statement: str, **_: object) -> None:
        if "key" in statement:
            raise apsw.SQLError(f"near {statement}")


NO_CIPHERS: Any = NoCiphers()
