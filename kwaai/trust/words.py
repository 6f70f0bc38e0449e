"""How explanations and demands word names and counts. Pure; decides nothing."""

from __future__ import annotations

_VOWELS = "aeiou"


def with_article(noun: str) -> str:
    """Return `an UptimeVC`, `a ThroughputVC`: for names of credential types, which are read as
    they are spelled.
    """
    return f"{'an' if noun[:1].lower() in _VOWELS else 'a'} {noun}"


def counted(count: int, noun: str) -> str:
    """Return `1 part`, `2 parts`: for nouns whose plural ends in s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
