"""Patterns of what is not ingested, in the words of .gitignore files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kwaai.errors import UserError
from kwaai.limits import INGEST_EXCLUDE_CHARS_MAX, INGEST_EXCLUDES_MAX

_TOKEN = re.compile(r"/\*\*(?=/)|\*\*/?|\*|\?|\[!?\]?[^\]/]*\]|\\.|.", re.DOTALL)


class Excludes:
    """Says which paths below a folder are left out.

    As in .gitignore: `*` and `?` stay within a name, `**` goes over folders, a slash at the end
    means folders only, one before it ties the pattern to the top, `!` takes back what an earlier
    pattern left out (not inside a folder that is left out).
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises UserError for too many patterns, or one that cannot be."""
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []
        for pattern in patterns:
            if len(self._rules) >= INGEST_EXCLUDES_MAX:
                raise UserError(f"more than {INGEST_EXCLUDES_MAX} patterns", param="exclude")
            if len(pattern) > INGEST_EXCLUDE_CHARS_MAX:
                raise UserError(f"the pattern {pattern[:60]!r}... is too long", param="exclude")
            if rule := _rule(pattern):
                self._rules.append(rule)

    def leaves_out(self, relative: str, is_folder: bool) -> bool:
        """Say whether a path (`notes/old`, below the folder that was asked for) is left out."""
        is_out = False
        for pattern, takes_back, folders_only in self._rules:
            if (is_folder or not folders_only) and pattern.fullmatch(relative):
                is_out = not takes_back
        return is_out


def _rule(pattern: str) -> tuple[re.Pattern[str], bool, bool] | None:
    text = pattern.rstrip()
    takes_back = text.startswith("!")
    text = text[1:] if takes_back else text
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    if not text or text.startswith("#"):
        return None
    parts = [] if "/" in text else ["(?:.*/)?"]
    parts += [_regex(token) for token in _TOKEN.findall(text.removeprefix("/"))]
    try:
        return re.compile("".join(parts), re.DOTALL), takes_back, folders_only
    except re.error as error:
        raise UserError(f"the pattern {pattern!r} cannot be: {error}", param="exclude") from None


def _regex(token: str) -> str:
    if token == "**/":
        return "(?:.*/)?"
    if token == "/**":
        return "(?:/.*)?"
    fixed = {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token)
    if fixed is not None:
        return fixed
    if len(token) > 2 and token[0] == "[":
        inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"[^/{inside[1:]}]" if inside[0] == "!" else f"[{inside}]"
    return re.escape(token[-1] if token[0] == "\\" else token)
