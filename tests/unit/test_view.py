"""How a person may name a peer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kwaai.errors import UserError
from kwaai.node.view import View

AMBER = "12D3KooWS6LUwuiWcRNwZXzChBSFLC33ghEUjnRcHBFMhnw9S77T"
BIRCH = "12D3KooWBV4kUVGwULmiQPBipTsnL62HtFLY7pNmyAJ6FGWS1h1w"
STRANGER = "12D3KooWN6w6ULLkkYaTsGcBTDLgfA5bT1NkdSBK7jK8ypo8doDV"


@pytest.fixture
def view() -> View:
    records = [
        SimpleNamespace(peer=AMBER, name="amber"),
        SimpleNamespace(peer=BIRCH, name="birch"),
        SimpleNamespace(peer="12D3KooWOther", name="birch"),
    ]
    network = SimpleNamespace(
        peer_id="12D3KooWMe", connections=lambda: [SimpleNamespace(peer=STRANGER)]
    )
    directory = SimpleNamespace(records=lambda: records)
    node: Any = SimpleNamespace(network=network, directory=directory)
    return View(node)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("amber", AMBER),
        (AMBER, AMBER),
        ("…hnw9S77T", AMBER),
        ("hnw9S77T", AMBER),
        (STRANGER, STRANGER),
        ("po8doDV", STRANGER),
    ],
)
def test_a_peer_has_several_names(view: View, text: str, peer: str) -> None:
    assert view.find_peer(text) == peer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ambr", "did you mean 'amber'"),
        ("birch", "2 peers are called 'birch'; give the peer id"),
        ("S77T", "no peer 'S77T' is known"),  # too short to mean one
        ("", "no peer '' is known"),
        ("…", "no peer '…' is known"),
        ("zebra", "`kwaainet p2p peers` lists those that are"),
    ],
)
def test_what_names_nobody_is_said(view: View, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        view.find_peer(text)
