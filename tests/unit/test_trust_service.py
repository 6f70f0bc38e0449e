"""Whom a node trusts by what peers present: real offices, wallets, scores; a network in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from exchange_world import WAIT_S, Place, World, a_world, end_task

from credentials.keys import PeerId
from kwaai.config import Config
from kwaai.errors import PeerLost, PeerMisbehaved, ResourceError, UserError
from kwaai.node import trust_service
from kwaai.node.credential_office import Issued
from kwaai.node.trust_service import TrustService
from kwaai.node.trust_views import TrustViews
from kwaai.trust.evidence import Outcome
from kwaai.trust.tiers import Tier

PLEDGE = {"pledgeName": "the pledge", "pledgeHash": f"sha256:{'0' * 64}"}
VERIFIED = ("FiduciaryPledgeVC", "VerifiedNodeVC")


class Credentials:
    """A node's CredentialService, of a place that runs already."""

    def __init__(self, place: Place) -> None:
        self.place, self.is_open = place, True

    def office(self) -> Any:
        if not self.is_open:
            raise ResourceError("the wallet is being opened")
        return self.place.office

    def exchange(self) -> Any:
        return self.place.exchange


class Truster:
    """A place whose trust in the others is looked at."""

    def __init__(self, place: Place, config: Config) -> None:
        self.place, self.config = place, config
        self.credentials: Any = Credentials(place)
        self.trust = TrustService(config, place.network, self.credentials)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Truster:
        ready = asyncio.Event()
        self._task = asyncio.create_task(self.trust.run(ready.set))
        async with asyncio.timeout(WAIT_S):
            await ready.wait()
        return self

    async def stop(self) -> None:
        if self._task is not None:
            await end_task(self._task)

    async def tier(self, place: Place, *, current: bool = True) -> Tier:
        await self.trust.prepare([place.peer], current=current)
        return self.trust.standing(place.peer).tier

    def views(self) -> TrustViews:
        view: Any = type("View", (), {"name_of": lambda *_: "", "find_peer": _nobody})()
        return TrustViews(self.trust, self.config, self.place.network, self.credentials, view)


def _nobody(_: object, text: str) -> PeerId:
    raise UserError(f"no peer {text!r} is known")


class Scene:
    """An authority, a peer, and one who trusts what the authority says."""

    def __init__(self, world: World, stack: contextlib.AsyncExitStack) -> None:
        self._world, self._stack = world, stack

    async def build(self) -> Scene:
        self.authority, self.peer = await self._world.add(), await self._world.add()
        self.me = await self._world.add()
        self.truster = await self.trust(self.me)
        return self

    async def trust(self, place: Place, **settings: Any) -> Truster:
        settings.setdefault("trust_issuers", (f"{self.authority.office.did}=1",))
        truster = await Truster(place, Config(**settings)).start()
        self._stack.push_async_callback(truster.stop)
        return truster


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(trust_service.limits, "TRUST_STATUS_AGE_S", 0.0)
    monkeypatch.setattr(trust_service.limits, "TRUST_FETCH_CURRENT_S", 0.0)
    async with a_world(tmp_path) as world, contextlib.AsyncExitStack() as stack:
        yield await Scene(world, stack).build()


def issue(by: Place, about: Place, kind: str = "VerifiedNodeVC") -> Issued:
    """Issue a credential, and put it into its subject's wallet."""
    claims: dict[str, dict[str, Any]] = {
        "FiduciaryPledgeVC": PLEDGE,
        "VerifiedNodeVC": {"checksPassed": ["hardware"], "checkedAt": "2026-11-20T10:00:00Z"},
    }
    issued = by.office.issue(kind, about.office.did, claims[kind])
    about.office.import_credential(issued.data)
    return issued


async def give(by: Place, about: Place) -> list[Issued]:
    return [await asyncio.to_thread(issue, by, about, kind) for kind in VERIFIED]


async def test_credentials_of_a_listed_issuer_count_and_stop_counting_when_revoked(
    scene: Scene,
) -> None:
    assert await scene.truster.tier(scene.peer) is Tier.UNKNOWN
    pledge, node = await give(scene.authority, scene.peer)
    await scene.truster.trust.refresh([scene.peer.peer])
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED

    await asyncio.to_thread(scene.authority.office.revoke, pledge.id)
    assert await scene.truster.tier(scene.peer) is Tier.KNOWN
    await asyncio.to_thread(scene.authority.office.revoke, node.id)
    assert await scene.truster.tier(scene.peer) is Tier.UNKNOWN
    (first, second) = (await scene.truster.views().show(scene.peer.office.did)).attestations
    assert {first.state, second.state} == {"credential_revoked"}
    assert first.points == second.points == 0


async def test_a_refresh_looks_at_status_lists_too(scene: Scene) -> None:
    pledge, node = await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    for issued in (pledge, node):
        await asyncio.to_thread(scene.authority.office.revoke, issued.id)
    await scene.truster.trust.refresh([scene.peer.peer])
    assert scene.truster.trust.standing(scene.peer.peer).tier is Tier.UNKNOWN


async def test_this_node_goes_by_its_own_name_too(scene: Scene) -> None:
    views, own = scene.truster.views(), scene.truster.place.network.peer_id
    row = (await views.show(own)).row
    for text in (row.name, own[-6:], f"…{own[-8:]}"):
        assert (await views.show(text)).row.did == row.did
    for text in ("", own[-5:], "nobody", "did:foo", "did:web:example.org#key"):
        with pytest.raises(UserError):
            await views.show(text)
    with pytest.raises(UserError, match="cannot endorse itself"):
        await views.endorse(own, "", 1)


async def test_what_nobody_vouches_for_buys_nothing(scene: Scene) -> None:
    """Issued by itself, by a stranger, and by a stranger that it has itself endorsed."""
    sybil = await scene._world.add()
    await give(scene.peer, scene.peer)
    await give(sybil, scene.peer)
    await give(scene.peer, sybil)
    for place in (scene.peer, sybil):
        assert await scene.truster.tier(place) is Tier.UNKNOWN
        assert scene.truster.trust.standing(place.peer).score == 0


async def test_a_credential_about_another_is_not_shown_for_one(scene: Scene) -> None:
    other = await scene._world.add()
    pledge, _ = await give(scene.authority, other)
    await asyncio.to_thread(scene.peer.office.import_credential, pledge.data)
    assert await scene.truster.tier(scene.peer) is Tier.UNKNOWN


async def test_what_a_peer_shows_no_more_was_never_there(scene: Scene) -> None:
    await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    for stored in scene.peer.office.own_credentials():
        scene.peer.office.wallet.remove(stored.id)
    await scene.truster.trust.refresh([scene.peer.peer])
    assert scene.truster.trust.standing(scene.peer.peer).score == 0
    assert scene.truster.trust.opened.evidence.presented(scene.peer.office.did) == ()


async def test_it_is_known_again_after_a_start_without_asking(scene: Scene) -> None:
    await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    await scene.truster.stop()
    assert scene.truster.trust.standing(scene.peer.peer).tier is Tier.UNKNOWN
    await scene.peer.network.stop()
    again = await scene.trust(scene.me)
    assert again.trust.standing(scene.peer.peer).tier is Tier.VERIFIED


async def test_a_publisher_that_is_gone_holds_nobody_up_for_long(scene: Scene) -> None:
    await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    await scene.authority.network.stop()
    for _ in range(3):
        async with asyncio.timeout(WAIT_S):
            tier = await scene.truster.tier(scene.peer)
        assert tier is Tier.VERIFIED  # by the list that was kept


async def test_it_asks_whoever_connects(scene: Scene) -> None:
    await give(scene.authority, scene.peer)
    late = await scene._world.add()
    truster = await scene.trust(late)
    async with asyncio.timeout(WAIT_S):
        while truster.trust.standing(scene.peer.peer).tier is not Tier.VERIFIED:
            await asyncio.sleep(0.02)


async def test_what_is_seen_counts_and_survives(scene: Scene) -> None:
    await give(scene.authority, scene.peer)
    assert await scene.truster.tier(scene.peer) is Tier.VERIFIED
    trust = scene.truster.trust
    before = trust.standing(scene.peer.peer)
    observer = trust.observer
    assert observer is not None
    for _ in range(6):
        observer.spot_check(scene.peer.peer, Outcome.WRONG)
    await observer.flush()
    await trust.recompute()
    after = trust.standing(scene.peer.peer)
    assert after.score < before.score
    assert after.integrity < trust.floors.integrity
    denial = trust.floors.check("serve", scene.peer.peer, after.tier, after.integrity)
    assert denial is not None
    assert denial.rule == "integrity_floor"
    assert trust.floors.check("compute", scene.peer.peer, after.tier, after.integrity) is None

    await scene.truster.stop()
    again = await scene.trust(scene.me)
    assert again.trust.standing(scene.peer.peer).integrity == pytest.approx(after.integrity)


async def test_a_failure_that_only_a_peer_tells_of_is_not_held_against_the_other(
    scene: Scene,
) -> None:
    trust = scene.truster.trust
    accused, accuser = scene.peer.peer, scene.authority.peer
    trust.on_outcome(accused, PeerLost("it is gone, says the other", peer=accused, accuser=accuser))
    trust.on_outcome(accuser, PeerMisbehaved("it sent nonsense", peer=accuser))
    assert trust.observer is not None
    await trust.observer.flush()
    await trust.recompute()
    assert trust.standing(accused).integrity > trust.standing(accuser).integrity


async def test_roots_can_be_changed_while_it_runs(scene: Scene) -> None:
    await give(scene.authority, scene.peer)
    truster = await scene.trust(await scene._world.add(), trust_issuers=())
    assert await truster.tier(scene.peer) is Tier.UNKNOWN
    view = await truster.views().set_roots([scene.authority.office.did])
    assert [row.did for row in view.roots] == [scene.authority.office.did]
    assert await truster.tier(scene.peer) is Tier.VERIFIED
    await truster.views().set_roots([])
    assert await truster.tier(scene.peer) is Tier.UNKNOWN


async def test_the_explanation_adds_up(scene: Scene) -> None:
    await give(scene.authority, scene.peer)
    await scene.truster.tier(scene.peer)
    told = await scene.truster.views().explain(scene.peer.peer)
    assert sum(reason.points for reason in told.reasons) == pytest.approx(told.row.score)
    sources = {child.source for reason in told.reasons for child in reason.children}
    assert any(source.startswith("urn:uuid:") for source in sources)
    rows = (await scene.truster.views().peers()).rows
    assert rows[0].did == scene.me.office.did  # itself first
    assert (await scene.truster.views().graph(3)).nodes


async def test_without_a_wallet_nobody_is_known_and_it_says_so(scene: Scene) -> None:
    truster = Truster(scene.me, Config())
    truster.credentials.is_open = False
    with pytest.raises(ResourceError):
        await truster.trust.run(lambda: None)
    assert truster.trust.standing(scene.peer.peer).tier is Tier.UNKNOWN
    assert truster.trust.facts(scene.peer.peer).credentials == ()
    assert truster.trust.standing("no peer at all").score == 0
    await truster.trust.prepare([scene.peer.peer], current=True)
    with pytest.raises(ResourceError):
        truster.trust.check_open()
