"""The register of what was issued: entries that are random and never given twice, bits that say
what the entries say, revocations that stay.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from credentials.bitstring import StatusList
from credentials.keys import SecretKey
from kwaai.errors import BodyTooLarge, CredentialMissing, StatusPermanent, UserError, WalletFull
from kwaai.store import issued as module
from kwaai.store.home import Home
from kwaai.store.issued import IssuedCredential, IssuedRegister, SignedList, StatusPlace
from kwaai.store.wallet import Wallet, open_wallet

SECRET = SecretKey(bytes(range(32)))
ISSUER, OWNER = "did:key:z6MkIssuer", "did:key:z6MkOwner"
BOTH = ("revocation", "suspension")


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[Wallet]:
    with open_wallet(Home(tmp_path), SECRET) as opened:
        yield opened


@pytest.fixture
def register(wallet: Wallet) -> IssuedRegister:
    return IssuedRegister(wallet.database)


def record(
    register: IssuedRegister,
    n: int = 1,
    places: tuple[StatusPlace, ...] | None = None,
    issuer: str = ISSUER,
    kind: str = "UptimeVC",
) -> IssuedCredential:
    if places is None:
        places = register.reserve(issuer, BOTH, float(n))
    return register.record(
        b'{"n":%d}' % n,
        credential_id=f"urn:uuid:{n}",
        issuer=issuer,
        subject=f"did:key:{n % 2}",
        kind=kind,
        issued_s=float(n),
        valid_until_s=None,
        places=places,
    )


def test_recording(register: IssuedRegister) -> None:
    places = register.reserve(ISSUER, BOTH, 1.0)
    assert [(p.issuer, p.list_name, p.purpose) for p in places] == [
        (ISSUER, "revocation-1", "revocation"),
        (ISSUER, "suspension-1", "suspension"),
    ]
    kept = record(register, places=places)
    assert [status.place for status in kept.statuses] == list(places)
    assert not any(status.on for status in kept.statuses)
    assert register.get("urn:uuid:1") == kept
    assert register.at(ISSUER, "revocation-1", places[0].index) == kept
    assert register.at(ISSUER, "revocation-1", (places[0].index + 1) % 131_072) is None
    assert register.at(OWNER, "revocation-1", places[0].index) is None
    assert register.get("urn:uuid:2") is None
    assert record(register, places=places) == kept  # the same again
    assert register.count() == 1


def test_what_is_not_recorded(register: IssuedRegister) -> None:
    places = register.reserve(ISSUER, BOTH, 1.0)
    record(register, 1, places)
    with pytest.raises(UserError, match="another credential with the id urn:uuid:1"):
        register.record(
            b"other",
            credential_id="urn:uuid:1",
            issuer=ISSUER,
            subject="did:key:1",
            kind="UptimeVC",
            issued_s=1.0,
            valid_until_s=None,
        )
    free = StatusPlace(ISSUER, "revocation-1", "revocation", (places[0].index + 1) % 131_072)
    for taken in (places, (free,), (StatusPlace(OWNER, "revocation-1", "revocation", 1),)):
        with pytest.raises(UserError, match="is not reserved, or is used"):
            record(register, 2, taken)
    assert register.count() == 1
    with pytest.raises(BodyTooLarge):
        register.record(
            b"x" * 300_000,
            credential_id="urn:uuid:3",
            issuer=ISSUER,
            subject="did:key:1",
            kind="UptimeVC",
            issued_s=1.0,
            valid_until_s=None,
        )
    for purpose in ("", "Revocation", "re vocation", "révocation", "x" * 21, "a-1", "a/b"):
        with pytest.raises(UserError, match="is no purpose of a status list"):
            register.reserve(ISSUER, [purpose], 1.0)


def test_a_full_register(register: IssuedRegister, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ISSUED_MAX", 2)
    record(register, 1)
    record(register, 2)
    with pytest.raises(WalletFull):
        record(register, 3)


def test_a_revocation_is_for_good(register: IssuedRegister) -> None:
    record(register)
    assert register.set_status("urn:uuid:1", "revocation", True, 5.0)
    assert not register.set_status("urn:uuid:1", "revocation", True, 6.0)
    with pytest.raises(StatusPermanent):
        register.set_status("urn:uuid:1", "revocation", False, 7.0)
    kept = register.get("urn:uuid:1")
    assert kept is not None
    revocation, suspension = kept.statuses
    assert (revocation.on, revocation.changed_s) == (True, 5.0)
    assert (suspension.on, suspension.changed_s) == (False, None)
    with pytest.raises(StatusPermanent):
        register.set_entry(ISSUER, "revocation-1", revocation.place.index, False, 8.0)


def test_a_suspension_is_lifted(register: IssuedRegister) -> None:
    record(register)
    assert not register.set_status("urn:uuid:1", "suspension", False, 1.0)
    for on in (True, False, True):
        assert register.set_status("urn:uuid:1", "suspension", on, 2.0)
        kept = register.get("urn:uuid:1")
        assert kept is not None
        assert kept.statuses[1].on is on
    assert not kept.statuses[0].on


def test_what_has_no_status(register: IssuedRegister) -> None:
    record(register, 1, ())
    with pytest.raises(CredentialMissing, match="was issued without a revocation status"):
        register.set_status("urn:uuid:1", "revocation", True, 1.0)
    with pytest.raises(CredentialMissing, match="no credential 'urn:uuid:9' was issued here"):
        register.set_status("urn:uuid:9", "revocation", True, 1.0)
    for name, index in (("revocation-1", 0), ("revocation-9", 0), ("revocation-1", -1)):
        with pytest.raises(CredentialMissing, match="no credential has entry"):
            register.set_entry(ISSUER, name, index, True, 1.0)
    with pytest.raises(CredentialMissing, match="has no status list"):
        register.list_bits(ISSUER, "revocation-1")
    with pytest.raises(CredentialMissing, match="has no status list"):
        register.put_signed(ISSUER, "revocation-1", SignedList(b"", 1, 1.0))
    assert register.get_signed(ISSUER, "revocation-1") is None


def test_the_bits_are_what_the_entries_say(register: IssuedRegister) -> None:
    indexes = [record(register, n).statuses[0].place.index for n in range(30)]
    for n in range(0, 30, 3):
        register.set_status(f"urn:uuid:{n}", "revocation", True, 1.0)
    bits = register.list_bits(ISSUER, "revocation-1")
    assert len(bits) == 131_072 // 8
    assert sum(byte.bit_count() for byte in bits) == 10
    as_the_standard_reads_it = StatusList(bits)
    for n, index in enumerate(indexes):
        assert as_the_standard_reads_it.get(index) == (n % 3 == 0)
    assert not any(register.list_bits(ISSUER, "suspension-1"))


def test_the_first_entry_is_the_highest_bit(wallet: Wallet) -> None:
    register = IssuedRegister(wallet.database, draw=lambda _: 0)
    record(register)
    register.set_status("urn:uuid:1", "revocation", True, 1.0)
    assert register.list_bits(ISSUER, "revocation-1")[:2] == b"\x80\0"


def test_entries_are_drawn_and_never_given_twice(wallet: Wallet) -> None:
    draw = random.Random(4).randrange
    register = IssuedRegister(wallet.database, draw=lambda n: draw(min(n, 100)))
    with wallet.batch():
        taken = [register.reserve(ISSUER, ["revocation"], 1.0)[0].index for _ in range(100)]
    assert sorted(taken) == list(range(100))
    assert taken != sorted(taken)
    # Where every draw is taken, the first free one is.
    assert register.reserve(ISSUER, ["revocation"], 1.0)[0].index == 100


def test_a_new_list_before_the_last_is_full(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STATUS_LIST_ENTRIES", 16)
    register = IssuedRegister(wallet.database)
    for n in range(25):
        record(register, n)
    names = [(row.name, row.used, row.entries) for row in register.lists(ISSUER)]
    assert names == [
        (f"{purpose}-{n}", used, 16) for n, used in ((1, 12), (2, 12), (3, 1)) for purpose in BOTH
    ]
    register.set_status("urn:uuid:24", "revocation", True, 1.0)
    assert any(register.list_bits(ISSUER, "revocation-3"))
    assert not any(register.list_bits(ISSUER, "revocation-2"))


def test_every_issuer_has_lists_of_its_own(register: IssuedRegister) -> None:
    record(register, 1)
    record(register, 2, issuer=OWNER)
    assert {(row.issuer, row.name) for row in register.lists()} == {
        (issuer, f"{purpose}-1") for issuer in (ISSUER, OWNER) for purpose in BOTH
    }
    register.set_status("urn:uuid:2", "revocation", True, 1.0)
    assert any(register.list_bits(OWNER, "revocation-1"))
    assert not any(register.list_bits(ISSUER, "revocation-1"))


def test_versions_tell_what_is_outdated(register: IssuedRegister) -> None:
    def version() -> int:
        row = register.get_list(ISSUER, "revocation-1")
        assert row is not None
        return row.version

    kept = record(register)
    first = version()
    register.put_signed(ISSUER, "revocation-1", SignedList(b"first", first, 1.0))
    assert register.get_signed(ISSUER, "revocation-1") == SignedList(b"first", first, 1.0)
    register.set_entry(ISSUER, "revocation-1", kept.statuses[0].place.index, True, 2.0)
    second = version()
    assert second > first
    register.put_signed(ISSUER, "revocation-1", SignedList(b"second", second, 3.0))
    # Another process that signed an older state comes late.
    register.put_signed(ISSUER, "revocation-1", SignedList(b"first", first, 4.0))
    assert register.get_signed(ISSUER, "revocation-1") == SignedList(b"second", second, 3.0)
    register.put_signed(ISSUER, "revocation-1", SignedList(b"anew", second, 5.0))
    assert register.get_signed(ISSUER, "revocation-1") == SignedList(b"anew", second, 5.0)
    register.set_status("urn:uuid:1", "revocation", True, 6.0)  # it is on already
    assert version() == second


def test_finding(register: IssuedRegister) -> None:
    for n in range(6):
        record(register, n, issuer=OWNER if n == 3 else ISSUER, kind="AVC" if n > 3 else "BVC")

    def ids(**filters: object) -> list[int]:
        return [int(c.credential_id[9:]) for c in register.find(**filters)]  # type: ignore[arg-type]

    assert ids() == [5, 4, 3, 2, 1, 0]
    assert ids(issuer=OWNER) == [3]
    assert ids(subject="did:key:0") == [4, 2, 0]
    assert ids(kind="AVC", subject="did:key:0") == [4]
    assert ids(kind="NoVC") == []
    assert ids(limit=2) == [5, 4]
    assert ids(limit=2, after=register.find(limit=2)[-1].number) == [3, 2]
    assert [c.credential_id for c in register.iterate()] == [f"urn:uuid:{n}" for n in range(6)]


def test_at_the_same_time(wallet: Wallet) -> None:
    register = IssuedRegister(wallet.database, draw=lambda n: random.randrange(60))

    def issue(n: int) -> None:
        record(register, n)
        if n % 2:
            register.set_status(f"urn:uuid:{n}", "revocation", True, 1.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(issue, range(40)))
    indexes = [c.statuses[0].place.index for c in register.iterate()]
    assert len(set(indexes)) == 40
    bits = register.list_bits(ISSUER, "revocation-1")
    assert sum(byte.bit_count() for byte in bits) == 20
    wallet.check()
