"""tools/bootstrap.py: what is missing is named all at once, what is done is not done again.

No network, no real environment: PATH and the compilers are made up.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "bootstrap.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module  # NamedTuple looks its own module up
    spec.loader.exec_module(module)
    return module


bootstrap = load()
WORKS = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n'
BROKEN = "#!/bin/sh\necho 'program.c:1:10: fatal error: stdio.h: No such file' >&2\nexit 1\n"


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Make a PATH that holds only the given programs; return the environment."""

    def make(**scripts: str) -> dict[str, str]:
        directory = tmp_path / "programs"
        directory.mkdir(exist_ok=True)
        for name, script in scripts.items():
            path = directory / name.replace("xx", "++")
            path.write_text(script, "utf-8")
            path.chmod(0o755)
        return {"PATH": str(directory)}

    return make


def texts(environ: Mapping[str, str]) -> list[str]:
    return [entry.text for entry in bootstrap.check_system(environ)]


def test_nothing_is_missing(programs: Callable[..., dict[str, str]]) -> None:
    assert texts(programs(cc=WORKS, gxx=WORKS)) == []


def test_a_machine_without_a_compiler(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "run", "--venv", str(tmp_path / "venv")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert "needs a C compiler, found none of: cc, gcc, clang" in result.stderr
    assert "needs a C++ compiler, found none of: c++, g++, clang++" in result.stderr
    assert "apt-get install -y build-essential libgmp-dev" in result.stderr
    assert "xcode-select --install" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_everything_missing_is_named_at_once(
    programs: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        bootstrap.importlib.util,
        "find_spec",
        lambda name: None if name == "ensurepip" else find_spec(name),
    )
    monkeypatch.setattr(bootstrap, "this_system", lambda: "Debian, Ubuntu")
    missing = bootstrap.check_system(programs())
    assert [entry.kind for entry in missing] == ["python", "compiler", "compiler"]
    report = bootstrap.report_missing(missing).splitlines()
    assert "ensurepip" in report[1]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    first = next(line for line in report if line.startswith("  Debian, Ubuntu:"))
    assert f"apt-get install -y python{version}-venv build-essential libgmp-dev" in first
    assert report.index(first) == 5, "this machine's own line comes first"
    assert len(report) == 5 + len(bootstrap.SYSTEMS)


def test_an_old_python(programs: Callable[..., dict[str, str]]) -> None:
    [missing] = bootstrap.check_python((3, 9), programs())
    assert "needs Python >= 3.11, found 3.9" in missing.text
    assert "install -y python3." in bootstrap.install_line("Fedora", [missing.kind])


def test_an_old_python_beside_a_new_one(programs: Callable[..., dict[str, str]]) -> None:
    environ = programs(**{"python3.12": "#!/bin/sh\n", "python3.13": "#!/bin/sh\nexit 127\n"})
    [missing] = bootstrap.check_python((3, 9), environ)
    assert f"{environ['PATH']}/python3.12 is there: run this script with it" in missing.text


def test_python_3_11_is_enough() -> None:
    assert bootstrap.check_python((3, 11), {}) == []


def test_a_compiler_without_headers(programs: Callable[..., dict[str, str]]) -> None:
    [text] = texts(programs(cc=BROKEN, gxx=WORKS))
    assert "needs a working C compiler: cc cannot make a program" in text
    assert "stdio.h" in text


WITHOUT_GMP = (
    '#!/bin/sh\nfor word in "$@"; do [ "$word" = -lgmp ] && {\n'
    "echo 'program.c:1:10: fatal error: gmp.h: No such file' >&2; exit 1; }; done\n" + WORKS[10:]
)


def test_a_machine_without_gmp(programs: Callable[..., dict[str, str]]) -> None:
    [missing] = bootstrap.check_system(programs(cc=WITHOUT_GMP, gxx=WORKS))
    assert missing.kind == "gmp"
    assert "gmp.h: No such file" in missing.text
    for system, package in (
        ("Debian, Ubuntu", "libgmp-dev"),
        ("Fedora", "gmp-devel"),
        ("Arch", "gmp"),
        ("macOS", "gmp"),
    ):
        assert bootstrap.install_line(system, ["gmp"]).endswith(" " + package)
    assert bootstrap.install_line("Nix", ["gmp"]) == "nix develop"


def test_gmp_is_looked_for_where_the_flags_say(programs: Callable[..., dict[str, str]]) -> None:
    wants = (
        '#!/bin/sh\ncase "$*" in *-lgmp*) case "$*" in *-I/g/include*-L/g/lib*) ;; *) exit 1;;'
        " esac;; esac\n" + WORKS[10:]
    )
    environ = programs(cc=wants, gxx=WORKS)
    assert len(texts(environ)) == 1
    assert texts({**environ, "CFLAGS": "-I/g/include", "LDFLAGS": "-L/g/lib"}) == []


def test_homebrew_is_looked_at_on_macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "HOMEBREW", str(tmp_path))
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    assert bootstrap.with_homebrew({"PATH": "/"}) == {"PATH": "/"}
    monkeypatch.setattr(bootstrap.sys, "platform", "darwin")
    found = bootstrap.with_homebrew({"CPATH": "/mine"})
    assert found == {"CPATH": f"/mine:{tmp_path}/include", "LIBRARY_PATH": f"{tmp_path}/lib"}


def test_cc_and_cxx_win_and_may_have_options(programs: Callable[..., dict[str, str]]) -> None:
    environ = programs(cc=BROKEN, gxx=BROKEN, mine=WORKS)
    assert texts({**environ, "CC": "mine -O0", "CXX": "mine"}) == []


def test_cc_that_does_not_exist(programs: Callable[..., dict[str, str]]) -> None:
    [text] = texts({**programs(cc=WORKS, gxx=WORKS), "CC": "absent"})
    assert "found none of: CC=absent" in text


@pytest.mark.parametrize("system", bootstrap.SYSTEMS)
def test_every_system_has_a_line_for_everything(system: str) -> None:
    line = bootstrap.install_line(system, ["python", "compiler", "gmp"])
    assert line
    assert "{" not in line


@pytest.mark.parametrize(
    ("release", "system"),
    [
        ('ID=ubuntu\nID_LIKE=debian\nNAME="Ubuntu"\n', "Debian, Ubuntu"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "Fedora"),
        ("ID=manjaro\nID_LIKE=arch\n", "Arch"),
        ("ID=unheard-of\n\n# a comment\n", ""),
    ],
)
def test_systems_are_told_apart(monkeypatch: pytest.MonkeyPatch, release: str, system: str) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap.Path, "read_text", lambda *_: release)
    assert bootstrap.this_system() == system


# --- the environment and its stamp


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An environment that looks finished, and an `install` that only writes down what pip got."""
    environment = bootstrap.Environment(tmp_path / "venv", {"PATH": "/nowhere"})
    environment.bin.mkdir(parents=True)
    for name in ("python", "kwaainet"):
        (environment.bin / name).touch()
    environment.calls = []
    monkeypatch.setattr(
        bootstrap,
        "run_logged",
        lambda title, command, log, environ: environment.calls.append(command[3:]),
    )
    return environment


def test_the_stamp_depends_on_project_and_python() -> None:
    key = bootstrap.stamp_key(b"project", "3.11.7")
    assert key == bootstrap.stamp_key(b"project", "3.11.7")
    assert key != bootstrap.stamp_key(b"project", "3.12.1")
    assert key != bootstrap.stamp_key(b"project 2", "3.11.7")


def test_what_is_installed_is_not_installed_again(environment: Any) -> None:
    assert not environment.is_ready([])
    environment.install(["dev"])
    assert environment.is_ready(["dev"])
    assert environment.is_ready([]), "what the tests need includes what a run needs"


def test_a_run_does_not_make_the_tests_ready(environment: Any) -> None:
    environment.install([])
    assert environment.is_ready([])
    assert not environment.is_ready(["dev"])


def test_another_project_file_is_installed_again(environment: Any) -> None:
    environment.install([])
    environment.key = "another"
    assert not environment.is_ready([])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 1}', '{"extras": 3}', "\x00"])
def test_a_broken_stamp_is_no_stamp(environment: Any, content: str) -> None:
    environment.stamp.write_text(content, "utf-8")
    assert not environment.is_ready([])


def test_a_lost_program_is_noticed(environment: Any) -> None:
    environment.install([])
    (environment.bin / "kwaainet").unlink()
    assert not environment.is_ready([])


def test_a_failed_install_leaves_no_stamp(
    environment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise bootstrap.Stop("pip failed")

    monkeypatch.setattr(bootstrap, "run_logged", fail)
    with pytest.raises(bootstrap.Stop):
        environment.install([])
    assert not environment.stamp.exists()


def test_the_engine_is_built_anew_when_cmake_args_ask_for_it(environment: Any) -> None:
    environment.install([])
    assert len(environment.calls) == 1
    environment.environ["CMAKE_ARGS"] = "-DGGML_CUDA=on"
    assert not environment.is_ready([])
    environment.install([])
    engine = environment.calls[1]
    assert "--no-cache-dir" in engine
    assert engine[-1].startswith("llama-cpp-python>=")
    assert environment.is_ready([])
    del environment.environ["CMAKE_ARGS"]
    assert environment.is_ready([]), "no CMAKE_ARGS: as it is"
    assert json.loads(environment.stamp.read_text())["cmake_args"] == "-DGGML_CUDA=on"


def test_a_directory_of_the_user_is_never_cleared(environment: Any) -> None:
    precious = environment.path / "thesis.txt"
    precious.write_text("years of work", "utf-8")
    with pytest.raises(bootstrap.Stop, match="not a virtual environment"):
        environment.create()
    assert precious.read_text("utf-8") == "years of work"


def test_pip_is_kept_inside_the_environment() -> None:
    environ = bootstrap.clean(
        {"PIP_TARGET": "/usr", "PYTHONPATH": "/x", "PIP_USER": "1", "KWAAINET_HOME": "/h"}
    )
    assert environ["PIP_USER"] == "0"
    assert environ["KWAAINET_HOME"] == "/h"
    assert not {"PIP_TARGET", "PYTHONPATH"} & set(environ)


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "install.log"
    command = [sys.executable, "-c", "for i in range(99): print('line', i)\nraise SystemExit(3)"]
    with pytest.raises(bootstrap.Stop) as caught:
        bootstrap.run_logged("try", command, log, os.environ)
    message = str(caught.value)
    assert "line 98" in message
    assert "line 9\n" not in message
    assert "try: failed (exit code 3)" in message
    assert str(log) in message


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "rest"),
    [
        (["run"], []),
        (["run", "A prompt?"], ["A prompt?"]),
        (
            ["run", "A prompt?", "--route", "auto", "--stats"],
            ["A prompt?", "--route", "auto", "--stats"],
        ),
        (["test", "-k", "rings and not slow", "-x"], ["-k", "rings and not slow", "-x"]),
        (["--venv", "v", "test", "tests/unit"], ["tests/unit"]),
        (["test", "--venv", "v", "-q"], ["-q"]),
    ],
)
def test_what_is_not_ours_is_passed_on(arguments: list[str], rest: list[str]) -> None:
    options, passed_on = bootstrap.parse_arguments(arguments)
    assert passed_on == rest
    assert options.venv.name == ("v" if "--venv" in arguments else ".venv")


class Program:
    """Stands in for `kwaainet`: writes down what it is asked; one command may fail."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.asked: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.asked.append(command[1:])
        failed = " ".join(command[1:]).startswith(self.fails or "nothing")
        return subprocess.CompletedProcess(command, 7 if failed else 0)


UP = ["swarm", "up", "--nodes", "4"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["What is the capital of France?"]),
        (["Hi"], ["Hi"]),
        (["Hi", "--stats"], ["Hi", "--stats"]),
    ],
)
def test_run_lets_a_swarm_answer(
    environment: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    program = Program()
    monkeypatch.setattr(bootstrap.subprocess, "run", program)
    assert bootstrap.run(environment, arguments) == 0
    assert program.asked == [["setup"], UP, ["swarm", "run", *words], ["swarm", "down"]]


@pytest.mark.parametrize(
    ("fails", "last"),
    [
        ("setup", ["setup"]),
        ("swarm up", UP),
        ("swarm run", ["swarm", "down"]),
        ("swarm down", ["swarm", "down"]),
    ],
)
def test_what_fails_is_the_exit_code_and_no_swarm_is_left(
    environment: Any, monkeypatch: pytest.MonkeyPatch, fails: str, last: list[str]
) -> None:
    program = Program(fails)
    monkeypatch.setattr(bootstrap.subprocess, "run", program)
    assert bootstrap.run(environment, []) == 7
    assert program.asked[-1] == last


def test_tests_all_run_and_failures_are_named(
    environment: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(Path(command[0]).name)
        return subprocess.CompletedProcess(command, int(asked[-1] == "mypy"))

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    assert bootstrap.test(environment, ["-x"]) == 1
    assert asked == ["ruff", "mypy", "lint-imports", "pytest"]
    assert "failed: mypy" in capsys.readouterr().out
