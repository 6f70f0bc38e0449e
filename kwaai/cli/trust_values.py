"""How the trust commands write scores, principals and spans, and whom they ask. Prints nothing."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kwaai.cli.control import ControlClient

PEER_HELP = "a PeerId, its last characters, a name of `kwaainet p2p peers`, or a DID"
TIERS = ("Unknown", "Known", "Verified", "Trusted")
_DAY_S = 86_400


def tier_name(text: str) -> str:
    """Read an option's value: a tier in upper or lower case; return its name."""
    from kwaai.cli.parser import hint

    name = text.strip().capitalize()
    if name in TIERS:
        return name
    raise argparse.ArgumentTypeError(
        f"{text!r:.40} is no tier; the tiers are {', '.join(TIERS)}{hint(name, TIERS)}"
    )


def show_score(score: float) -> str:
    """Return a score with two digits, rounded down: 0.399 is below a threshold of 0.40."""
    return f"{math.floor(score * 100 + 1e-9) / 100:.2f}"


def show_days(seconds: float) -> str:
    """Return a span in days: `365 days`."""
    days = seconds / _DAY_S
    return f"{days:g} day{'' if days == 1 else 's'}"


def show_name(row: dict[str, Any]) -> str:
    """Return what people call a principal: its name, else the short form of its DID."""
    from kwaai.cli.credential_tree import short_did
    from kwaai.cli.output import one_line

    return one_line(str(row["name"])) or short_did(str(row["did"]))


def show_moment(seconds: float | None) -> str:
    """Return a time of day in UTC as tables have it: `2026-11-21 08:00`."""
    import time

    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def client_of(arguments: argparse.Namespace) -> ControlClient:
    """Return who asks the running node."""
    from kwaai.cli.control import ControlClient
    from kwaai.cli.session import load_settings

    return ControlClient(load_settings(arguments)[0])
