"""What attacks on trust buy: nothing. Real offices, wallets and scores; attackers that speak the
protocol and own as many identities as they like. docs/threat-model.md lists them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_world import Place, a_world
from test_trust_service import VERIFIED, Scene, give, issue

from credentials.document import encode_document, parse_document
from credentials.keys import PeerId, SecretKey, peer_id
from credentials.present import build_presentation
from credentials.status import build_status_entry
from kwaai import limits
from kwaai.errors import CredentialRefused, PeerLost
from kwaai.intent.demand import CredentialDemand, Demand
from kwaai.intent.intent import verify_intent
from kwaai.intent.match import match
from kwaai.intent.receipt import Account, receipt_of, sign_half
from kwaai.intent.replay import ReplayGuard
from kwaai.intent.signed import IntentInvalid
from kwaai.node.negotiate import Negotiator
from kwaai.node.observe import Observer
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.trust.endorse import endorsements_of
from kwaai.trust.evidence import (
    Evidence,
    Observation,
    Outcome,
    attestation_of,
    principal_of_peer,
)
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.score import score_all
from kwaai.trust.spot_check import Output, judge
from kwaai.trust.tally import Tallies
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.credential_messages import (
    PROTOCOL,
    Document,
    FetchStatus,
    Show,
    encode_document_answer,
    parse_request,
)
from kwaai.wire.transcript import Cover, StepChain

NODE = {"checksPassed": ["hardware"], "checkedAt": "2026-11-20T10:00:00Z"}
NOW_S = 1_795_000_000.0
HANDLE = ModelHandle("sha256:" + "5a" * 32)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(limits, "TRUST_STATUS_AGE_S", 0.0)
    monkeypatch.setattr(limits, "TRUST_FETCH_CURRENT_S", 0.0)
    async with a_world(tmp_path) as world, contextlib.AsyncExitStack() as stack:
        yield await Scene(world, stack).build()


def show(place: Place, answer: Callable[[Place, str, Show], bytes]) -> None:
    """Have a peer present whatever `answer` makes: of itself, for whom, for which challenge."""

    async def hostile(peer: PeerId, body: bytes) -> bytes:
        request = parse_request(body)
        data = b""
        if isinstance(request, Show):
            data = answer(place, principal_of_peer(peer), request)
        return encode_document_answer(Document(data))

    place.network.handle_requests(PROTOCOL, hostile)


def showing(*credentials: bytes) -> Callable[[Place, str, Show], bytes]:
    """Return what presents these, whatever they are."""

    def answer(place: Place, to: str, asked: Show) -> bytes:
        document = build_presentation(list(credentials), place.office.did)
        return encode_document(
            place.office._keys.sign_presentation(
                document,
                place.office.did,
                "eddsa-jcs-2022",
                challenge=asked.challenge,
                domain=to,
            )
        )

    return answer


async def expect_nothing(scene: Scene, *peers: Place) -> None:
    for place in peers or (scene.peer,):
        assert await scene.truster.tier(place) is Tier.UNKNOWN
        assert scene.truster.trust.standing(place.peer).score == 0.0


# Credentials.


@pytest.mark.parametrize("forgery", ["another's", "signed by itself", "other claims"])
async def test_forged_credentials_buy_nothing(scene: Scene, forgery: str) -> None:
    """Made out to another, signed by the peer in the issuer's name, or with another end."""
    me, authority = scene.peer.office.did, scene.authority.office.did
    other = await scene._world.add()
    by = scene.peer if forgery == "signed by itself" else scene.authority
    about = other if forgery == "another's" else scene.peer
    forged = []
    for kind in VERIFIED:
        issued = await asyncio.to_thread(issue, by, about, kind)
        document = dict(parse_document(issued.data))
        document["issuer"] = authority
        document["credentialSubject"] = {**document["credentialSubject"], "id": me}
        if forgery == "other claims":
            document["validUntil"] = "2099-01-01T00:00:00Z"
        forged.append(encode_document(document))
    show(scene.peer, showing(*forged))
    with pytest.raises(CredentialRefused):
        await scene.truster.trust.opened.collector.ask(scene.peer.peer)
    await expect_nothing(scene)


async def test_self_issued_credentials_buy_nothing(scene: Scene) -> None:
    """By itself, or by a Verified node of the same owner."""
    await asyncio.to_thread(lambda: [issue(scene.peer, scene.peer, kind) for kind in VERIFIED])
    await expect_nothing(scene)
    assert len(scene.truster.trust.opened.collector.shown(scene.peer.office.did)) == 2


async def test_replayed_presentations_and_credentials_of_others_buy_nothing(scene: Scene) -> None:
    """What another presented to this node is presented again, to it or about it."""
    honest = await scene._world.add()
    issued = await give(scene.authority, honest)
    heard: list[bytes] = []

    def listening(place: Place, to: str, asked: Show) -> bytes:
        heard.append(showing(*(one.data for one in issued))(place, to, asked))
        return heard[-1]

    show(honest, listening)
    assert await scene.truster.tier(honest) is Tier.VERIFIED
    thefts: Sequence[Callable[[Place, str, Show], bytes]] = (
        lambda *_: heard[0],
        showing(*(one.data for one in issued)),
    )
    for theft in thefts:
        show(scene.peer, theft)
        with pytest.raises(CredentialRefused):
            await scene.truster.trust.opened.collector.ask(scene.peer.peer)
        await expect_nothing(scene)
    show(honest, lambda *_: heard[0])  # its own old one, for a challenge that is over
    with pytest.raises(CredentialRefused):
        await scene.truster.trust.opened.collector.ask(honest.peer)


async def test_revoked_credentials_buy_nothing(scene: Scene) -> None:
    """Also where the peer goes on presenting them, and gives nobody the list."""
    issued = await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    for one in issued:
        await asyncio.to_thread(scene.authority.office.revoke, one.id)
    show(scene.peer, showing(*(one.data for one in issued)))
    await expect_nothing(scene)


async def test_a_credential_whose_status_list_is_withheld_buys_nothing(scene: Scene) -> None:
    issued = await give(scene.authority, scene.peer)
    await scene.authority.network.stop()
    show(scene.peer, showing(*(one.data for one in issued)))
    await expect_nothing(scene)
    (first, *_) = scene.truster.trust.opened.collector.shown(scene.peer.office.did)
    assert first.code == "status_unknown"


async def test_colluding_peers_buy_nothing(scene: Scene) -> None:
    """A ring that issues and endorses itself, with an owner, receipts, and no root behind it."""
    ring = [scene.peer, *[await scene._world.add() for _ in range(2)]]
    for by in ring:
        for about in ring:
            if by is not about:
                await give(by, about)
                claims = {
                    "interactionCount": 10**9,
                    "successCount": 10**9,
                    "windowStart": "2026-01-01T00:00:00Z",
                    "windowEnd": "2026-02-01T00:00:00Z",
                }
                endorsed = by.office.issue("PeerEndorsementVC", about.office.did, claims)
                await asyncio.to_thread(about.office.import_credential, endorsed.data)
    await expect_nothing(scene, *ring)
    seen = scene.truster.trust.opened.collector
    assert {len(seen.shown(place.office.did)) for place in ring} == {6}


async def test_a_sibling_of_the_same_owner_meets_no_demand(scene: Scene) -> None:
    """An owner with one Verified node cannot have it vouch for the others."""
    owner = await scene._world.add(owned=True)
    sibling = await scene._world.add()
    await give(scene.authority, sibling)
    for node in (sibling, scene.peer):
        binding = owner.office.issue(
            "BindingVC", node.office.did, {"nodeLabel": "one of mine"}, as_owner=True
        )
        await asyncio.to_thread(node.office.import_credential, binding.data)
    await asyncio.to_thread(issue, sibling, scene.peer)
    trust = scene.truster.trust
    assert await scene.truster.tier(sibling) is Tier.VERIFIED
    await expect_nothing(scene)
    assert trust.standing(scene.peer.peer).owner == trust.standing(sibling.peer).owner is not None
    wanted = Demand(credentials=(CredentialDemand("VerifiedNodeVC"),))
    assert match(wanted, trust.facts(scene.peer.peer))
    assert not match(wanted, trust.facts(sibling.peer))


# Receipts and intents.


def receipts_by(asker: SecretKey, about: PeerId, *sessions: bytes) -> list[bytes]:
    """Return what one requester signed about a hop, a half for each session."""
    found = []
    for session in sessions:
        tail = StepChain(session).tail()
        account = Account(
            session, peer_id(asker.public), about, "requester", HANDLE, LayerRange(1, 3), 0, 1,
            tail, tail, NOW_S - 5, NOW_S, 0.1, "completed",
        )  # fmt: skip
        found.append(sign_half(receipt_of(account, Cover(2**63)), about, asker, NOW_S).original)
    return found


async def test_a_receipt_that_is_shown_again_counts_once(scene: Scene) -> None:
    """Written with other spaces or another order of its members, it is still the same receipt."""
    asker = SecretKey(b"a" * 32)
    one, other = receipts_by(asker, scene.peer.peer, b"1" * 16, b"2" * 16)

    def weight(*receipts: bytes) -> float:
        verified = [scene.me.office.verify(data) for data in receipts]
        found = [attestation_of(each) for each in verified]
        (endorsement,) = endorsements_of(each for each in found if each is not None)
        return endorsement.weight

    document = parse_document(one)
    copies = [json.dumps(document, indent=n).encode() for n in range(5)]
    copies.append(json.dumps(dict(reversed(document.items()))).encode())
    assert weight(one, *copies) == weight(one)
    assert weight(one, other) > weight(one)


async def test_an_intent_that_is_shown_again_buys_nothing() -> None:
    """By whoever heard it, or by its requester a second time."""
    swarm, secret = MemorySwarm(1), SecretKey(b"r" * 32)
    network = MemoryNetwork(swarm, secret)
    policy: Any = None
    negotiator = Negotiator(network, secret, policy)
    data = negotiator.make(HANDLE, Demand(), "private").data
    now_s = time.time()
    guard = ReplayGuard()
    guard.take(verify_intent(data, now_s), "open", now_s)
    with pytest.raises(IntentInvalid, match="before"):
        guard.take(verify_intent(data, now_s), "open", now_s)
    with pytest.raises(IntentInvalid, match="shows an intent of"):
        negotiator._verify(peer_id(SecretKey(b"t" * 32).public), data, now_s)


# Revocation that is to be escaped.


async def test_a_revocation_that_another_peer_brought_to_light_counts_for_all(scene: Scene) -> None:
    other = await scene._world.add()
    await give(scene.authority, other)
    issued = await give(scene.authority, scene.peer)
    for place in (scene.peer, other):
        assert await scene.truster.tier(place) is Tier.VERIFIED
    for one in issued:
        await asyncio.to_thread(scene.authority.office.revoke, one.id)
    show(scene.peer, lambda *_: b"nonsense")  # what was known of it before stays
    assert await scene.truster.tier(other) is Tier.VERIFIED  # the list has been seen by now
    await expect_nothing(scene)


async def test_a_revocation_counts_that_came_when_nobody_waited_any_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    for one in issued:
        await asyncio.to_thread(scene.authority.office.revoke, one.id)
    show(scene.peer, lambda *_: b"nonsense")
    monkeypatch.setattr(limits, "TRUST_STATUS_WAIT_S", 0.0)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    collector = scene.truster.trust.opened.collector
    await asyncio.gather(*collector._looking.values())
    await expect_nothing(scene)


async def test_whoever_holds_its_receipts_back_does_not_undo_a_revocation(scene: Scene) -> None:
    """It answers about receipts late, so that its credentials were judged long before."""
    issued = await give(scene.authority, scene.peer)
    collector = scene.truster.trust.opened.collector
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED

    async def revoke_meanwhile(peer: PeerId) -> Sequence[Any]:
        if scene.peer.peer == peer and not collector.shown(scene.peer.office.did)[0].code:
            for one in issued:
                await asyncio.to_thread(scene.authority.office.revoke, one.id)
            await collector.look([scene.peer.office.did], 0.0)
        return ()

    show(scene.peer, showing(*(one.data for one in issued)))
    collector.fetch_receipts = revoke_meanwhile
    await collector.ask(scene.peer.peer)
    assert {one.code for one in collector.shown(scene.peer.office.did)} == {"credential_revoked"}


# Making a node ask, and floods.


async def test_strangers_credentials_have_nobody_asked_for_their_lists(scene: Scene) -> None:
    """Who signs its own may name anybody as the publisher of its status lists."""
    victim = await scene._world.add()
    asked: list[str] = []

    async def counted(peer: PeerId, body: bytes) -> bytes:
        request = parse_request(body)
        if isinstance(request, FetchStatus):
            asked.append(request.url)
        return encode_document_answer(Document(b""))

    victim.network.handle_requests(PROTOCOL, counted)
    sybil = await scene._world.add()
    forged = []
    for number in range(3):
        own = await asyncio.to_thread(
            sybil.office.issue, "VerifiedNodeVC", scene.peer.office.did, NODE, revocable=False
        )
        document = {key: value for key, value in own.document.items() if key != "proof"}
        document["credentialStatus"] = build_status_entry(
            f"{victim.office.did}/status/revocation-{number + 1}", "revocation", number
        )
        forged.append(encode_document(sybil.office.sign(document)))
    show(scene.peer, showing(*forged))
    await scene.truster.trust.opened.collector.ask(scene.peer.peer)
    await expect_nothing(scene)
    assert len(scene.truster.trust.opened.collector.shown(scene.peer.office.did)) == 3
    assert asked == []


async def test_a_flood_of_strangers_pushes_nobody_out_who_has_earned_something(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    monkeypatch.setattr(limits, "TRUST_PEERS_ASKED_MAX", 3)
    collector = scene.truster.trust.opened.collector
    for _ in range(4):
        sybil = await scene._world.add()
        await asyncio.to_thread(issue, sybil, sybil)
        await scene.truster.tier(sybil, current=False)
        await collector.ask(sybil.peer)
        assert len(collector.principals()) <= 3
    assert scene.peer.office.did in collector.principals()
    assert scene.truster.trust.standing(scene.peer.peer).tier is Tier.VERIFIED
    mine = sum(len(one.original) for one in collector.shown(scene.peer.office.did))
    monkeypatch.setattr(limits, "PRESENTED_BYTES_MAX", mine)
    fat = await scene._world.add()
    await asyncio.to_thread(issue, fat, fat)
    await collector.ask(fat.peer)
    assert collector.principals() == (scene.peer.office.did,)


# Slander.


class Standing:
    """One victim that an observer has seen serve well, and crowds that speak against it."""

    victim = peer_id(SecretKey(b"v" * 32).public)

    def __init__(self) -> None:
        self.now_s = 0.0
        evidence: Any = None
        self.observer = Observer(evidence, lambda: NOW_S, monotonic=lambda: self.now_s)

    def before_and_after(self, served: int) -> tuple[float, float]:
        good = [Observation(principal_of_peer(self.victim), NOW_S, Outcome.SERVED)] * served
        return self._score(good), self._score([*good, *self.observer._queue])

    def _score(self, seen: Sequence[Observation]) -> float:
        policy = TrustPolicy(own="did:key:zOwn")
        tallies = Tallies(policy.behaviour_half_life_s, seen).snapshot()
        state = score_all(Evidence(tallies=tallies), policy, NOW_S)
        return state.standing(principal_of_peer(self.victim)).score


def sybils(count: int) -> Iterator[PeerId]:
    return (peer_id(SecretKey(n.to_bytes(32, "big")).public) for n in range(1, count + 1))


def test_slander_by_many_names_costs_a_peer_next_to_nothing() -> None:
    """A thousand neighbours that each say once that it was the victim."""
    scene = Standing()
    for sybil in sybils(1000):
        scene.observer.on_outcome(scene.victim, PeerLost("gone", peer=scene.victim, accuser=sybil))
        scene.observer.accused(scene.victim, "receipt_disputed")
        scene.now_s += 1.0
    before, after = scene.before_and_after(served=200)
    assert after > 0.95 * before


def test_slander_by_disputed_checks_takes_one_dispute_an_hour() -> None:
    scene = Standing()
    for _ in range(100):
        scene.observer.spot_check(scene.victim, Outcome.DISPUTED)
        scene.now_s += 30.0
    assert len(scene.observer._queue) == 1


def test_slander_in_a_spot_check_convicts_nobody_who_is_trusted_more() -> None:
    """Two names of one attacker agree on wrong rows: they outvote nobody who has earned a tier."""
    right, wrong = np.ones((3, 4), np.float32), np.full((3, 4), 2, np.float32)
    honest = Output("honest", "h", right, Tier.KNOWN)
    crowd = [Output(name, name, wrong, Tier.UNKNOWN) for name in ("one", "two")]
    assert set(judge([honest, *crowd]).outcomes.values()) == {Outcome.DISPUTED}
    equal = Output("honest", "h", right, Tier.UNKNOWN)
    assert judge([equal, *crowd]).outcomes["honest"] is Outcome.WRONG


async def test_slander_by_receipts_and_endorsements_of_strangers_moves_no_score(
    scene: Scene,
) -> None:
    """What others sign about a peer counts only if it shows that itself; and it shows the best."""
    await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    before = scene.truster.trust.standing(scene.peer.peer).score
    for _ in range(2):
        slanderer = await scene._world.add()
        claims = {
            "interactionCount": 1000,
            "successCount": 0,
            "windowStart": "2026-01-01T00:00:00Z",
            "windowEnd": "2026-02-01T00:00:00Z",
        }
        bad = await asyncio.to_thread(
            slanderer.office.issue, "PeerEndorsementVC", scene.peer.office.did, claims
        )
        show(slanderer, showing(bad.data))
        with pytest.raises(CredentialRefused):
            await scene.truster.trust.opened.collector.ask(slanderer.peer)
    await scene.truster.trust.recompute()
    assert scene.truster.trust.standing(scene.peer.peer).score == pytest.approx(before, rel=1e-6)
