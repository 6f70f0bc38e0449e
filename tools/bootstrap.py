#!/usr/bin/env python3
"""From a fresh clone to an answer, or to passed tests, in one command. Standard library only.

    python3 tools/bootstrap.py run "What is the capital of France?"
    python3 tools/bootstrap.py test
    python3 tools/bootstrap.py check

Checks first what the system must have and names all that is missing, with the line that installs
it; then makes a virtual environment in `.venv` and installs kwaainet there. Never installs into the
system's Python, and never runs a package manager other than the environment's own pip. Must itself
run on any Python 3.8 or newer, so that an old one can be told what is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON_MINIMUM = (3, 11)
NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")
DISK_GB_MINIMUM = 3
MEMORY_GB_MINIMUM = 2
PROMPT = "What is the capital of France?"
NODES = "4"
QUIET_S = 30.0  # between two signs of life where the output is no terminal
LOG_LINES_SHOWN = 25
ENGINE = "llama-cpp-python"

COMPILERS = {
    "C": ("CC", ("cc", "gcc", "clang"), ".c", "#include <stdio.h>\nint main(void) { return 0; }\n"),
    "C++": ("CXX", ("c++", "g++", "clang++"), ".cpp", "#include <vector>\nint main() {}\n"),
}
# libp2p needs a package that is built from source, and it needs this library.
GMP = "#include <gmp.h>\nint main(void) { mpz_t n; mpz_init(n); mpz_clear(n); return 0; }\n"
HOMEBREW = "/opt/homebrew"  # on Apple processors; the compiler does not look there by itself
# What supplies each requirement, by system: the line's beginning, then its words per requirement.
SYSTEMS = {
    "Debian, Ubuntu": (
        "sudo apt-get update && sudo apt-get install -y",
        {"compiler": "build-essential", "python": "python{version}-venv", "gmp": "libgmp-dev"},
    ),
    "Fedora": (
        "sudo dnf install -y",
        {"compiler": "gcc gcc-c++", "python": "python{version}", "gmp": "gmp-devel"},
    ),
    "Arch": (
        "sudo pacman -S --needed",
        {"compiler": "base-devel", "python": "python", "gmp": "gmp"},
    ),
    "macOS": ("brew install", {"compiler": "", "python": "python@{version}", "gmp": "gmp"}),
    "Nix": ("nix develop", {"compiler": "", "python": "", "gmp": ""}),
}
MACOS_COMPILER = "xcode-select --install"
LIKE = {"debian": "Debian, Ubuntu", "ubuntu": "Debian, Ubuntu", "fedora": "Fedora"}
LIKE.update({"rhel": "Fedora", "arch": "Arch", "nixos": "Nix"})


class Stop(Exception):
    """Nothing more can be done; the message says why and what would help."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Missing(NamedTuple):
    kind: str  # a key of the tables in SYSTEMS
    text: str


def say(text: str) -> None:
    print(text, flush=True)


# --- what the system has ----------------------------------------------------------------------


def dotted(version: Iterable[int]) -> str:
    return ".".join(str(part) for part in version)


def check_python(found: tuple[int, int], environ: Mapping[str, str]) -> list[Missing]:
    """Look at the running interpreter's version, and for a newer one on the PATH."""
    if found >= PYTHON_MINIMUM:
        return []
    need = dotted(PYTHON_MINIMUM)
    text = f"needs Python >= {need}, found {dotted(found)} ({sys.executable})"
    for name in NEWER_PYTHONS:
        path = shutil.which(name, path=environ.get("PATH", ""))
        if path and subprocess.run([path, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            text += f"; {path} is there: run this script with it"
            break
    return [Missing("python", text)]


def check_venv() -> list[Missing]:
    """Debian and Ubuntu ship `venv` without the pip that it puts into an environment."""
    lacking = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if not lacking:
        return []
    text = f"needs Python's {' and '.join(lacking)}, which make a virtual environment"
    return [Missing("python", text)]


def find_compiler(language: str, environ: Mapping[str, str]) -> list[str]:
    """Return the compiler's command, or an empty list. CC and CXX win, and may carry options."""
    variable, names, _, _ = COMPILERS[language]
    path = environ.get("PATH", "")
    if environ.get(variable):
        command = shlex.split(environ[variable])
        return command if command and shutil.which(command[0], path=path) else []
    return next(([name] for name in names if shutil.which(name, path=path)), [])


def check_compiler(language: str, environ: Mapping[str, str]) -> list[Missing]:
    """Find the compiler and let it make a program: one without its headers is of no use."""
    variable, names, suffix, source = COMPILERS[language]
    command = find_compiler(language, environ)
    if not command:
        looked = f"{variable}={environ[variable]}" if environ.get(variable) else ", ".join(names)
        return [Missing("compiler", f"needs a {language} compiler, found none of: {looked}")]
    reason = try_program(command, suffix, source, environ)
    if not reason:
        return []
    return [Missing("compiler", f"needs a working {language} compiler: {reason}")]


def check_gmp(environ: Mapping[str, str]) -> list[Missing]:
    """Look for GMP's header and library, with a C compiler that works."""
    command = find_compiler("C", environ)
    flags = [environ.get(name, "") for name in ("CPPFLAGS", "CFLAGS", "LDFLAGS")]
    reason = try_program(command, ".c", GMP, environ, [*shlex.split(" ".join(flags)), "-lgmp"])
    if not reason:
        return []
    return [Missing("gmp", f"needs GMP's header and library (gmp.h, libgmp): {reason}")]


def try_program(
    command: Sequence[str],
    suffix: str,
    source: str,
    environ: Mapping[str, str],
    options: Sequence[str] = (),
) -> str:
    """Let a compiler make a program; return why it could not, or an empty string."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / ("program" + suffix)
        program.write_text(source)
        try:
            result = subprocess.run(
                [*command, str(program), "-o", str(program.with_suffix("")), *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                timeout=120,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if result.returncode == 0:
        return ""
    said = result.stdout.decode(errors="replace").strip().splitlines() or ["no message"]
    reason = next((line for line in said if "error" in line), said[0])
    return f"{command[0]} cannot make a program: {reason}"


def with_homebrew(environ: Mapping[str, str]) -> dict[str, str]:
    """Let the compiler find what Homebrew installed."""
    found = dict(environ)
    if sys.platform == "darwin" and os.path.isdir(HOMEBREW):
        for name, part in (("CPATH", "include"), ("LIBRARY_PATH", "lib")):
            found[name] = os.pathsep.join(filter(None, [found.get(name), f"{HOMEBREW}/{part}"]))
    return found


def check_system(environ: Mapping[str, str]) -> list[Missing]:
    """Return everything that is missing, so that one line can install it all."""
    missing = check_python(sys.version_info[:2], environ)
    if not missing:  # an old interpreter's own modules do not matter
        missing += check_venv()
    compilers = [entry for language in COMPILERS for entry in check_compiler(language, environ)]
    return missing + (compilers or check_gmp(environ))  # GMP is looked for with a compiler


def this_system() -> str:
    """Return the key of SYSTEMS that fits this machine, or an empty string."""
    if sys.platform == "darwin":
        return "macOS"
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return ""
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    words = (fields.get("ID", "") + " " + fields.get("ID_LIKE", "")).replace('"', "").split()
    return next((LIKE[word] for word in words if word in LIKE), "")


def install_line(system: str, kinds: Sequence[str]) -> str:
    """Return the command that installs what `kinds` name."""
    line, packages = SYSTEMS[system]
    version = dotted(max(sys.version_info[:2], PYTHON_MINIMUM))
    # Where there is no compiler, GMP has not been looked for: it is named to be on the safe side.
    named = dict.fromkeys([*kinds, "gmp"] if "compiler" in kinds else kinds)
    words = [packages[kind].format(version=version) for kind in named]
    words = [word for word in words if word]
    if system == "macOS":
        parts = [MACOS_COMPILER] if "compiler" in kinds else []
        return "; ".join([*parts, " ".join([line, *words])] if words else parts)
    if os.geteuid() == 0:
        line = line.replace("sudo ", "")
    return " ".join([line, *words])


def report_missing(missing: Sequence[Missing]) -> str:
    """Say what is missing and how to get it: this system's line first."""
    kinds = [entry.kind for entry in missing]
    here = this_system()
    lines = ["kwaainet cannot be set up yet. It"]
    lines += [f"  - {entry.text}" for entry in missing]
    lines += ["Install what is missing, then run this command again:"]
    for system in sorted(SYSTEMS, key=lambda name: name != here):
        lines.append(f"  {system + ':':<16} {install_line(system, kinds)}")
    return "\n".join(lines)


def available_memory_gb() -> float | None:
    """Return the memory that programs can still take, in GB; None where that is unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e9
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError):
        return None


def warnings(directory: Path) -> list[str]:
    """Return what may go wrong, and need not."""
    found = []
    while not directory.exists():
        directory = directory.parent
    disk_gb = shutil.disk_usage(directory).free / 1e9
    if disk_gb < DISK_GB_MINIMUM:
        found.append(
            f"{disk_gb:.1f} GB of disk are free at {directory}; "
            f"building and installing takes up to {DISK_GB_MINIMUM} GB"
        )
    memory_gb = available_memory_gb()
    if memory_gb is not None and memory_gb < MEMORY_GB_MINIMUM:
        found.append(
            f"{memory_gb:.1f} GB of memory are free; if the compiler is killed, set "
            "CMAKE_BUILD_PARALLEL_LEVEL=1 and try again"
        )
    return found


def check(environ: Mapping[str, str], venv: Path) -> None:
    """Raise Stop that names everything missing; print warnings."""
    if os.name == "nt":
        raise Stop("kwaainet runs on Linux and macOS; on Windows, use it inside WSL 2")
    missing = check_system(environ)
    if missing:
        raise Stop(report_missing(missing), exit_code=2)
    compilers = " and ".join(find_compiler(language, environ)[0] for language in COMPILERS)
    say(f"system: Python {platform.python_version()}, {compilers}, GMP, venv: all there")
    for warning in warnings(venv):
        say(f"warning: {warning}")


# --- the environment --------------------------------------------------------------------------


def stamp_key(pyproject: bytes, version: str) -> str:
    """Return what an installed environment was made from: the project file and the Python."""
    return hashlib.sha256(pyproject + b"\0" + version.encode()).hexdigest()


class Environment:
    """The virtual environment, and the stamp that says what is installed in it."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self.path = path
        self.bin = path / "bin"
        self.python = self.bin / "python"
        self.log = path / "install.log"
        self.stamp = path / "kwaainet-stamp.json"
        self.environ = clean(environ)
        self.key = stamp_key((ROOT / "pyproject.toml").read_bytes(), platform.python_version())

    def read_stamp(self) -> dict[str, object]:
        try:
            stamp = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def is_ready(self, extras: Sequence[str]) -> bool:
        """Whether these extras are installed, from this project file, with this Python."""
        stamp = self.read_stamp()
        installed = stamp.get("extras")
        return (
            stamp.get("key") == self.key
            and isinstance(installed, list)
            and set(extras) <= set(installed)
            and self.is_current_engine(stamp)
            and (self.bin / "kwaainet").exists()
            and self.python.exists()
        )

    def is_current_engine(self, stamp: Mapping[str, object]) -> bool:
        """Whether llama.cpp was built as CMAKE_ARGS asks; no CMAKE_ARGS: as it is."""
        wanted = self.environ.get("CMAKE_ARGS", "")
        return not wanted or stamp.get("cmake_args") == wanted

    def write_stamp(self, extras: Sequence[str]) -> None:
        old = self.read_stamp()
        built = self.environ.get("CMAKE_ARGS") or old.get("cmake_args", "")
        stamp = {"key": self.key, "extras": sorted(extras), "cmake_args": built}
        self.stamp.write_text(json.dumps(stamp) + "\n")

    def create(self) -> None:
        """Make the environment, or keep the one that is there if it is of this Python."""
        if self.path.exists() and any(self.path.iterdir()):
            if not (self.path / "pyvenv.cfg").exists():
                raise Stop(
                    f"{self.path} is not empty and not a virtual environment; "
                    "name another directory with --venv"
                )
            if self.version() == platform.python_version():
                return
            say(f"{self.path} is of another Python, or broken: it is made anew")
        venv = [sys.executable, "-m", "venv", "--clear", str(self.path)]
        result = subprocess.run(
            venv, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if result.returncode:
            raise Stop("making the virtual environment failed:\n" + result.stdout.decode())

    def version(self) -> str:
        """Return the version of the environment's Python; empty if that or its pip is broken."""
        code = "import pip, platform; print(platform.python_version())"
        try:
            result = subprocess.run(
                [str(self.python), "-c", code],
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return ""
        return result.stdout.decode().strip() if result.returncode == 0 else ""

    def install(self, extras: Sequence[str]) -> None:
        """Install kwaainet (editable: a `git pull` is enough to update it) and what it needs."""
        self.log.write_bytes(b"")
        if not self.is_current_engine(self.read_stamp()):
            # A wheel that pip built and cached under other CMAKE_ARGS would be taken otherwise.
            options = ("--no-cache-dir", "--force-reinstall", "--no-deps")
            self.pip("build the engine", *options, engine_requirement())
        target = f".[{','.join(extras)}]" if extras else "."
        self.pip("install kwaainet", "--editable", target)
        self.write_stamp(extras)

    def pip(self, title: str, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", "install", "--no-input", *arguments]
        run_logged(title, command, self.log, self.environ)


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what would lead pip or Python elsewhere than to the venv."""
    unwanted = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    kept = {name: value for name, value in environ.items() if name not in unwanted}
    kept.update(PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    return kept


def engine_requirement() -> str:
    """Return the project's requirement of llama-cpp-python."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return next(str(entry) for entry in project["dependencies"] if entry.startswith(ENGINE))


class Progress:
    """A sign of life: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, title: str, log: Path) -> None:
        self.title, self.log = title, log
        self.terminal = sys.stdout.isatty()
        self.start = time.monotonic()
        self.shown = 0.0

    def show(self) -> None:
        elapsed = time.monotonic() - self.start
        if not self.terminal and elapsed - self.shown < QUIET_S:
            return
        self.shown = elapsed
        line = f"  {self.title}: {elapsed:.0f} s  {last_line(self.log)}"
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r\033[K" + line[:width], end="", flush=True)
        else:
            say(line)

    def clear(self) -> None:
        if self.terminal:
            print("\r\033[K", end="", flush=True)


def run_logged(title: str, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
    """Run a long command with its output in `log` and a sign of life; raise Stop when it fails."""
    progress = Progress(title, log)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=str(ROOT), env=dict(environ), stdout=output, stderr=subprocess.STDOUT
        )
        code = None
        try:
            while code is None:
                try:
                    code = process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    progress.show()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            progress.clear()
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        raise Stop(f"{tail}\n\n{title}: failed (exit code {code}); all of it is in {log}")


def last_line(log: Path) -> str:
    """Return the end of a log, shortened: what pip is at."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2_000))
        lines = file.read().decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if said.startswith("Building wheel for " + ENGINE):
        return "compiling llama.cpp, which takes some minutes"
    return said[:70]


def prepare(venv: Path, extras: Sequence[str], environ: Mapping[str, str]) -> Environment:
    """Check, make the environment, install: what is done already is not done again."""
    environment = Environment(venv, environ)
    if sys.version_info[:2] >= PYTHON_MINIMUM and environment.is_ready(extras):
        say(f"kwaainet is installed in {venv}")
        return environment
    with timed("check the system"):
        check(environ, venv)
    with timed(f"make the virtual environment {venv}"):
        environment.create()
    with timed("install kwaainet and what it needs"):
        environment.install(extras)
    return environment


@contextlib.contextmanager
def timed(title: str) -> Iterator[None]:
    """Print a step's name, and at its end how long it took."""
    start = time.monotonic()
    say(f"{title} ...")
    yield
    say(f"{title}: done in {time.monotonic() - start:.0f} s")


# --- what can be asked ------------------------------------------------------------------------


def run(environment: Environment, arguments: Sequence[str]) -> int:
    """Set this node up, and let a swarm of nodes on this machine answer with the packaged model."""
    program = str(environment.bin / "kwaainet")

    def kwaainet(*words: str) -> int:
        say(f"\n$ {' '.join(shlex.quote(word) for word in ('kwaainet', *words))}")
        return subprocess.run([program, *words], env=environment.environ).returncode

    code = kwaainet("setup") or kwaainet("swarm", "up", "--nodes", NODES)
    if code:
        return code
    try:
        code = kwaainet("swarm", "run", *(arguments or [PROMPT]))
    finally:
        ended = kwaainet("swarm", "down")
    if not code and not ended:
        say(f"\nThe program is {program}; `{program} --help` shows what else it does.")
    return code or ended


def test(environment: Environment, arguments: Sequence[str]) -> int:
    """Run every check of the project, and say which failed."""
    failed = []
    for name, words in (
        ("ruff", ["ruff", "check", "kwaai", "credentials", "schemas", "tests", "tools"]),
        ("mypy", ["mypy"]),
        ("import-linter", ["lint-imports"]),
        ("pytest", ["pytest", *arguments]),
    ):
        say(f"\n$ {' '.join(shlex.quote(word) for word in words)}")
        start = time.monotonic()
        command = [str(environment.bin / words[0]), *words[1:]]
        code = subprocess.run(command, cwd=str(ROOT), env=environment.environ).returncode
        say(f"{name}: {'failed' if code else 'passed'} in {time.monotonic() - start:.0f} s")
        if code:
            failed.append(name)
    say("\n" + (f"failed: {', '.join(failed)}" if failed else "everything passed"))
    return 1 if failed else 0


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split our options from the words that go to `kwaainet swarm run` or to pytest."""
    parser = argparse.ArgumentParser(
        description="Set kwaainet up in a virtual environment, then run or test it.",
        epilog="After `run`: a prompt and any option of `kwaainet swarm run`. After `test`: any "
        "option of pytest.",
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=("run", "test", "check"))
    where = ROOT / ".venv"
    parser.add_argument("--venv", type=Path, default=where, metavar="DIR", help=f"default: {where}")
    known, rest = parser.parse_known_args(arguments)
    if known.action == "check" and rest:
        parser.error(f"check takes no {rest[0]}")
    return known, rest


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options, rest = parse_arguments(arguments)
    environ = with_homebrew(environ)
    venv = Path(os.path.abspath(str(options.venv.expanduser())))
    try:
        if options.action == "check":
            check(environ, venv)
            return 0
        environment = prepare(venv, ["dev"] if options.action == "test" else [], environ)
        return run(environment, rest) if options.action == "run" else test(environment, rest)
    except Stop as stop:
        print(stop, file=sys.stderr, flush=True)
        return stop.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr, flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
