"""`kwaainet storage`: made, looked at, checked and removed, without a server and without a node."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_command import Capture, run

from kwaai.node.storage_home import StorageHome, delete_storage, load_key, load_token, make_storage
from kwaai.store.home import HOME_VARIABLE
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.plain_store import PlainStore


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv(HOME_VARIABLE, str(path))
    return path


def put_one(storage: StorageHome) -> None:
    store = HostStore.open(storage.objects, 10**9, reserve_bytes=0)
    store.create_tenant(b"t" * 32, 10**6)
    store.put(b"t" * 32, b"b" * 16, [(b"i" * 16, b"sealed")])
    store.close()


def test_init_keeps_what_it_was_told(capsys: Capture, home: Path, tmp_path: Path) -> None:
    code, out, err = run(
        capsys,
        *("storage", "init", "--capacity-gb", "2.5", "--port", "17432"),
        *("--data-dir", str(tmp_path / "lent")),
    )
    assert (code, err) == (0, "")
    assert "Lends:    2.5 GB" in out
    text = (home / "config.yaml").read_text()
    assert "storage_capacity_gb: 2.5" in text
    assert "storage_port: 17432" in text
    storage = StorageHome(tmp_path / "lent")
    assert storage.is_made
    assert storage.path.stat().st_mode & 0o077 == 0
    assert storage.token.stat().st_mode & 0o077 == 0
    token = load_token(storage)
    assert len(token) == 32
    assert len(load_key(storage)) == 32
    assert run(capsys, "storage", "init")[0] == 0
    assert load_token(storage) == token


def test_init_without_a_word_lends_a_tenth(capsys: Capture, home: Path) -> None:
    code, out, _ = run(capsys, "storage", "init", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["capacity_bytes"] >= 10**9
    assert told["port"] == 7432
    assert told["path"] == str(home / "storage")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--capacity-gb", "0"),
        ("--capacity-gb", "-1"),
        ("--capacity-gb", "nan"),
        ("--port", "70000"),
        ("--port", "x"),
    ],
)
def test_what_init_refuses(capsys: Capture, home: Path, arguments: tuple[str, str]) -> None:
    code, _, err = run(capsys, "storage", "init", *arguments)
    assert code == 2
    assert arguments[0] in err
    assert not (home / "storage").exists()


def test_status_and_check_of_nothing(capsys: Capture, home: Path) -> None:
    code, out, _ = run(capsys, "storage", "status")
    assert code == 0
    assert "none: kwaainet storage init" in out
    assert "no: kwaainet storage start" in out
    code, out, _ = run(capsys, "storage", "check")
    assert code == 0
    assert "none are stored" in out


def test_status_and_check_of_what_is_there(capsys: Capture, home: Path) -> None:
    run(capsys, "storage", "init")
    storage = StorageHome(home / "storage")
    put_one(storage)
    plain = PlainStore.open(storage.vectors, load_key(storage), 10**9)
    tenant = plain.create_tenant("p", name=None, capacity_mb=1, dimension=2)
    plain.upload(tenant.id, [1], [[1.0, 0.0]])
    plain.close()
    _, out, _ = run(capsys, "storage", "status")
    assert "1 objects of 1 tenants" in out
    assert "1 vectors of 1" in out
    code, out, _ = run(capsys, "storage", "check", "--json")
    told = json.loads(out)
    assert (code, told["peers"]["objects"], told["programs"]["vectors"]) == (0, 1, 1)


def test_a_tenant_is_evicted(capsys: Capture, home: Path) -> None:
    assert run(capsys, "storage", "evict", "00", "-y")[0] == 66
    storage = StorageHome(home / "storage")
    make_storage(storage)
    put_one(storage)
    store = HostStore.open(storage.objects, 10**9)
    store.create_tenant(b"t" * 31 + b"u", 10**6, name="second", owner="12D3KooWpeer")
    store.close()
    _, out, _ = run(capsys, "storage", "status")
    assert "second" in out
    assert "12D3KooWpeer" in out
    key = (b"t" * 32).hex()
    for tenant, code in (("ff", 66), ("74", 2)):
        assert run(capsys, "storage", "evict", tenant, "-y")[0] == code
    assert run(capsys, "storage", "evict", key)[0] == 2
    code, out, _ = run(capsys, "storage", "evict", key, "-y")
    assert (code, "deleted 1 objects" in out) == (0, True)
    told = json.loads(run(capsys, "storage", "check", "--json")[1])
    assert [tenant["name"] for tenant in told["peers"]["list"]] == ["second"]


def test_check_finds_damage(capsys: Capture, home: Path) -> None:
    run(capsys, "storage", "init")
    storage = StorageHome(home / "storage")
    put_one(storage)
    data = bytearray(storage.objects.read_bytes())
    for at in range(8192 + 100, len(data), 64):
        data[at] ^= 0xFF
    storage.objects.write_bytes(data)
    code, _, err = run(capsys, "storage", "check")
    assert code == 65
    assert "objects.db" in err


def test_destroy_asks_and_takes_only_its_own(capsys: Capture, home: Path) -> None:
    run(capsys, "storage", "init")
    storage = StorageHome(home / "storage")
    put_one(storage)
    (storage.path / "somebody's").write_text("file")
    code, _, err = run(capsys, "storage", "destroy")
    assert code == 2
    assert "--yes" in err
    assert storage.objects.exists()
    code, out, _ = run(capsys, "storage", "destroy", "-y")
    assert (code, "deleted" in out) == (0, True)
    assert [file.name for file in storage.path.iterdir()] == ["somebody's"]
    (storage.path / "somebody's").unlink()
    delete_storage(storage)
    assert not storage.path.exists()
    code, out, _ = run(capsys, "storage", "destroy", "-y", "--json")
    assert (code, json.loads(out)["deleted"]) == (0, False)


def test_stop_without_a_server(capsys: Capture, home: Path) -> None:
    code, out, _ = run(capsys, "storage", "stop")
    assert code == 0
    assert "no storage is served" in out


def test_a_stale_file_is_not_believed(capsys: Capture, home: Path) -> None:
    run(capsys, "storage", "init")
    told = home / "run" / "storage.json"
    for text in (
        json.dumps({"pid": os.getpid(), "birth": "another", "url": "x"}),
        json.dumps({"pid": -1, "birth": "", "url": "x"}),
        "no json",
        "[]",
        "",
    ):
        told.write_text(text)
        assert "no storage is served" in run(capsys, "storage", "stop")[1]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("vectors.key", "xyz\n", "is no key"),
        ("vectors.key", "00\n", "is no key"),
        ("vectors.key", "", "one line"),
        ("vectors.key", "0" * 5000, "one line"),
    ],
)
def test_a_key_that_is_none(capsys: Capture, home: Path, name: str, text: str, says: str) -> None:
    run(capsys, "storage", "init")
    storage = StorageHome(home / "storage")
    PlainStore.open(storage.vectors, load_key(storage), 10**9).close()
    (storage.path / name).write_text(text)
    code, _, err = run(capsys, "storage", "status")
    assert code == 78
    assert says in err


def test_files_that_others_may_read_or_write_are_refused(capsys: Capture, home: Path) -> None:
    run(capsys, "storage", "init")
    storage = StorageHome(home / "storage")
    storage.token.chmod(0o644)
    code, _, err = run(capsys, "storage", "serve", "--port", "0")
    assert (code, "chmod 600" in err) == (78, True)
    storage.token.chmod(0o600)
    storage.path.chmod(0o777)
    code, _, err = run(capsys, "storage", "serve", "--port", "0")
    assert (code, "chmod 700" in err) == (78, True)
    storage.path.chmod(0o700)


def test_making_it_twice_changes_nothing(tmp_path: Path) -> None:
    storage = StorageHome(tmp_path / "deep" / "storage")
    make_storage(storage)
    before = load_token(storage), load_key(storage)
    make_storage(storage)
    assert (load_token(storage), load_key(storage)) == before
