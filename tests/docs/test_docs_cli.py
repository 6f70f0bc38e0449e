"""docs/cli.md, docs/credential-types.md and docs/errors.md are what the parser, the schemas and the
tree of errors say.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from kwaai import errors

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "tools/generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["docs/cli.md", "docs/credential-types.md", "docs/errors.md"])
def test_the_page_is_up_to_date(name: str, generator: ModuleType) -> None:
    page = (ROOT / name).read_text("utf-8")
    assert page == generator.GENERATORS[name](), "run: python tools/generate_docs.py"


def test_every_command_has_a_section() -> None:
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    for command in (
        *("setup", "config show", "config set", "identity show", "shard run", "shard download"),
        *("shard chain", "shard gap", "shard serve", "p2p info", "p2p peers", "p2p ping"),
        *("p2p connect", "shard status", "models list", "models manifest", "serve", "bench"),
        "help",
    ):
        assert f"\n## kwaainet {command}\n" in page


def test_every_error_has_a_row_with_a_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.KwaaiError)
    ]
    page = (ROOT / "docs/errors.md").read_text("utf-8")
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        row = f"| `{kind.code}` | {kind.__name__} |"
        assert page.count(row) == 1
        assert 1 <= kind.exit_code <= 125
        assert 400 <= kind.http_status <= 599


def test_check_says_which_page_differs(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generator.main(["--check"]) == 0
    monkeypatch.setitem(generator.GENERATORS, "docs/errors.md", lambda: "another\n")
    assert generator.main(["--check"]) == 1
    assert capsys.readouterr().out == "differs from the code: docs/errors.md\n"
