"""The node's directories and its identity key: made once, for one user, never overwritten."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from credentials.keys import SecretKey, encode_key_file, peer_id
from kwaai.errors import ConfigError, DiskFull, FileCorrupt, IdentityMissing
from kwaai.store.home import ensure_home, kwaai_home
from kwaai.store.identity_file import create_exclusive, ensure_identity, load_identity

AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def test_home_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KWAAINET_HOME", raising=False)
    assert kwaai_home() == tmp_path / ".kwaainet"
    monkeypatch.setenv("KWAAINET_HOME", "")
    assert kwaai_home() == tmp_path / ".kwaainet"
    monkeypatch.setenv("KWAAINET_HOME", "~/elsewhere")
    assert kwaai_home() == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KWAAINET_HOME", "here")
    assert kwaai_home() == tmp_path / "here"


def test_directories_are_for_this_user_only(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        home = ensure_home(tmp_path / "deep" / "home")
    finally:
        os.umask(previous)
    assert [stat.S_IMODE(d.stat().st_mode) for d in home.directories] == [0o700] * 5
    assert sorted(p.name for p in home.path.iterdir()) == ["credentials", "logs", "models", "run"]
    assert ensure_home(home.path) == home


def test_a_home_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    home = ensure_home(tmp_path / "home")
    home.run.chmod(0o770)
    with pytest.raises(ConfigError, match=rf"mode 0770\); run: chmod go-w {home.run}"):
        ensure_home(home.path)


def test_a_file_in_a_directorys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(ConfigError, match="models is a file, and a directory is needed"):
        ensure_home(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot create .*: Not a directory; set KWAAINET_HOME"):
        ensure_home(tmp_path / "file" / "home")


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskFull, match="No space left on device; free some space"):
        ensure_home(tmp_path / "home")


@AS_ROOT
def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied; set KWAAINET_HOME"):
        ensure_home(tmp_path / "home")
    with pytest.raises(ConfigError):
        ensure_home(tmp_path)


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    secret, created = ensure_identity(path)
    assert created
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == encode_key_file(secret)
    again, created = ensure_identity(path)
    assert not created
    assert again.public == secret.public
    assert [p.name for p in tmp_path.iterdir()] == ["identity.key"]


def test_an_open_umask_does_not_open_the_key(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        ensure_identity(tmp_path / "identity.key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600


def test_many_at_once_make_one_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: ensure_identity(path), range(64)))
    assert len({peer_id(secret.public) for secret, _ in results}) == 1
    assert sum(created for _, created in results) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["identity.key"]


def test_there_is_none_yet(tmp_path: Path) -> None:
    with pytest.raises(IdentityMissing, match="run: kwaainet setup"):
        load_identity(tmp_path / "identity.key")


GOOD = encode_key_file(SecretKey(bytes(32)))


@pytest.mark.parametrize(
    ("data", "mode", "error", "message"),
    [
        (GOOD, 0o640, ConfigError, r"is open to other users \(mode 0640\); run: chmod 600 "),
        (GOOD, 0o604, ConfigError, r"mode 0604"),
        (
            b"",
            0o600,
            FileCorrupt,
            "it has 0 bytes; an Ed25519 key file has 68; kwaainet never over",
        ),
        (GOOD[:-1], 0o600, FileCorrupt, "it has 67 bytes"),
        (GOOD * 2, 0o600, FileCorrupt, "it has 136 bytes"),
        (b"x" * 68, 0o600, FileCorrupt, "does not begin like a libp2p Ed25519 private key"),
        (GOOD[:-1] + b"x", 0o600, FileCorrupt, "public half does not belong"),
        (b"\x08\x00" + b"x" * 1000, 0o600, FileCorrupt, "type RSA"),
    ],
)
def test_a_bad_key_file_is_named_and_kept(
    data: bytes, mode: int, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(data)
    path.chmod(mode)
    for attempt in (load_identity, ensure_identity):
        with pytest.raises(error, match=message):
            attempt(path)
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    directory, pipe, link = tmp_path / "d", tmp_path / "p", tmp_path / "l"
    directory.mkdir()
    os.mkfifo(pipe, 0o600)
    link.symlink_to(tmp_path / "nowhere")
    for path, message in [(directory, "regular file"), (pipe, "regular file"), (link, "a link to")]:
        with pytest.raises((FileCorrupt, ConfigError), match=message):
            ensure_identity(path)
    assert not (tmp_path / "nowhere").exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"cannot write .*: No space left"):
        ensure_identity(tmp_path / "identity.key")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*: No such file or directory"):
        ensure_identity(tmp_path / "none" / "identity.key")


def test_create_exclusive_changes_nothing_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert create_exclusive(path, b"first", 0o600)
    assert not create_exclusive(path, b"second", 0o600)
    assert path.read_bytes() == b"first"
