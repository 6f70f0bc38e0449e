"""Key files, sealed and plain: who opens them, what a secret never reaches, what a crash leaves."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from credentials.keys import SecretKey, encode_key_file
from kwaai import atomic
from kwaai.errors import (
    ConfigError,
    FileCorrupt,
    IdentityExists,
    IdentityMissing,
    IdentitySealed,
    OwnerMissing,
    PassphraseWrong,
    UserError,
    WalletLocked,
)
from kwaai.store import key_file, rotation
from kwaai.store.home import Home
from kwaai.store.identity_file import (
    ensure_identity,
    export_identity,
    former_identities,
    is_identity_sealed,
    load_identity,
    parse_exported,
    seal_identity,
    unseal_identity,
)
from kwaai.store.owner_file import (
    create_owner,
    export_owner,
    is_owner_sealed,
    load_owner,
    owner_key,
    seal_owner,
    unseal_owner,
)
from kwaai.store.rotation import add_opener, import_identity, rotate_identity
from kwaai.store.wallet import open_wallet

SECRET = SecretKey(b"S" * 32)
PASSPHRASE = b"correct horse battery"
SECOND = b"zebra quartz 9"
WRONG = b"wrong: mauve"
VARIABLES = [
    f"KWAAINET_{name}PASSPHRASE{suffix}" for name in ("", "OWNER_") for suffix in ("", "_FILE")
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    key_file.create_exclusive(home.identity_key, encode_key_file(SECRET), 0o600)
    return home


def seal(path: Path, passphrase: bytes = PASSPHRASE, **options: Callable[[], bytes]) -> None:
    seal_identity(path, passphrase, cost="interactive", **options)


def test_a_sealed_key_opens_with_its_passphrase_only(home: Home) -> None:
    path = home.identity_key
    assert not is_identity_sealed(path)
    seal(path)
    assert is_identity_sealed(path)
    data = path.read_bytes()
    assert SECRET.expose_seed() not in data
    assert SECRET.public.raw not in data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_identity(path, unlock=lambda: PASSPHRASE).public == SECRET.public
    secret, is_new = ensure_identity(path, unlock=lambda: PASSPHRASE)
    assert (secret.public, is_new) == (SECRET.public, False)
    with pytest.raises(PassphraseWrong, match=r"does not open the identity key .*try another"):
        load_identity(path, unlock=lambda: b"wrong")
    with pytest.raises(IdentitySealed, match="set KWAAINET_PASSPHRASE, or KWAAINET_PASSPHRASE_F"):
        ensure_identity(path)
    assert path.read_bytes() == data


def test_a_changed_seal_does_not_open(home: Home) -> None:
    path = home.identity_key
    seal(path)
    data = path.read_bytes()
    for at in (8, 20, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(PassphraseWrong):
            load_identity(path, unlock=lambda: PASSPHRASE)
    path.write_bytes(data[:-20])
    with pytest.raises(PassphraseWrong):
        load_identity(path, unlock=lambda: PASSPHRASE)


def test_an_owners_seal_is_no_identitys(home: Home) -> None:
    path = home.identity_key
    path.unlink()
    create_owner(path, PASSPHRASE, cost="interactive")
    assert load_owner(path, unlock=lambda: PASSPHRASE)
    with pytest.raises(PassphraseWrong):
        load_identity(path, unlock=lambda: PASSPHRASE)


def test_the_environment_unlocks(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(home.identity_key)
    named = tmp_path / "passphrase"
    monkeypatch.setenv("KWAAINET_PASSPHRASE_FILE", str(named))
    with pytest.raises(ConfigError, match=r"cannot read the passphrase file .*: No such file"):
        load_identity(home.identity_key)
    for text in (PASSPHRASE, PASSPHRASE + b"\n", PASSPHRASE + b"\r\n"):
        named.write_bytes(text)
        assert load_identity(home.identity_key).public == SECRET.public
    for text in (b"", b"\n", b"x" * 1025):
        named.write_bytes(text)
        with pytest.raises(ConfigError, match="does not hold 1 to 1024 bytes"):
            load_identity(home.identity_key)
    monkeypatch.setenv("KWAAINET_PASSPHRASE", PASSPHRASE.decode())  # goes before the file
    assert load_identity(home.identity_key).public == SECRET.public
    monkeypatch.setenv("KWAAINET_PASSPHRASE", "wrong")
    with pytest.raises(PassphraseWrong):
        load_identity(home.identity_key)


def test_a_plain_key_asks_for_nothing(home: Home) -> None:
    def never() -> bytes:
        raise AssertionError

    assert load_identity(home.identity_key, unlock=never).public == SECRET.public


def test_another_passphrase_and_none(home: Home) -> None:
    path = home.identity_key
    seal(path)
    with pytest.raises(IdentitySealed):
        seal(path, SECOND)
    seal(path, SECOND, unlock=lambda: PASSPHRASE)
    with pytest.raises(PassphraseWrong):
        unseal_identity(path, unlock=lambda: PASSPHRASE)
    unseal_identity(path, unlock=lambda: SECOND)
    assert path.read_bytes() == encode_key_file(SECRET)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("passphrase", [b"", b"short", b"x" * 1025])
def test_bad_passphrases(passphrase: bytes, home: Home) -> None:
    with pytest.raises(UserError, match="a passphrase has 8 to 1024 bytes"):
        seal_identity(home.identity_key, passphrase)
    assert load_identity(home.identity_key).public == SECRET.public


def test_a_linked_key_is_sealed_where_it_is(home: Home, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.key"
    home.identity_key.rename(real)
    home.identity_key.symlink_to(real)
    seal(home.identity_key)
    assert home.identity_key.is_symlink()
    assert is_identity_sealed(real)


def test_sealing_fails_whole(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError, match=r"cannot write .*: Input/output error"):
        seal(home.identity_key)
    monkeypatch.undo()
    assert load_identity(home.identity_key).public == SECRET.public
    assert not list(home.path.glob("*.part"))
    assert not list(home.path.glob(".*.part"))


def test_what_a_crash_left_of_a_secret_goes(home: Home) -> None:
    left = home.path / ".identity.key.0123456789ab.part"
    left.write_bytes(encode_key_file(SECRET))
    seal(home.identity_key)
    assert not left.exists()


def test_export_and_import(home: Home, tmp_path: Path) -> None:
    exported = export_identity(home.identity_key, PASSPHRASE, cost="interactive")
    assert SECRET.expose_seed() not in exported
    assert parse_exported(exported, lambda: PASSPHRASE).public == SECRET.public
    other = Home(tmp_path / "other")
    other.path.mkdir()
    with pytest.raises(PassphraseWrong):
        import_identity(other, other.identity_key, exported, lambda: b"wrong")
    with pytest.raises(FileCorrupt, match="what was given is no identity key: it has 3 bytes"):
        import_identity(other, other.identity_key, b"key", lambda: PASSPHRASE)
    assert not other.identity_key.exists()
    import_identity(other, other.identity_key, exported, lambda: PASSPHRASE)
    assert other.identity_key.read_bytes() == encode_key_file(SECRET)
    # The same once more changes nothing; another one only where it is asked for.
    import_identity(other, other.identity_key, exported, lambda: PASSPHRASE, replace=True)
    assert former_identities(other.identity_key) == []
    new = encode_key_file(SecretKey(b"N" * 32))
    with pytest.raises(IdentityExists, match="--replace puts it aside"):
        import_identity(other, other.identity_key, new, lambda: b"")
    import_identity(
        other,
        other.identity_key,
        new,
        lambda: b"",
        replace=True,
        passphrase=PASSPHRASE,
        cost="interactive",
        now_s=0.0,
    )
    assert is_identity_sealed(other.identity_key)
    (former,) = former_identities(other.identity_key)
    assert load_identity(former).public == SECRET.public


def test_rotation_takes_the_wallet_along(home: Home) -> None:
    path = home.identity_key
    with open_wallet(home, SECRET) as wallet:
        wallet.put_long_form("short", "long")
    new = rotate_identity(home, path, now_s=1_800_000_000.0)
    assert load_identity(path).public == new.public != SECRET.public
    (former,) = former_identities(path)
    assert former.name == "identity.key.20270115T080000Z"
    assert load_identity(former).public == SECRET.public
    with open_wallet(home, new) as wallet:
        assert wallet.long_forms() == {"short": "long"}
    with pytest.raises(
        WalletLocked, match=r"is not for the identity .*put the key of did:key:z6Mk"
    ):
        open_wallet(home, SECRET)
    newest = rotate_identity(home, path, now_s=1_800_000_000.0)
    assert [kept.name for kept in former_identities(path)] == [
        "identity.key.20270115T080000Z",
        "identity.key.20270115T080000Z-2",
    ]
    # Going back is importing: the wallet follows again.
    import_identity(home, path, former.read_bytes(), lambda: b"", replace=True)
    open_wallet(home, SECRET).close()
    with pytest.raises(WalletLocked):
        open_wallet(home, newest)


def test_rotation_of_a_sealed_key_is_sealed(home: Home) -> None:
    path = home.identity_key
    seal(path)
    with pytest.raises(IdentitySealed):
        rotate_identity(home, path)
    new = rotate_identity(home, path, unlock=lambda: PASSPHRASE, cost="interactive")
    assert load_identity(path, unlock=lambda: PASSPHRASE).public == new.public
    (former,) = former_identities(path)
    assert is_identity_sealed(former)
    new = rotate_identity(
        home, path, unlock=lambda: PASSPHRASE, passphrase=SECOND, cost="interactive"
    )
    assert load_identity(path, unlock=lambda: SECOND).public == new.public


def test_a_wallet_under_a_passphrase_stays_so(home: Home) -> None:
    open_wallet(home, PASSPHRASE, cost="interactive").close()
    new = rotate_identity(home, home.identity_key)
    open_wallet(home, PASSPHRASE).close()
    with pytest.raises(WalletLocked, match="give the wallet's passphrase"):
        open_wallet(home, new)
    add_opener(home, PASSPHRASE, new)
    open_wallet(home, new).close()
    open_wallet(home, PASSPHRASE).close()
    add_opener(home, new, SECOND, cost="interactive")
    with pytest.raises(WalletLocked, match="this passphrase does not open"):
        open_wallet(home, PASSPHRASE)


@pytest.mark.parametrize("step", range(8))
def test_a_crash_in_a_rotation(step: int, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """End at each write to the disk: whichever identity is there then opens the wallet."""
    open_wallet(home, SECRET).close()
    writes = 0

    class Crash(BaseException):
        pass

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def crashing(*arguments: object, **options: object) -> object:
            nonlocal writes
            writes += 1
            if writes > step:
                raise Crash
            return call(*arguments, **options)

        return crashing

    monkeypatch.setattr(atomic, "sync_directory", counted(atomic.sync_directory))
    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "link", counted(os.link))
    crashed = False
    try:
        rotate_identity(home, home.identity_key)
    except Crash:
        crashed = True
    monkeypatch.undo()
    assert crashed == (step < 7), writes
    left = load_identity(home.identity_key)
    open_wallet(home, left).close()
    if left.public != SECRET.public:
        assert any(
            load_identity(p).public == SECRET.public for p in former_identities(home.identity_key)
        )
    new = rotate_identity(home, home.identity_key)
    open_wallet(home, new).close()
    with pytest.raises(WalletLocked):
        open_wallet(home, left)
    copies = [p.read_bytes() for p in former_identities(home.identity_key)]
    assert len(copies) == len(set(copies))


def test_an_owner(home: Home) -> None:
    path = owner_key(home)
    with pytest.raises(OwnerMissing, match="run: kwaainet identity owner create"):
        load_owner(path)
    owner = create_owner(path, PASSPHRASE, cost="interactive")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_owner_sealed(path)
    with pytest.raises(IdentitySealed, match="set KWAAINET_OWNER_PASSPHRASE"):
        load_owner(path)
    with pytest.raises(IdentityExists, match="there is an owner key at"):
        create_owner(path)
    assert load_owner(path, unlock=lambda: PASSPHRASE).public == owner.public
    unseal_owner(path, unlock=lambda: PASSPHRASE)
    assert not is_owner_sealed(path)
    exported = export_owner(path, PASSPHRASE, cost="interactive")
    seal_owner(path, PASSPHRASE, cost="interactive")
    path.write_bytes(exported)
    assert load_owner(path, unlock=lambda: PASSPHRASE).public == owner.public


def test_secrets_reach_no_message(
    home: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not the text, the repr or the whole trace of any refusal."""
    path = home.identity_key
    open_wallet(home, SECRET).close()
    seal(path)
    exported = export_identity(path, SECOND, unlock=lambda: PASSPHRASE, cost="interactive")
    other = SecretKey(b"N" * 32)
    calls: list[Callable[[], object]] = [
        lambda: load_identity(path),
        lambda: load_identity(path, unlock=lambda: PASSPHRASE + b"!"),
        lambda: parse_exported(exported, lambda: PASSPHRASE),
        lambda: parse_exported(encode_key_file(SECRET)[:-1], lambda: PASSPHRASE),
        lambda: parse_exported(encode_key_file(SECRET)[:-1] + b"!", lambda: PASSPHRASE),
        lambda: import_identity(home, path, encode_key_file(other), lambda: b""),
        lambda: seal_identity(path, b"short"),
        lambda: seal_identity(path, PASSPHRASE * 99),
        lambda: rotate_identity(home, path, unlock=lambda: WRONG),
        lambda: open_wallet(home, other),
        lambda: open_wallet(home, PASSPHRASE),
        lambda: load_identity(tmp_path / "none"),
    ]
    said = []
    for call in calls:
        with pytest.raises((UserError, FileCorrupt)) as caught:
            call()
        said.append("".join(traceback.format_exception(caught.value)) + repr(caught.value))
    text = "\n".join(said) + "".join(capfd.readouterr())
    for secret in (SECRET, other):
        seed = secret.expose_seed()
        for form in (seed.decode(), seed.hex(), repr(seed)[2:-1], seed.hex().upper()):
            assert form not in text
    for passphrase in (PASSPHRASE, SECOND, WRONG):
        assert passphrase.decode() not in text


def test_there_is_none_to_seal(tmp_path: Path) -> None:
    for call in (
        lambda: seal_identity(tmp_path / "identity.key", PASSPHRASE),
        lambda: is_identity_sealed(tmp_path / "identity.key"),
        lambda: rotation.rotate_identity(Home(tmp_path), tmp_path / "identity.key"),
    ):
        with pytest.raises(IdentityMissing):
            call()
