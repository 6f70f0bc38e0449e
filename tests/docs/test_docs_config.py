"""docs/config.md is what the settings' model says, and the README of the settings says it all."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import yaml

from kwaai.config import KEYS
from kwaai.config.template import config_template

ROOT = Path(__file__).parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "tools/generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs/config.md").read_text("utf-8")
    assert page == generator().config_page(), "run: python tools/generate_docs.py"


def test_every_key_has_a_row() -> None:
    page = (ROOT / "docs/config.md").read_text("utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == KEYS


def test_the_template_names_every_key_and_sets_none() -> None:
    template = config_template()
    assert yaml.safe_load(template) is None
    assert tuple(re.findall(r"^#(\w+): ", template, re.MULTILINE)) == KEYS
    assert set(yaml.safe_load(re.sub(r"^#(?=\w+: )", "", template, flags=re.MULTILINE))) == set(
        KEYS
    )
    assert max(len(line) for line in template.splitlines()) <= 100
