"""The node as a systemd user service: the unit's text, and the calls of `systemctl --user`.

Linux with systemd only; elsewhere every call says so. The unit runs `kwaainet start` in the
foreground: systemd keeps it up, and `kwaainet stop` is `systemctl stop`'s SIGTERM. systemd.unit(5).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kwaai import limits
from kwaai.atomic import write_atomic
from kwaai.errors import ResourceError, UserError

UNIT = "kwaainet.service"
_TIMEOUT_S = 60.0


def unit_text(program: Sequence[str], home: Path) -> str:
    """Return the unit that runs `program` as the node of `home`."""
    # In a command line $ begins a variable; in an assignment it is a character.
    start = " ".join(_quote(word).replace("$", "$$") for word in (*program, "start"))
    stop_s = limits.DRAIN_GRACE_S + limits.STOP_TIMEOUT_S
    return f"""\
# Written by `kwaainet service install`; `kwaainet service uninstall` removes it.
[Unit]
Description=kwaainet node
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
Environment={_quote(f"KWAAINET_HOME={home}")}
ExecStart={start}
Restart=on-failure
RestartSec=5
# SIGTERM is for the node alone: it lets answers under way end, then ends its workers itself.
KillMode=mixed
TimeoutStopSec={stop_s:.0f}
# 130 and 143: ended by a signal, as asked.
SuccessExitStatus=130 143
UMask=0077

[Install]
WantedBy=default.target
"""


def _quote(word: str) -> str:
    """Write a word so that systemd reads it as it is: no specifiers, escapes or splitting."""
    if "\n" in word or "\0" in word:
        raise UserError(f"a path with a line break cannot be in a systemd unit: {word!r}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What systemd knows of the unit."""

    path: Path
    is_installed: bool
    enabled: str
    """enabled, disabled, not-found ..."""
    active: str
    """active, inactive, failed ..."""


def unit_path() -> Path:
    """Return where this user's units are."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    config = Path(base) if base.startswith("/") else Path.home() / ".config"
    return config / "systemd" / "user" / UNIT


def install(program: Sequence[str], home: Path) -> Path:
    """Write the unit, enable it and start it (again). Raises ResourceError."""
    _check_systemd()
    path = unit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, unit_text(program, home).encode(), mode=0o644)
    _systemctl("daemon-reload")
    _systemctl("enable", UNIT)
    _systemctl("restart", UNIT)
    return path


def is_service(pid: int) -> bool:
    """Whether a process is the unit's: its control group says so."""
    try:
        return f"/{UNIT}" in Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
    except OSError:
        return False


def restart() -> None:
    """End the unit's process and start it again. Raises ResourceError."""
    _check_systemd()
    _systemctl("restart", UNIT)


def uninstall() -> bool:
    """Stop, disable and remove the unit; return whether there was one. Raises ResourceError."""
    _check_systemd()
    path = unit_path()
    if not path.exists():
        return False
    _systemctl("disable", "--now", UNIT)
    path.unlink(missing_ok=True)
    _systemctl("daemon-reload")
    return True


def state() -> ServiceState:
    """Ask systemd about the unit. Raises ResourceError where there is no systemd."""
    _check_systemd()
    path = unit_path()
    return ServiceState(path, path.exists(), _ask("is-enabled"), _ask("is-active"))


def _check_systemd() -> None:
    if shutil.which("systemctl") is None:
        raise ResourceError(
            "there is no systemd here (no systemctl on the PATH); run: kwaainet start --daemon, or "
            "let this system's own service manager run: kwaainet start"
        )
    if not Path("/run/systemd/system").is_dir():
        raise ResourceError(
            "this system was not started by systemd (a container?); run the node with "
            "`kwaainet start --daemon`"
        )


def _systemctl(*arguments: str) -> None:
    result = _run(*arguments)
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
        raise ResourceError(
            f"systemctl --user {' '.join(arguments)} failed: {said[-1]}; in a session without a "
            "user manager, `loginctl enable-linger` starts one"
        )


def _ask(question: str) -> str:
    return _run(question, UNIT).stdout.strip() or "unknown"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["systemctl", "--user", "--no-pager", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ResourceError(f"systemctl did not answer in {_TIMEOUT_S:g} s") from None
