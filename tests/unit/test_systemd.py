"""The systemd unit: what it says, how it quotes, and what is said where there is no systemd."""

from __future__ import annotations

import configparser
import os
import shlex
import stat
from pathlib import Path

import pytest

from kwaai.errors import ResourceError, UserError
from kwaai.node import systemd

PROGRAM = ["/opt/a b/bin/python", "-P", "-m", "kwaai.cli"]


def parse(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(text)
    return parser


def test_the_unit_runs_the_node_in_the_foreground() -> None:
    unit = parse(systemd.unit_text(PROGRAM, Path("/home/ann/.kwaainet")))
    service = unit["Service"]
    assert shlex.split(service["ExecStart"]) == [*PROGRAM, "start"]
    assert service["Environment"] == '"KWAAINET_HOME=/home/ann/.kwaainet"'
    assert service["Type"] == "exec"
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure"
    assert int(service["TimeoutStopSec"]) == 50, "longer than the node's own deadline"
    assert unit["Install"]["WantedBy"] == "default.target"


def test_what_systemd_would_read_otherwise_is_quoted() -> None:
    text = systemd.unit_text(["/o%d/$x/p\\y"], Path('/h/$a %b "c"'))
    assert 'ExecStart="/o%%d/$$x/p\\\\y" "start"' in text
    assert 'Environment="KWAAINET_HOME=/h/$a %%b \\"c\\""' in text
    with pytest.raises(UserError, match="line break"):
        systemd.unit_text(["python"], Path("/a\nExecStartPre=rm"))


def test_without_systemd_every_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (lambda: systemd.install(PROGRAM, tmp_path), systemd.uninstall, systemd.state):
        with pytest.raises(ResourceError, match="there is no systemd here"):
            call()


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that writes down what it is asked; the system looks as if systemd had started it.
    Returns its journal.
    """
    journal = tmp_path / "asked"
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {journal}\necho active\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    is_dir = Path.is_dir
    monkeypatch.setattr(
        Path, "is_dir", lambda path: str(path) == "/run/systemd/system" or is_dir(path)
    )
    return journal


def test_install_and_uninstall(systemctl: Path, tmp_path: Path) -> None:
    path = systemd.install(PROGRAM, tmp_path)
    assert path == tmp_path / "config/systemd/user/kwaainet.service"
    assert path.read_text() == systemd.unit_text(PROGRAM, tmp_path)
    state = systemd.state()
    assert (state.is_installed, state.active) == (True, "active")
    assert systemd.uninstall()
    assert not path.exists()
    assert not systemd.uninstall()
    assert [line.removeprefix("--user --no-pager ") for line in
            systemctl.read_text().splitlines()] == [
        "daemon-reload",
        "enable kwaainet.service",
        "restart kwaainet.service",
        "is-enabled kwaainet.service",
        "is-active kwaainet.service",
        "disable --now kwaainet.service",
        "daemon-reload",
    ]  # fmt: skip


def test_restart(systemctl: Path) -> None:
    systemd.restart()
    assert systemctl.read_text().endswith("restart kwaainet.service\n")
    assert not systemd.is_service(os.getpid())


def test_what_systemctl_refuses_is_one_line(systemctl: Path, tmp_path: Path) -> None:
    program = systemctl.with_name("systemctl")
    program.write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    with pytest.raises(ResourceError, match="daemon-reload failed: Failed to connect to bus"):
        systemd.install(PROGRAM, tmp_path)
