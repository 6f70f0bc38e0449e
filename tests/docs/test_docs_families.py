"""docs/families.md says what the table of families does, and all of the table is proven."""

from __future__ import annotations

from pathlib import Path

from kwaai.inference.families import FAMILIES, families_markdown
from kwaai.testing.recipes import RECIPES

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"


def test_document_is_what_the_table_generates() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == families_markdown()


def test_every_family_has_a_recipe_in_the_bit_identity_test_and_no_other() -> None:
    assert {recipe.architecture for recipe in RECIPES.values()} == set(FAMILIES)
