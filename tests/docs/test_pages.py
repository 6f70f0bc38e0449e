"""Pages that people read first do not lie: their links lead somewhere, their commands exist, their
programs compile.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kwaai.cli.main import build_parser

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "tools/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
COMMAND = re.compile(r"^(?:\w+=\S+ )*(kwaainet [a-z].*)$", re.MULTILINE)
W3C_THREATS = {"M": 25, "A": 41}


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def commands(text: str) -> list[str]:
    return COMMAND.findall(text.replace("\\\n", " "))


@pytest.mark.parametrize(
    ("page", "least"),
    [("README.md", 5), ("docs/credentials.md", 25), ("docs/knowledge.md", 14)],
)
def test_commands_exist(page: str, least: int) -> None:
    shown = [line for block in blocks(page, "sh") for line in commands(block)]
    assert len(shown) >= least
    for command in shown:
        build_parser().parse_args(shlex.split(command, comments=True)[1:])


def test_tests_of_the_threat_model_exist() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
    defined = {path.name for path in TESTS}
    for path in TESTS:
        defined.update(re.findall(r"def (test_\w+)", path.read_text("utf-8")))
    named = set(re.findall(r"`(test_[\w.]+)`", page))
    assert len(named) >= 100
    assert named - defined == set()


def test_every_threat_of_the_w3c_is_dealt_with() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
    listed = page[page.index("\n### ") : page.index("\n## Network")]
    for letter, count in W3C_THREATS.items():
        named = {int(number) for number in re.findall(rf"\b{letter}(\d+)\b", listed)}
        for start, stop in re.findall(rf"\b{letter}(\d+) to {letter}(\d+)\b", listed):
            named.update(range(int(start), int(stop)))
        assert named == set(range(1, count + 1))


def test_programs_in_the_readme_compile() -> None:
    programs = blocks("README.md", "python")
    assert programs
    for program in programs:
        compile(program, "README.md", "exec")


def test_the_two_commands_of_the_readme_are_those_of_the_script() -> None:
    shell = "".join(blocks("README.md", "sh"))
    assert 'python3 tools/bootstrap.py run "What is the capital of France?"' in shell
    assert "python3 tools/bootstrap.py test" in shell
