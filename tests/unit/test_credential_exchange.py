"""Credentials between nodes: real offices and wallets over a network in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from exchange_world import Place, World, a_world

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import (
    CredentialMissing,
    CredentialRefused,
    KwaaiError,
    PeerMisbehaved,
    PeerRefused,
    RequestClosed,
)
from kwaai.node.credential_exchange import Shown
from kwaai.wire.credential_messages import (
    PROTOCOL,
    Ask,
    Collect,
    Deliver,
    Document,
    FetchStatus,
    Offer,
    Show,
    encode_document_answer,
    encode_request,
    parse_answer,
    parse_document_answer,
    parse_request,
)

KIND = "MembershipVC"
CLAIMS = {"swarmId": "urn:swarm:lab", "swarmName": "the lab", "memberRole": "member"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


def reasons(shown: Shown) -> dict[str | None, str]:
    """Why each shown credential does not count, by its id; empty where it does."""
    return {c.id: finding.reason if finding else "" for c, finding in shown.credentials}


async def test_asked_for_approved_and_in_the_wallet(world: World) -> None:
    issuer, asker = await world.add(), await world.add()
    asked = await asker.exchange.request(issuer.peer, KIND, CLAIMS, "please")
    assert (asked.state, asked.direction) == ("pending", "out")
    (waiting,) = await issuer.exchange.requests()
    assert (waiting.peer, waiting.type, waiting.state) == (asker.peer, KIND, "pending")
    assert json.loads(waiting.body) == {"claims": CLAIMS, "note": "please"}

    done = await issuer.exchange.approve(waiting.id[:8])
    assert done.state == "delivered"
    (row,) = await asker.exchange.requests()
    assert row.state == "delivered"
    (held,) = asker.office.own_credentials()
    assert held.entry.issuer == issuer.office.did
    assert held.entry.subject == asker.office.did
    verified = await asyncio.to_thread(asker.office.verify, held.original)
    assert verified.document["credentialSubject"]["swarmName"] == "the lab"


async def test_a_refusal_reaches_the_asker(world: World) -> None:
    issuer, asker = await world.add(), await world.add()
    asked = await asker.exchange.request(issuer.peer, KIND, CLAIMS)
    await issuer.exchange.refuse(asked.id, "who are you?")
    await asker.exchange.settle()
    (row,) = await asker.exchange.requests()
    assert (row.state, row.detail) == ("refused", "who are you?")
    with pytest.raises(RequestClosed):
        await issuer.exchange.approve(asked.id)


async def test_types_of_the_settings_are_issued_unasked(world: World) -> None:
    issuer = await world.add(auto_issue=[KIND])
    asker = await world.add()
    asked = await asker.exchange.request(issuer.peer, KIND, CLAIMS)
    assert asked.state == "delivered"
    assert len(asker.office.own_credentials()) == 1
    other = await asker.exchange.request(issuer.peer, "VerifiedNodeVC", {})
    assert other.state == "pending"


async def test_claims_that_break_the_types_rules_are_refused(world: World) -> None:
    issuer = await world.add(auto_issue=[KIND])
    asker = await world.add()
    asked = await asker.exchange.request(issuer.peer, KIND, {**CLAIMS, "swarmName": 7})
    assert asked.state == "refused"
    assert "swarmName" in asked.detail


async def test_the_asker_comes_back_for_what_was_approved_meanwhile(world: World) -> None:
    issuer, asker = await world.add(), await world.add()
    asked = await asker.exchange.request(issuer.peer, KIND, CLAIMS)
    await asker.network.disconnect(issuer.peer)
    row = await issuer.exchange.approve(asked.id)
    assert row.state in ("approved", "delivered")
    if row.state == "approved":
        await asker.network.connect(issuer.network.addresses()[0])
        await asker.exchange.settle()
    assert len(asker.office.own_credentials()) == 1


async def test_an_offer_waits_for_its_subjects_word(world: World) -> None:
    issuer, subject = await world.add(), await world.add()
    issued = issuer.office.issue(KIND, subject.office.did, CLAIMS)
    offered = await issuer.exchange.offer(subject.peer, issued.data, "welcome")
    assert offered.state == "pending"
    assert subject.office.own_credentials() == []
    await subject.exchange.approve(offered.id)
    assert len(subject.office.own_credentials()) == 1
    await issuer.exchange.settle()
    assert [row.state for row in await issuer.exchange.requests()] == ["delivered"]


async def test_an_offer_about_somebody_else_is_not_kept(world: World) -> None:
    issuer, one, other = await world.add(), await world.add(), await world.add()
    issued = issuer.office.issue(KIND, one.office.did, CLAIMS)
    with pytest.raises(CredentialRefused, match="not about that peer"):
        await issuer.exchange.offer(other.peer, issued.data)
    await Attacker(issuer).send(other.peer, Offer(bytes(16), issued.data))
    with pytest.raises(CredentialRefused, match="somebody else"):
        await other.exchange.approve(bytes(16).hex())
    assert other.office.wallet.count() == 0


async def test_a_forged_offer_is_not_kept(world: World) -> None:
    liar, subject = await world.add(), await world.add()
    issued = liar.office.issue(KIND, subject.office.did, CLAIMS)
    forged = issued.data.replace(b"the lab", b"the bar")
    with pytest.raises(CredentialRefused):
        await liar.exchange.offer(subject.peer, forged)
    await Attacker(liar).send(subject.peer, Offer(bytes(16), forged))
    with pytest.raises(CredentialRefused):
        await subject.exchange.approve(bytes(16).hex())
    assert subject.office.own_credentials() == []


async def test_a_peer_shows_what_it_holds_for_one_challenge(world: World) -> None:
    issuer, holder, verifier = await world.add(), await world.add(), await world.add()
    issued = issuer.office.issue(KIND, holder.office.did, CLAIMS)
    await asyncio.to_thread(holder.office.import_credential, issued.data)
    shown = await verifier.exchange.fetch(holder.peer)
    assert shown is not None
    assert shown.holder == holder.office.did
    assert [(c.issuer, finding) for c, finding in shown.credentials] == [(issuer.office.did, None)]
    assert await verifier.exchange.keep(shown) == 1
    assert await verifier.exchange.keep(shown) == 0
    assert await verifier.exchange.fetch(holder.peer, ["UptimeVC"]) is None


async def test_a_node_that_does_not_share_shows_nothing(world: World) -> None:
    issuer = await world.add()
    holder = await world.add(shares=False)
    issued = issuer.office.issue(KIND, holder.office.did, CLAIMS)
    await asyncio.to_thread(holder.office.import_credential, issued.data)
    assert await issuer.exchange.fetch(holder.peer) is None


async def test_a_presentation_for_somebody_else_is_refused(world: World) -> None:
    issuer, holder, thief = await world.add(), await world.add(), await world.add()
    issued = issuer.office.issue(KIND, holder.office.did, CLAIMS)
    await asyncio.to_thread(holder.office.import_credential, issued.data)

    async def relay(peer: PeerId, body: bytes) -> bytes:
        return await thief.network.request(holder.peer, PROTOCOL, body)

    thief.network.handle_requests(PROTOCOL, relay)
    with pytest.raises(KwaaiError):
        await issuer.exchange.fetch(thief.peer)


async def test_a_revocation_is_seen_by_who_asks_the_issuer(world: World) -> None:
    issuer, holder, verifier = await world.add(), await world.add(), await world.add()
    issued = issuer.office.issue(KIND, holder.office.did, CLAIMS)
    await asyncio.to_thread(holder.office.import_credential, issued.data)
    good = issuer.office.issue(KIND, holder.office.did, {**CLAIMS, "memberRole": "operator"})
    await asyncio.to_thread(holder.office.import_credential, good.data)
    issuer.office.revoke(issued.id)
    shown = await verifier.exchange.fetch(holder.peer)
    assert shown is not None
    assert reasons(shown) == {good.id: "", issued.id: "credential_revoked"}
    assert await verifier.exchange.keep(shown) == 1, "only what holds"


async def test_the_status_list_comes_from_who_presents_where_the_issuer_is_away(
    world: World,
) -> None:
    issuer, holder = await world.add(), await world.add()
    issued = issuer.office.issue(KIND, holder.office.did, CLAIMS)
    await asyncio.to_thread(holder.office.import_credential, issued.data)
    verifier = await world.add()
    await issuer.network.stop()
    shown = await verifier.exchange.fetch(holder.peer)
    assert shown is not None
    assert len(shown.credentials) == 1


async def test_lists_of_an_owner_come_from_the_node_that_publishes_them(world: World) -> None:
    lab = await world.add(owned=True)
    holder, verifier = await world.add(), await world.add()
    issued = lab.office.issue(KIND, holder.office.did, CLAIMS, as_owner=True)
    assert issued.document["issuer"] == lab.office.owner_did != lab.office.did
    await asyncio.to_thread(holder.office.import_credential, issued.data)
    assert await verifier.exchange.fetch(holder.peer) is not None
    lab.office.revoke(issued.id)
    url, _ = issued.statuses["revocation"]
    await asyncio.to_thread(lab.office.status_list_at, url)
    later = await world.add()
    shown = await later.exchange.fetch(holder.peer)
    assert shown is not None
    assert reasons(shown) == {issued.id: "credential_revoked"}


async def test_a_list_signed_by_another_key_than_its_url_says_is_not_kept(world: World) -> None:
    issuer, holder, verifier = await world.add(), await world.add(), await world.add()
    issued = issuer.office.issue(KIND, holder.office.did, CLAIMS)
    await asyncio.to_thread(holder.office.import_credential, issued.data)
    url, _ = issued.statuses["revocation"]
    mine = holder.office.issue(KIND, issuer.office.did, CLAIMS)
    forged = json.loads(holder.office.status_list_at(mine.statuses["revocation"][0]))
    forged["id"] = url
    await issuer.network.stop()
    honest = holder.exchange._inbox._answer

    async def lie(peer: PeerId, body: bytes) -> bytes:
        if isinstance(parse_request(body), FetchStatus):
            return encode_document_answer(Document(json.dumps(forged).encode()))
        return await honest(peer, body)

    holder.network.handle_requests(PROTOCOL, lie)
    shown = await verifier.exchange.fetch(holder.peer)
    assert shown is not None
    assert reasons(shown) == {issued.id: "status_unknown"}
    assert verifier.office.wallet.get_status_list(url) is None


class Attacker:
    """A peer that speaks the protocol, and says what it likes."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def send(self, peer: PeerId, message: Any) -> bytes:
        return await self.place.network.request(peer, PROTOCOL, encode_request(message))


async def test_what_was_not_asked_for_is_not_taken(world: World) -> None:
    victim, liar = await world.add(), await world.add()
    issued = liar.office.issue(KIND, victim.office.did, CLAIMS)
    attacker = Attacker(liar)
    with pytest.raises(PeerRefused):
        await attacker.send(victim.peer, Deliver(os.urandom(16), issued.data))
    assert victim.office.own_credentials() == []


async def test_another_credential_than_asked_for_is_not_taken(world: World) -> None:
    victim, liar, friend = await world.add(), await world.add(), await world.add()
    asked = await victim.exchange.request(liar.peer, KIND, CLAIMS)
    about_other = liar.office.issue(KIND, friend.office.did, CLAIMS)
    by_other = friend.office.issue(KIND, victim.office.did, CLAIMS)
    attacker = Attacker(liar)
    for wrong in (about_other.data, by_other.data, b"{}", b"\xff"):
        answer = parse_answer(
            await attacker.send(victim.peer, Deliver(bytes.fromhex(asked.id), wrong))
        )
        assert answer.state == "refused", wrong[:20]
    assert victim.office.own_credentials() == []


async def test_one_peer_cannot_read_anothers_request(world: World) -> None:
    issuer, asker, spy = await world.add(auto_issue=[KIND]), await world.add(), await world.add()
    asked = await asker.exchange.request(issuer.peer, KIND, CLAIMS)
    answer = parse_answer(await Attacker(spy).send(issuer.peer, Collect(bytes.fromhex(asked.id))))
    assert answer.state == "unknown"
    assert not answer.credential


async def test_a_peer_fills_no_inbox(world: World) -> None:
    victim, flood = await world.add(), await world.add()
    attacker = Attacker(flood)
    for number in range(limits.REQUESTS_PENDING_PER_PEER_MAX + 4):
        ask = Ask(number.to_bytes(16, "big"), KIND, b"{}")
        answer = parse_answer(await attacker.send(victim.peer, ask))
    assert answer.state == "refused"
    assert len(await victim.exchange.requests()) == limits.REQUESTS_PENDING_PER_PEER_MAX
    with contextlib.suppress(KwaaiError):
        for _ in range(int(limits.CREDENTIAL_ASKS_BURST) + 1):
            await attacker.send(victim.peer, Collect(bytes(16)))
    assert victim.exchange.counters["dropped_rate"] == 1


async def test_the_same_request_twice_is_one(world: World) -> None:
    issuer, asker = await world.add(auto_issue=[KIND]), await world.add()
    attacker = Attacker(asker)
    ask = Ask(bytes(16), KIND, json.dumps(CLAIMS).encode())
    first = parse_answer(await attacker.send(issuer.peer, ask))
    again = parse_answer(await attacker.send(issuer.peer, ask))
    assert first.credential == again.credential
    assert issuer.office.issued.count() == 1


async def test_a_peer_that_answers_nonsense_is_named(world: World) -> None:
    node, liar = await world.add(), await world.add()

    async def nonsense(peer: PeerId, body: bytes) -> bytes:
        return b"\xff" * 9

    liar.network.handle_requests(PROTOCOL, nonsense)
    with pytest.raises(PeerMisbehaved) as failure:
        await node.exchange.fetch(liar.peer)
    assert failure.value.peer == liar.peer


async def test_ids_that_mean_nothing(world: World) -> None:
    node = await world.add()
    with pytest.raises(CredentialMissing):
        await node.exchange.approve("0123abcd")


async def test_what_is_shown_is_made_for_the_asker(world: World) -> None:
    holder, verifier = await world.add(), await world.add()
    issued = verifier.office.issue(KIND, holder.office.did, CLAIMS)
    await asyncio.to_thread(holder.office.import_credential, issued.data)
    data = await Attacker(verifier).send(holder.peer, Show("c" * 32))
    proof = json.loads(parse_document_answer(data).data)["proof"]
    assert (proof["challenge"], proof["domain"]) == ("c" * 32, verifier.office.did)
