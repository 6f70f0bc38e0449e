"""Who may host a base: the owner's floors, an answer, and room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai.config import Config
from kwaai.errors import FileCorrupt
from kwaai.node.knowledge_hosts import BaseHost, KnowledgeHosts, load_hosts, save_hosts
from kwaai.node.vpk_discovery import HostRow
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Floors, Tier

PEER = PeerId(peer_id(SecretKey(b"E" * 32).public))
HOST = HostRow(PEER, "eva", "eve", 10**10, 10**9, 1, Tier.KNOWN, 10**9, True, Tier.VERIFIED, None,
               reachable=True)  # fmt: skip


class Known:
    """Everybody stands as is said."""

    floors = Floors()

    def __init__(self, tier: Tier, integrity: float = 1.0) -> None:
        self.tier, self.integrity = tier, integrity

    def standing(self, peer: str) -> Standing:
        return Standing(peer, 0.5, 0.5, self.tier, None, integrity=self.integrity)


def hosts(tmp_path: Path, tier: Tier = Tier.VERIFIED, integrity: float = 1.0) -> KnowledgeHosts:
    known = cast(Any, Known(tier, integrity))
    return KnowledgeHosts(
        Config(), cast(Any, None), known, tmp_path, lambda: None, lambda peer: "eva"
    )


def test_who_may_host(tmp_path: Path) -> None:
    assert hosts(tmp_path).why_not(HOST) == ""
    assert "tier_host" in hosts(tmp_path, Tier.KNOWN).why_not(HOST)
    assert "integrity" in hosts(tmp_path, integrity=0.1).why_not(HOST)
    away = replace(HOST, reachable=False, problem="no route")
    assert hosts(tmp_path).why_not(away) == "no route"


def test_a_host_that_is_full_keeps_what_it_has(tmp_path: Path) -> None:
    known = hosts(tmp_path)
    for full in (replace(HOST, takes_tenants=False), replace(HOST, free_bytes=0)):
        assert known.why_not(full)
        assert known.why_not(full, has_it=True) == ""
    assert known.why_not(replace(HOST, reachable=False), has_it=True)
    assert hosts(tmp_path, Tier.UNKNOWN).why_not(HOST, has_it=True)


def test_hosts_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    assert load_hosts(path) == ()
    rows = (BaseHost(PEER, "did:key:z6Mk", 2.5), BaseHost("here", "here"))
    save_hosts(path, rows)
    assert load_hosts(path) == rows


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '[{"peer": "x"}]', '[{"peer": "x", "owner": "y", "weight": -1}]',
     '[{"peer": "x", "owner": "y", "weight": "a"}]', "[" * 10_000],
)  # fmt: skip
def test_a_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(text)
    with pytest.raises(FileCorrupt, match=r"hosts\.json"):
        load_hosts(path)
