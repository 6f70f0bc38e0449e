"""Negotiation between nodes over a network in memory: cast, offered, declined, taken up; and what
an asker or a hop that lies gets for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from credentials.did import did_key
from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import Busy, PeerMisbehaved, PeerRefused, PeerUnreachable, UserError
from kwaai.intent.agreement import Stage
from kwaai.intent.demand import Demand
from kwaai.intent.intent import Intent, ModelConstraint, sign_intent, verify_intent
from kwaai.intent.match import ModelFacts
from kwaai.intent.offer import CredentialRef, sign_offer, verify_offer
from kwaai.intent.signed import IntentInvalid
from kwaai.node.capabilities import Capability, capabilities_of
from kwaai.node.intent_control import (
    CandidateRow,
    IntentPlan,
    IntentRequest,
    MismatchRow,
    NodeIntents,
)
from kwaai.node.negotiate import Negotiator, TierTooLow
from kwaai.node.negotiation import Negotiation
from kwaai.node.path_intents import PathIntents
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.trust.tiers import Floors, Tier
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.intent_messages import (
    PROTOCOL,
    Cast,
    Declined,
    Offers,
    encode_cast,
    encode_cast_answer,
    parse_cast_answer,
)
from kwaai.wire.messages import CloseReason, Open, Privacy
from kwaai.wire.records import Served

NOW_S = 1_800_000_000.0
HANDLE = ModelHandle("sha256:" + "5a" * 32)
OTHER_HANDLE = ModelHandle("sha256:" + "6b" * 32)
MODEL = ModelFacts(HANDLE, "qwen2", 494_000_000, "Q4_K_M")
LAYERS = LayerRange(2, 6)
RANGE = Capability(MODEL, LAYERS, False, 4096, 3, decode_us=4000, prefill_tokens_s=100.0)
REFERENCE = CredentialRef("UptimeVC", "did:web:issuer.example", "sha256:" + "7b" * 32)


@dataclass
class Settings:
    """A node's policy, edited like data."""

    tiers: dict[PeerId, Tier] = field(default_factory=dict)
    compute: Tier = Tier.UNKNOWN
    ranges: list[Capability] = field(default_factory=lambda: [RANGE])

    def tier(self, peer: PeerId) -> Tier:
        return self.tiers.get(peer, Tier.UNKNOWN)

    def floors(self) -> Floors:
        return Floors(compute=self.compute)

    def capabilities(self) -> Sequence[Capability]:
        return self.ranges

    def credentials(self) -> Sequence[CredentialRef]:
        return [REFERENCE]


@dataclass
class Clock:
    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Place:
    """One node's part in it."""

    secret: SecretKey
    network: MemoryNetwork
    settings: Settings
    clock: Clock
    negotiator: Negotiator
    peer: PeerId


class World:
    def __init__(self) -> None:
        self.swarm = MemorySwarm(1)
        self.places: list[Place] = []

    async def add(self) -> Place:
        secret = SecretKey(bytes([len(self.places) + 1]) * 32)
        network = MemoryNetwork(self.swarm, secret)
        settings, clock = Settings(), Clock()
        negotiator = Negotiator(network, secret, settings, clock=clock)
        await network.start()
        for other in self.places:
            await network.connect(other.network.addresses()[0])
        place = Place(secret, network, settings, clock, negotiator, peer_id(secret.public))
        self.places.append(place)
        return place


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for place in made.places:
        await place.network.stop()


@pytest.fixture
async def asker(world: World) -> Place:
    return await world.add()


@pytest.fixture
async def hop(world: World, asker: Place) -> Place:
    return await world.add()


def opening(negotiation: Negotiation | None, asker: Place, **changes: Any) -> Open:
    base = Open(
        session=b"s" * 16, handle=HANDLE, layers=LAYERS, block_count=8, hop=0, hops=1,
        previous=asker.peer, next=asker.peer, next_layers=LayerRange(6, 8), next_addresses=(),
        context_tokens=64, dtypes=3, privacy=Privacy.PRIVATE, sampling=None, keep_bytes=0,
        intent=b"" if negotiation is None else negotiation.data,
    )  # fmt: skip
    return replace(base, **changes)


def made(asker: Place, **options: Any) -> Negotiation:
    return asker.negotiator.make(HANDLE, Demand(min_tier=Tier.KNOWN), "private", **options)


def stages(negotiation: Negotiation) -> dict[PeerId, Stage]:
    return {peer: agreement.stage for peer, agreement in negotiation.agreements.items()}


class TestCasting:
    async def test_an_offer_comes_back(self, asker: Place, hop: Place) -> None:
        negotiation = made(asker)
        (answer,) = await asker.negotiator.cast(negotiation, [hop.peer])
        (offer,) = answer.offers
        assert (offer.hop, offer.handle, offer.layers) == (hop.peer, HANDLE, LAYERS)
        assert (offer.decode_us, offer.sessions_free, offer.context_tokens) == (4000, 3, 4096)
        assert offer.credentials == (REFERENCE,)
        assert offer.intent == negotiation.digest
        assert stages(negotiation) == {hop.peer: Stage.OFFERED}
        assert asker.negotiator.stats()["intents_cast"] == 1
        assert hop.negotiator.stats()["intents_offered"] == 1

    async def test_every_range_that_fits_the_best_first(self, asker: Place, hop: Place) -> None:
        full = replace(RANGE, layers=LayerRange(1, 7), sessions_free=0)
        small = replace(RANGE, layers=LayerRange(3, 4))
        other = replace(RANGE, model=ModelFacts(OTHER_HANDLE, "llama"))
        hop.settings.ranges = [full, small, RANGE, other]
        (answer,) = await asker.negotiator.cast(made(asker), [hop.peer])
        assert [o.layers for o in answer.offers] == [LAYERS, small.layers, full.layers]
        wanted = asker.negotiator.make(ModelConstraint("Llama"), Demand(), "private")
        (answer,) = await asker.negotiator.cast(wanted, [hop.peer])
        assert [o.handle for o in answer.offers] == [OTHER_HANDLE]

    async def test_many_ranges_are_bounded(self, asker: Place, hop: Place) -> None:
        hop.settings.ranges = [replace(RANGE, layers=LayerRange(n, n + 1)) for n in range(1, 20)]
        (answer,) = await asker.negotiator.cast(made(asker), [hop.peer])
        assert len(answer.offers) == limits.OFFERS_PER_ANSWER_MAX

    @pytest.mark.parametrize(
        ("change", "rule"),
        [
            (lambda s: s.ranges.clear(), "not_served"),
            (lambda s: setattr(s, "compute", Tier.KNOWN), "tier_compute"),
            (lambda s: setattr(s, "ranges", [replace(RANGE, decode_us=81_000)]), "token_ms_max"),
        ],
    )
    async def test_a_peer_says_no_by_its_rule(
        self, change: Callable[[Settings], None], rule: str, asker: Place, hop: Place
    ) -> None:
        change(hop.settings)
        negotiation = asker.negotiator.make(HANDLE, Demand(token_ms_max=80.0), "private")
        (answer,) = await asker.negotiator.cast(negotiation, [hop.peer])
        assert answer.offers == ()
        assert answer.declined is not None
        assert answer.declined.rule == rule
        assert answer.declined.message
        assert stages(negotiation) == {hop.peer: Stage.DECLINED}

    async def test_of_other_kinds_there_is_none(self, asker: Place, hop: Place) -> None:
        negotiation = asker.negotiator.make(HANDLE, Demand(), "private", kind="storage")
        (answer,) = await asker.negotiator.cast(negotiation, [hop.peer])
        assert answer.declined == Declined("kind", "this node answers no storage intents")

    async def test_a_higher_tier_gets_an_offer(self, asker: Place, hop: Place) -> None:
        hop.settings.compute = Tier.VERIFIED
        hop.settings.tiers[asker.peer] = Tier.VERIFIED
        (answer,) = await asker.negotiator.cast(made(asker), [hop.peer])
        assert answer.offers

    async def test_one_that_is_gone_holds_up_nobody(
        self, world: World, asker: Place, hop: Place
    ) -> None:
        gone = await world.add()
        await gone.network.stop()
        answers = await asker.negotiator.cast(made(asker), [gone.peer, hop.peer, hop.peer])
        assert [bool(a.offers) for a in answers] == [False, True]
        assert isinstance(answers[0].problem, PeerUnreachable)

    async def test_the_same_intent_is_not_answered_twice(self, asker: Place, hop: Place) -> None:
        negotiation = made(asker)
        await asker.negotiator.cast(negotiation, [hop.peer])
        (answer,) = await asker.negotiator.cast(negotiation, [hop.peer])
        assert answer.declined is not None
        assert answer.declined.rule == "replay"

    async def test_somebody_elses_intent_is_not_answered(
        self, world: World, asker: Place, hop: Place
    ) -> None:
        thief = await world.add()
        body = encode_cast(Cast(made(asker).data))
        answer = parse_cast_answer(await thief.network.request(hop.peer, PROTOCOL, body))
        assert isinstance(answer, Declined)
        assert answer.rule == "requester"
        # And it was not used up by that.
        assert parse_cast_answer(await asker.network.request(hop.peer, PROTOCOL, body))

    @pytest.mark.parametrize(
        ("at_s", "rule"), [(NOW_S + limits.INTENT_LIFE_S, "expired"), (NOW_S - 31, "future")]
    )
    async def test_stale_ones_are_not_answered(
        self, at_s: float, rule: str, asker: Place, hop: Place
    ) -> None:
        hop.clock.now_s = at_s
        (answer,) = await asker.negotiator.cast(made(asker), [hop.peer])
        assert answer.declined is not None
        assert answer.declined.rule == rule
        assert "clocks" in answer.declined.message

    async def test_too_many_are_refused(self, asker: Place, hop: Place) -> None:
        count = int(limits.INTENT_ASKS_BURST) + 1
        answers = [(await asker.negotiator.cast(made(asker), [hop.peer]))[0] for _ in range(count)]
        assert all(a.offers for a in answers[:-1])
        assert isinstance(answers[-1].problem, PeerRefused)

    async def test_rubbish_is_refused(self, asker: Place, hop: Place) -> None:
        with pytest.raises(PeerRefused):
            await asker.network.request(hop.peer, PROTOCOL, b"\xff" * 40)
        body = encode_cast(Cast(b"\xff" * 200))
        answer = parse_cast_answer(await asker.network.request(hop.peer, PROTOCOL, body))
        assert isinstance(answer, Declined)
        assert answer.rule == "version"

    async def test_lists_are_nobodys_business(self, asker: Place) -> None:
        demand = Demand(deny=frozenset({did_key(asker.secret.public)}), region="eu")
        silent = asker.negotiator.make(HANDLE, demand, "fast")
        assert verify_intent(silent.data, NOW_S).demand == Demand(region="eu")
        told = asker.negotiator.make(HANDLE, demand, "fast", discloses_lists=True)
        assert verify_intent(told.data, NOW_S).demand == demand

    async def test_what_is_too_long_is_the_users_fault(self, asker: Place) -> None:
        with pytest.raises(UserError, match="ask for less"):
            asker.negotiator.make(HANDLE, Demand(region="ä" * 64), "fast")


class TestLyingHops:
    async def answer_with(self, asker: Place, hop: Place, body: bytes) -> Any:
        async def lie(peer: PeerId, _: bytes) -> bytes:
            return body

        hop.network.handle_requests(PROTOCOL, lie)
        negotiation = made(asker)
        (answer,) = await asker.negotiator.cast(negotiation, [hop.peer])
        assert answer.offers == ()
        return answer.problem

    async def test_rubbish(self, asker: Place, hop: Place) -> None:
        assert isinstance(await self.answer_with(asker, hop, b"\x09"), PeerMisbehaved)

    async def test_an_offer_for_another_intent(self, asker: Place, hop: Place) -> None:
        other = made(asker)
        (offer,) = (await asker.negotiator.cast(other, [hop.peer]))[0].offers
        problem = await self.answer_with(
            asker, hop, encode_cast_answer(Offers((sign_offer(offer, hop.secret),)))
        )
        assert isinstance(problem, IntentInvalid)
        assert (problem.reason, problem.peer) == ("digest", hop.peer)

    async def test_an_offer_that_is_altered(self, asker: Place, hop: Place) -> None:
        data = hop.negotiator.admit(asker.peer, opening(made(asker), asker))
        altered = data[:-70] + b"\x01" + data[-69:]
        problem = await self.answer_with(asker, hop, encode_cast_answer(Offers((altered,))))
        assert isinstance(problem, IntentInvalid)
        assert problem.peer == hop.peer


class TestOpening:
    async def test_an_agreement_is_made(self, asker: Place, hop: Place) -> None:
        negotiation = made(asker)
        opened = opening(negotiation, asker)
        data = hop.negotiator.admit(asker.peer, opened)
        offer = asker.negotiator.check_offer(negotiation, hop.peer, HANDLE, LAYERS, data)
        assert offer.layers == LAYERS
        assert stages(negotiation) == {hop.peer: Stage.AGREED}
        negotiation.start()
        negotiation.finish()
        assert stages(negotiation) == {hop.peer: Stage.FULFILLED}
        negotiation.fail("nothing to fail now")
        assert stages(negotiation) == {hop.peer: Stage.FULFILLED}

    async def test_a_cast_intent_opens_a_session_once(self, asker: Place, hop: Place) -> None:
        negotiation = made(asker)
        await asker.negotiator.cast(negotiation, [hop.peer])
        opened = opening(negotiation, asker)
        data = hop.negotiator.admit(asker.peer, opened)
        asker.negotiator.check_offer(negotiation, hop.peer, HANDLE, LAYERS, data)
        with pytest.raises(IntentInvalid) as caught:
            hop.negotiator.admit(asker.peer, replace(opened, session=b"t" * 16))
        assert caught.value.reason == "replay"

    async def test_without_an_intent_only_the_tier_counts(self, asker: Place, hop: Place) -> None:
        assert hop.negotiator.admit(asker.peer, opening(None, asker)) == b""
        hop.settings.compute = Tier.KNOWN
        with pytest.raises(TierTooLow, match="tier_compute asks for Known"):
            hop.negotiator.admit(asker.peer, opening(None, asker))
        hop.settings.tiers[asker.peer] = Tier.TRUSTED
        assert hop.negotiator.admit(asker.peer, opening(None, asker)) == b""
        told = hop.negotiator.stats()
        assert (told["intents_refused"], told["trust_denials_compute"]) == (1, 1)

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"privacy": Privacy.FAST}, IntentInvalid),
            ({"handle": OTHER_HANDLE}, PeerRefused),
            ({"layers": LayerRange(2, 5)}, PeerRefused),
            ({"intent": b"\x01" * 300}, IntentInvalid),
        ],
    )
    async def test_a_session_that_is_not_what_was_asked(
        self, changes: dict[str, Any], error: type[Exception], asker: Place, hop: Place
    ) -> None:
        opened = opening(made(asker), asker, **changes)
        with pytest.raises(error):
            hop.negotiator.admit(asker.peer, opened)

    async def test_another_model_than_the_intents(self, asker: Place, hop: Place) -> None:
        other = asker.negotiator.make(OTHER_HANDLE, Demand(), "private")
        with pytest.raises(IntentInvalid, match="another model"):
            hop.negotiator.admit(asker.peer, opening(other, asker))

    async def test_a_stolen_intent(self, world: World, asker: Place, hop: Place) -> None:
        thief = await world.add()
        with pytest.raises(IntentInvalid) as caught:
            hop.negotiator.admit(thief.peer, opening(made(asker), thief))
        assert (caught.value.reason, caught.value.peer) == ("requester", thief.peer)

    async def test_a_divisible_range_offers_a_part(self, asker: Place, hop: Place) -> None:
        hop.settings.ranges = [replace(RANGE, divisible=True, head=True)]
        negotiation = made(asker)
        part = opening(negotiation, asker, layers=LayerRange(3, 4))
        offer = verify_offer(hop.negotiator.admit(asker.peer, part), NOW_S)
        assert (offer.layers, offer.decode_us, offer.head) == (LayerRange(3, 4), 1000, False)

    async def test_offers_that_do_not_hold(self, asker: Place, hop: Place) -> None:
        negotiation = made(asker)
        data = hop.negotiator.admit(asker.peer, opening(negotiation, asker))
        check = asker.negotiator.check_offer
        for peer, answer, about, why in (
            (hop.peer, b"", LAYERS, "terms"),
            (hop.peer, data, LayerRange(2, 5), "terms"),
            (asker.peer, data, LAYERS, "signature"),
            (hop.peer, data[:-1] + bytes([data[-1] ^ 1]), LAYERS, "signature"),
        ):
            with pytest.raises(IntentInvalid) as caught:
                check(made_again(negotiation), peer, HANDLE, about, answer)
            assert (caught.value.reason, caught.value.peer) == (why, peer)

    async def test_too_many_intents_that_hold(self, asker: Place, hop: Place) -> None:
        hop.negotiator._guard = type(hop.negotiator._guard)(per_requester_max=1)
        hop.negotiator.admit(asker.peer, opening(made(asker), asker))
        with pytest.raises(Busy):
            hop.negotiator.admit(asker.peer, opening(made(asker), asker))


def made_again(negotiation: Negotiation) -> Negotiation:
    """The same intent, with no history."""
    return Negotiation(negotiation.data, negotiation.intent, negotiation.digest)


def test_an_intent_needs_its_own_key() -> None:
    secret = SecretKey(bytes(32))
    intent = Intent(
        "inference", HANDLE, Demand(), "fast", peer_id(secret.public), b"n" * 16, 0.0, 1.0
    )
    with pytest.raises(ValueError, match="own key"):
        sign_intent(intent, SecretKey(b"1" * 32))


def test_capabilities_are_what_is_online() -> None:
    served = Served(HANDLE, "demo", 8, LAYERS, False, "online", 4096, 4, 3, 512, 64, 4000, 100.0)
    known = {HANDLE: MODEL}
    assert capabilities_of([served, replace(served, state="draining")], known) == (RANGE,)
    assert capabilities_of([served], {})[0].model == ModelFacts(HANDLE)


class FakePlanner:
    """Knows two candidates: one that may take part, one that may not."""

    def __init__(self, *rows: CandidateRow) -> None:
        self.rows = rows

    async def plan_intent(self, request: IntentRequest) -> IntentPlan:
        return IntentPlan(
            "demo", HANDLE, "auto", "private", request.demand, self.rows, None, "nobody is there"
        )


async def test_who_may_take_no_part_is_not_asked(world: World, asker: Place, hop: Place) -> None:
    shy = await world.add()
    good = CandidateRow(hop.peer, "amber", "", "Known", 0.2, LAYERS, 4.0, 0.4)
    bad = replace(good, peer=shy.peer, mismatches=(MismatchRow("min_tier", "too low"),))
    intents = NodeIntents(asker.negotiator, FakePlanner(good, good, bad), lambda peer: "amber")
    view = await intents.cast(IntentRequest("", Demand(region="eu")))
    assert view.asked == 1
    assert [(o.peer, o.name, o.decode_ms) for o in view.offers] == [(hop.peer, "amber", 4.0)]
    assert view.offers[0].credentials == ("UptimeVC by did:web:issuer.example",)
    assert view.plan.problem == "nobody is there"
    assert view.plan.demand == {"region": "eu"}
    assert view.plan.asks == ("rather in eu",)
    hop.settings.ranges = []
    view = await intents.cast(IntentRequest("", Demand()))
    assert [(d.peer, d.rule) for d in view.declined] == [(hop.peer, "not_served")]
    await hop.network.stop()
    view = await intents.cast(IntentRequest("", Demand()))
    assert [d.peer for d in view.declined] == [hop.peer]
    assert (await intents.explain(IntentRequest("", Demand()))).candidates == (good, good, bad)


class TestPaths:
    """The hooks of a path that is opened; the session is a stand-in that holds what they read."""

    def opened(self, intent: bytes, hop: Place, offer: bytes) -> Any:
        plan = SimpleNamespace(
            intent=intent, handle=HANDLE, hops=(SimpleNamespace(peer=hop.peer, layers=LAYERS),)
        )
        remote = SimpleNamespace(plan=plan, id=b"s" * 16, offers={0: offer} if offer else {})
        return SimpleNamespace(path=SimpleNamespace(remote=remote))

    async def test_from_the_intent_to_the_end(self, asker: Place, hop: Place) -> None:
        paths = PathIntents(asker.negotiator)
        make = paths.maker(HANDLE, None, "private")
        data, other = make(None), make(None)  # type: ignore[arg-type]
        assert data != other
        offer = hop.negotiator.admit(asker.peer, opening(None, asker, intent=data))
        path = self.opened(data, hop, offer)
        negotiation = paths._open[data]
        paths.check_offers(path)
        assert stages(negotiation) == {hop.peer: Stage.FULFILLING}
        paths.on_closed(path, CloseReason.DONE)
        assert stages(negotiation) == {hop.peer: Stage.FULFILLED}
        assert list(paths._open) == [other]
        paths.on_closed(path, CloseReason.DONE)
        for session, peer in ((b"x" * 16, hop.peer), (b"s" * 16, asker.peer)):
            paths.on_receipt(session, peer, b"half")  # of another session, of no hop of this one
        assert stages(negotiation) == {hop.peer: Stage.FULFILLED}
        for _ in range(2):
            paths.on_receipt(b"s" * 16, hop.peer, b"half")
            assert stages(negotiation) == {hop.peer: Stage.RECEIPTED}

    async def test_one_that_breaks(self, asker: Place, hop: Place) -> None:
        paths = PathIntents(asker.negotiator)
        data = paths.maker(HANDLE, Demand(min_tier=Tier.KNOWN), "private")(None)  # type: ignore[arg-type]
        offer = hop.negotiator.admit(asker.peer, opening(None, asker, intent=data))
        path, negotiation = self.opened(data, hop, offer), paths._open[data]
        paths.check_offers(path)
        paths.on_closed(path, CloseReason.FAILED)
        assert stages(negotiation) == {hop.peer: Stage.FAILED}
        assert negotiation.agreements[hop.peer].reason == "failed"

    async def test_a_hop_without_an_offer(self, asker: Place, hop: Place) -> None:
        paths = PathIntents(asker.negotiator)
        data = paths.maker(HANDLE, None, "private")(None)  # type: ignore[arg-type]
        with pytest.raises(IntentInvalid, match="no offer") as caught:
            paths.check_offers(self.opened(data, hop, b""))
        assert caught.value.peer == hop.peer

    async def test_paths_without_intents_are_let_be(self, asker: Place, hop: Place) -> None:
        paths = PathIntents(asker.negotiator)
        alone = SimpleNamespace(path=SimpleNamespace(remote=None))
        for path in (self.opened(b"", hop, b""), alone):
            paths.check_offers(path)  # type: ignore[arg-type]
            paths.on_closed(path, CloseReason.DONE)  # type: ignore[arg-type]

    async def test_they_are_bounded(self, asker: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "INTENT_PATHS_MAX", 2)
        paths = PathIntents(asker.negotiator)
        made = [paths.maker(HANDLE, None, "fast")(None) for _ in range(3)]  # type: ignore[arg-type]
        assert list(paths._open) == made[1:]
