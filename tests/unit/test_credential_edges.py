"""Peers, leftovers and hosts that mean harm to a node's credentials: what must not come of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from exchange_world import WAIT_S, Place, World
from test_credential_exchange import CLAIMS, KIND

from credentials.bitstring import StatusList
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_document, encode_time
from credentials.errors import StatusUnknown
from credentials.keys import PeerId, SecretKey
from credentials.proof import ProofOptions, add_proof
from credentials.status import build_list_credential, build_status_entry
from kwaai import limits
from kwaai.api.auth import _check_local
from kwaai.config import Config
from kwaai.errors import Busy, Forbidden, KwaaiError, Locked, UserError
from kwaai.node.credential_home import open_office
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.threads import Threads
from kwaai.store.home import Home, ensure_home
from kwaai.store.identity_file import (
    ensure_identity,
    former_identities,
    load_identity,
    seal_identity,
    unseal_identity,
)
from kwaai.store.issued import IssuedRegister
from kwaai.store.owner_file import create_owner, owner_key
from kwaai.store.rotation import rotate_identity
from kwaai.store.wallet import open_wallet
from kwaai.wire.credential_messages import (
    PROTOCOL,
    Ask,
    Collect,
    Show,
    encode_request,
    parse_answer,
    parse_document_answer,
)

DAY_S = 86_400.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        yield World(tmp_path, stack)


async def send(place: Place, peer: PeerId, message: Any, timeout_s: float = WAIT_S) -> bytes:
    return await place.network.request(peer, PROTOCOL, encode_request(message), timeout_s)


# Peers that stall.


async def test_an_issuer_that_stalls_holds_up_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list is due, it is asked for what is shown, and it never answers."""
    holder, issuer, other = await world.add(), await world.add(), await world.add()
    asked = await holder.exchange.request(issuer.peer, KIND, CLAIMS)
    await issuer.exchange.approve(asked.id)
    held = holder.office.own_credentials()
    monkeypatch.setattr(holder.office._shelf, "_clock", lambda: time.time() + 400)
    questions: list[bytes] = []

    async def stall(_: PeerId, body: bytes) -> bytes:
        questions.append(body)
        await asyncio.Event().wait()
        return b""

    issuer.network.handle_requests(PROTOCOL, stall)
    shown = await asyncio.gather(*(send(issuer, holder.peer, Show("c" * 32)) for _ in range(6)))
    presentation = json.loads(parse_document_answer(shown[0]).data)
    assert len(presentation["verifiableCredential"]) == len(held) == 1
    assert parse_answer(await send(other, holder.peer, Collect(bytes(16)))).state == "unknown"
    assert questions == []  # at a stranger's word nobody is asked anything


async def test_what_is_revoked_here_is_not_shown(world: World) -> None:
    issuer, asker = await world.add(), await world.add()
    issued = issuer.office.issue(KIND, issuer.office.did, CLAIMS)
    assert parse_document_answer(await send(asker, issuer.peer, Show("c" * 32))).data
    issuer.office.revoke(issued.id)
    assert not parse_document_answer(await send(asker, issuer.peer, Show("c" * 32))).data


async def test_who_hangs_up_gets_no_more_threads() -> None:
    threads = Threads("t", threads=1, calls_max=2, what="questions")
    gate = threading.Event()
    calls = [asyncio.create_task(threads.run(gate.wait, WAIT_S)) for _ in range(2)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    with pytest.raises(Busy, match="2 questions are under way"):
        await threads.run(int)
    gate.set()
    await calls[1]
    assert await threads.run(int) == 0
    threads.close()
    with pytest.raises(Busy, match="being stopped"):
        await threads.run(int)


async def test_a_wallet_in_use_does_not_end_the_service(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await world.add()

    def locked(*_: Any, **__: Any) -> Any:
        raise Locked("in use")

    monkeypatch.setattr(node.book, "find", locked)
    await node.exchange.settle()


async def test_collected_and_delivered_at_once(world: World) -> None:
    for _ in range(4):
        issuer, asker = await world.add(), await world.add()
        asked = await asker.exchange.request(issuer.peer, KIND, CLAIMS)
        desk = issuer.exchange._desk
        await desk.issue(await desk.find_pending(asked.id), CLAIMS)
        await asyncio.gather(issuer.exchange.settle(), asker.exchange.settle())
        assert [row.state for row in await asker.exchange.requests()] == ["delivered"]
        assert [row.state for row in await issuer.exchange.requests()] == ["delivered"]


# Peers that ask for much.


async def test_a_type_is_issued_unasked_once_a_day(world: World) -> None:
    issuer, asker = await world.add(auto_issue=[KIND]), await world.add()
    states = []
    for number in range(4):
        ask = Ask(number.to_bytes(16, "big"), KIND, json.dumps(CLAIMS).encode())
        states.append(parse_answer(await send(asker, issuer.peer, ask)).state)
    assert states == ["issued", "pending", "pending", "pending"]
    assert issuer.office.issued.count() == 1


async def test_all_peers_together_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AUTO_ISSUES_BURST", 1.0)
    monkeypatch.setattr(limits, "AUTO_ISSUES_PER_S", 0.0)
    issuer = await world.add(auto_issue=[KIND])
    states = []
    for number in range(3):
        asker = await world.add()
        ask = Ask(number.to_bytes(16, "big"), KIND, json.dumps(CLAIMS).encode())
        states.append(parse_answer(await send(asker, issuer.peer, ask)).state)
    assert states == ["issued", "pending", "pending"]


async def test_the_same_request_at_once_is_issued_once(world: World) -> None:
    issuer, asker = await world.add(auto_issue=[KIND]), await world.add()
    ask = Ask(bytes(16), KIND, json.dumps(CLAIMS).encode())
    answers = await asyncio.gather(
        *(send(asker, issuer.peer, ask) for _ in range(8)), return_exceptions=True
    )
    assert not [a for a in answers if isinstance(a, Exception) and not isinstance(a, KwaaiError)]
    assert issuer.office.issued.count() == 1


async def test_an_id_of_another_peer_is_refused(world: World) -> None:
    """Else the owner could not say which of the two is meant, and decide neither."""
    node, first, second = await world.add(), await world.add(), await world.add()
    ask = Ask(bytes(16), KIND, b"{}")
    assert parse_answer(await send(first, node.peer, ask)).state == "pending"
    answer = parse_answer(await send(second, node.peer, ask))
    assert (answer.state, "in use" in answer.reason) == ("refused", True)


# Status lists from anybody.


def signed(secret: SecretKey, document: Document) -> Document:
    options = ProofOptions(
        "eddsa-jcs-2022", verification_method(did_key(secret.public)), created_s=time.time() - 5
    )
    return add_proof(document, options, secret)


def credential(secret: SecretKey, subject: str, url: str) -> Document:
    document = {
        "@context": ["https://www.w3.org/ns/credentials/v2"],
        "type": ["VerifiableCredential"],
        "issuer": str(did_key(secret.public)),
        "validFrom": encode_time(int(time.time()) - 100),
        "credentialSubject": {"id": subject},
        "credentialStatus": build_status_entry(url, "revocation", 7),
    }
    return signed(secret, document)


def listed(secret: SecretKey, url: str, valid_from_s: float) -> Document:
    issuer = str(did_key(secret.public))
    until_s = valid_from_s + DAY_S
    document = build_list_credential(
        issuer,
        url,
        "revocation",
        StatusList.new(),
        valid_from_s=valid_from_s,
        valid_until_s=until_s,
    )
    return signed(secret, document)


class Supplier:
    """Whoever is asked for status lists."""

    def __init__(self) -> None:
        self.lists: dict[str, bytes] = {}

    def fetch(self, url: str) -> bytes:
        if url not in self.lists:
            raise StatusUnknown(f"{url} is not here")
        return self.lists[url]


ATTACKER, ISSUER, HOLDER = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))


def test_a_list_with_added_contexts_is_not_kept(tmp_path: Path) -> None:
    supplier, url = Supplier(), f"{did_key(ISSUER.public)}/status/revocation-1"
    genuine = listed(ISSUER, url, time.time())
    more = [*genuine["@context"], "https://www.w3.org/ns/credentials/examples/v2"]
    supplier.lists[url] = encode_document({**genuine, "@context": more})
    with open_wallet(ensure_home(tmp_path), HOLDER) as wallet:
        office = CredentialOffice(
            HOLDER, wallet, IssuedRegister(wallet.database), fetch_status=supplier.fetch
        )
        data = credential(ISSUER, office.did, url)
        with pytest.raises(StatusUnknown):
            office.verify(data)
        supplier.lists[url] = encode_document(genuine)
        office.verify(data)


def test_a_credential_that_is_no_list_is_not_kept(tmp_path: Path) -> None:
    supplier, url = Supplier(), f"{did_key(ISSUER.public)}/status/revocation-1"
    other = {**credential(ISSUER, "did:example:x", "urn:none"), "id": url}
    del other["credentialStatus"], other["proof"]
    supplier.lists[url] = encode_document(signed(ISSUER, other))
    with open_wallet(ensure_home(tmp_path), HOLDER) as wallet:
        office = CredentialOffice(
            HOLDER, wallet, IssuedRegister(wallet.database), fetch_status=supplier.fetch
        )
        with pytest.raises(StatusUnknown):
            office.verify(credential(ISSUER, office.did, url))
        assert wallet.get_status_list(url) is None


@pytest.mark.parametrize("url", ["urn:list:1", "http://issuer.example/status/1", "did:web:a.b/x"])
def test_a_url_that_names_no_signer_cannot_be_taken(tmp_path: Path, url: str) -> None:
    supplier = Supplier()
    with open_wallet(ensure_home(tmp_path), HOLDER) as wallet:
        office = CredentialOffice(
            HOLDER, wallet, IssuedRegister(wallet.database), fetch_status=supplier.fetch
        )
        supplier.lists[url] = encode_document(listed(ATTACKER, url, time.time() + 200))
        with pytest.raises(StatusUnknown):
            office.verify(credential(ATTACKER, office.did, url))
        assert wallet.get_status_list(url) is None


# Names that are none.


@pytest.mark.parametrize("host", ["localhost:1.evil.example", "localhost:x", "[::1]:1.evil"])
def test_a_port_that_is_none_makes_no_local_host(host: str) -> None:
    request = make_mocked_request("GET", "/credentials", headers={"Host": host})
    with pytest.raises(Forbidden):
        _check_local(request)


def test_a_name_that_is_no_text(home: Home) -> None:
    with open_wallet(home, HOLDER) as wallet:
        for ask in (wallet.resolve, IssuedRegister(wallet.database).get):
            with pytest.raises(UserError, match="not UTF-8"):
                ask(b"\xff".decode("utf-8", "surrogateescape"))


# Secrets on the disk.


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return ensure_home(tmp_path / "home")


def holding(home: Home, secret: SecretKey) -> list[str]:
    files = [path for path in home.path.rglob("*") if path.is_file()]
    return [path.name for path in files if secret.expose_seed() in path.read_bytes()]


def test_sealing_leaves_no_plain_key(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what a crash left of its making, nor keys from before a rotation."""
    unlink = Path.unlink

    def crash(self: Path, missing_ok: bool = False) -> None:
        if not self.name.endswith(".partial"):
            unlink(self, missing_ok)

    with monkeypatch.context() as crashing:
        crashing.setattr(Path, "unlink", crash)
        first, _ = ensure_identity(home.identity_key)
    assert len(holding(home, first)) == 2
    second = rotate_identity(home, home.identity_key)
    assert holding(home, first)
    assert holding(home, second)
    seal_identity(home.identity_key, b"correct horse", cost="interactive")
    assert holding(home, first) == holding(home, second) == []
    (former,) = former_identities(home.identity_key)
    assert load_identity(former, unlock=lambda: b"correct horse").public == first.public
    seal_identity(home.identity_key, b"battery staple", unlock=lambda: b"correct horse")
    assert load_identity(former, unlock=lambda: b"battery staple").public == first.public
    unseal_identity(home.identity_key, unlock=lambda: b"battery staple")
    assert load_identity(former).public == first.public


def test_a_former_key_under_another_passphrase_stays(home: Home) -> None:
    first, _ = ensure_identity(home.identity_key)
    seal_identity(home.identity_key, b"first passphrase", cost="interactive")
    rotate_identity(home, home.identity_key, unlock=lambda: b"first passphrase", cost="interactive")
    (former,) = former_identities(home.identity_key)
    kept = former.read_bytes()
    home.identity_key.unlink()
    ensure_identity(home.identity_key)
    seal_identity(home.identity_key, b"second passphrase", cost="interactive")
    assert former.read_bytes() == kept
    assert load_identity(former, unlock=lambda: b"first passphrase").public == first.public


def test_an_owner_key_that_does_not_open_is_left_out(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_identity(home.identity_key)
    create_owner(owner_key(home), b"the owner's words", cost="interactive")
    monkeypatch.setenv("KWAAINET_OWNER_PASSPHRASE", "other words")
    with open_office(home, Config()) as office:
        assert office.owner_did is None
