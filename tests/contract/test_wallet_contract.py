"""What every `credentials.wallet.CredentialWallet` keeps to: in memory, and on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credentials.errors import WalletFull as MemoryFull
from credentials.keys import SecretKey
from credentials.wallet import CredentialWallet, MemoryWallet, WalletEntry, wallet_id
from kwaai.errors import WalletFull
from kwaai.store import wallet as on_disk
from kwaai.store.home import Home

SECRET = SecretKey(bytes(range(32)))
ENTRY = WalletEntry(
    types=("VerifiableCredential", "UptimeVC"),
    issuer="did:key:z6MkIssuer",
    subjects=("did:key:z6MkSubject",),
    valid_from_s=1000.0,
    valid_until_s=2000.0,
    credential_id="urn:uuid:1",
    added_s=1500.0,
)


@pytest.fixture(params=["memory", "disk"])
def wallet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CredentialWallet]:
    if request.param == "memory":
        yield MemoryWallet()
        return
    with on_disk.open_wallet(Home(tmp_path), SECRET) as opened:
        yield opened


def ids(found: list[on_disk.StoredCredential]) -> list[bytes]:
    return [stored.original for stored in found]


def test_what_is_added_is_there_to_the_byte(wallet: CredentialWallet) -> None:
    original = b'{"a" : "\xc3\xa9"}\n\x00'
    name = wallet.add(original, ENTRY)
    assert name == wallet_id(original)
    stored = wallet.get(name)
    assert stored is not None
    assert (stored.id, stored.entry, stored.original) == (name, ENTRY, original)
    assert wallet.find() == [stored]
    assert list(wallet.iterate()) == [stored]
    assert wallet.count() == 1
    assert wallet.get("0" * 64) is None


def test_adding_twice_is_once(wallet: CredentialWallet) -> None:
    name = wallet.add(b"a", ENTRY)
    assert wallet.add(b"a", replace(ENTRY, issuer="did:key:other", added_s=9.0)) == name
    assert wallet.count() == 1
    stored = wallet.get(name)
    assert stored is not None
    assert stored.entry == ENTRY


def test_quarantine(wallet: CredentialWallet) -> None:
    bad = replace(ENTRY, quarantined=True, reason="the proof does not hold")
    name = wallet.add(b"bad", bad)
    assert (wallet.count(), wallet.count(quarantined=True), wallet.count(quarantined=None)) == (
        0,
        1,
        1,
    )
    assert wallet.find() == []
    assert wallet.find(type="UptimeVC") == []
    (kept,) = wallet.find(quarantined=True)
    assert kept.entry == bad
    assert wallet.find(quarantined=None, issuer=ENTRY.issuer) == [kept]
    # The same bytes, verified this time, are released; and not put back by failing again.
    assert wallet.add(b"bad", ENTRY) == name
    assert wallet.count() == 1
    wallet.add(b"bad", bad)
    assert wallet.count() == 1
    assert wallet.set_quarantine(name, True, "revoked")
    assert wallet.count() == 0
    (kept,) = wallet.find(quarantined=True, subject=ENTRY.subject)
    assert kept.entry.reason == "revoked"
    assert wallet.set_quarantine(name, False)
    assert wallet.get(name) == wallet.find()[0]
    assert not wallet.set_quarantine("0" * 64, True)


def test_removing(wallet: CredentialWallet) -> None:
    name = wallet.add(b"a", ENTRY)
    other = wallet.add(b"b", ENTRY)
    assert wallet.remove(name)
    assert not wallet.remove(name)
    assert wallet.get(name) is None
    assert [stored.id for stored in wallet.find(issuer=ENTRY.issuer)] == [other]
    assert wallet.remove(other)
    assert wallet.find(type="UptimeVC") == []
    assert list(wallet.iterate()) == []
    # A number is not given again: a cursor of before stays where it was.
    wallet.add(b"c", ENTRY)
    assert wallet.find()[0].number == 3


def test_finding(wallet: CredentialWallet) -> None:
    wallet.add(b"1", ENTRY)
    wallet.add(b"2", replace(ENTRY, types=("VerifiableCredential", "ThroughputVC")))
    wallet.add(b"3", replace(ENTRY, issuer="did:key:z6MkElse"))
    wallet.add(b"4", replace(ENTRY, subjects=("did:key:z6MkElse", "did:key:z6MkSubject")))
    wallet.add(b"5", replace(ENTRY, subjects=(), types=(), credential_id=None))
    wallet.add(b"6", replace(ENTRY, types=("UptimeVC", "UptimeVC"), subjects=("did:x", "did:x")))
    assert ids(wallet.find()) == [b"6", b"5", b"4", b"3", b"2", b"1"]
    assert ids(wallet.find(type="UptimeVC")) == [b"6", b"4", b"3", b"1"]
    assert ids(wallet.find(type="ThroughputVC")) == [b"2"]
    assert ids(wallet.find(issuer="did:key:z6MkElse")) == [b"3"]
    assert ids(wallet.find(subject="did:key:z6MkElse")) == [b"4"]
    assert ids(wallet.find(subject="did:x")) == [b"6"]
    assert ids(wallet.find(subject="did:key:z6MkSubject", type="UptimeVC")) == [b"4", b"3", b"1"]
    assert ids(wallet.find(type="UptimeVC", issuer="did:key:z6MkElse", subject="did:x")) == []
    assert wallet.find(type="NoVC") == []
    # A name is found in the place where it stands only.
    assert wallet.find(type="did:key:z6MkSubject") == []
    assert wallet.find(issuer="did:key:z6MkSubject") == []


def test_validity(wallet: CredentialWallet) -> None:
    wallet.add(b"both", ENTRY)
    wallet.add(b"from", replace(ENTRY, valid_until_s=None))
    wallet.add(b"until", replace(ENTRY, valid_from_s=None))
    wallet.add(b"ever", replace(ENTRY, valid_from_s=None, valid_until_s=None))
    for filters in ({}, {"type": "UptimeVC"}, {"issuer": ENTRY.issuer}, {"subject": ENTRY.subject}):
        at = {time: ids(wallet.find(valid_at_s=time, **filters)) for time in (999.9, 1000, 2000.1)}  # type: ignore[arg-type]
        assert at == {
            999.9: [b"ever", b"until"],
            1000: [b"ever", b"until", b"from", b"both"],
            2000.1: [b"ever", b"from"],
        }
        assert len(wallet.find(valid_at_s=2000.0, **filters)) == 4  # type: ignore[arg-type]


def test_text(wallet: CredentialWallet) -> None:
    wallet.add(b"1", ENTRY)
    wallet.add(b"2", replace(ENTRY, issuer="did:web:Example.org", credential_id="urn:100%_x\\é"))
    wallet.add(b"3", replace(ENTRY, types=("OtherVC",), subjects=(), credential_id=None))
    assert ids(wallet.find(text="UPTIME")) == [b"2", b"1"]
    assert ids(wallet.find(text="example.ORG")) == [b"2"]
    assert ids(wallet.find(text="z6mksubject", type="UptimeVC")) == [b"2", b"1"]
    assert ids(wallet.find(text="%_X\\")) == [b"2"]
    assert ids(wallet.find(text="é")) == [b"2"]
    assert ids(wallet.find(text="É")) == []
    assert ids(wallet.find(text="")) == [b"3", b"2", b"1"]
    assert wallet.find(text="'; DROP TABLE credentials; --") == []


def test_pages(wallet: CredentialWallet) -> None:
    for n in range(25):
        wallet.add(b"%d" % n, ENTRY)
    for filters in ({}, {"type": "UptimeVC"}, {"valid_at_s": 1500.0}, {"text": "uptime"}):
        seen: list[bytes] = []
        after = None
        while page := wallet.find(limit=10, after=after, **filters):  # type: ignore[arg-type]
            assert len(page) <= 10
            seen += ids(page)
            after = page[-1].number
            wallet.add(b"meanwhile", ENTRY)  # what is new is before the first page
        assert seen[-25:] == [b"%d" % n for n in reversed(range(25))]
    assert wallet.find(limit=0) == []
    assert wallet.find(limit=-1) == []


def test_status_lists(wallet: CredentialWallet) -> None:
    url = "https://example.org/status/1"
    assert wallet.get_status_list(url) is None
    wallet.put_status_list(url, b"old", 1.0)
    wallet.put_status_list(url, b"new", 2.0)
    kept = wallet.get_status_list(url)
    assert kept is not None
    assert (kept.url, kept.original, kept.fetched_s) == (url, b"new", 2.0)


def test_long_forms(wallet: CredentialWallet) -> None:
    assert wallet.long_forms() == {}
    wallet.put_long_form("did:peer:4zQm", "did:peer:4zQm:z1")
    wallet.put_long_form("did:peer:4zQm", "did:peer:4zQm:z1")
    assert wallet.long_forms() == {"did:peer:4zQm": "did:peer:4zQm:z1"}


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_bounds(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "WALLET_CREDENTIALS_MAX", 3)
    monkeypatch.setattr(on_disk, "WALLET_LONG_FORMS_MAX", 3)
    monkeypatch.setattr(on_disk, "WALLET_STATUS_LISTS_MAX", 2)
    wallet: CredentialWallet
    if kind == "memory":
        wallet = MemoryWallet(credentials_max=3, status_lists_max=2)
    else:
        wallet = on_disk.open_wallet(Home(tmp_path), SECRET)
    for n in range(3):
        wallet.add(b"%d" % n, ENTRY)
        wallet.put_long_form(f"did:{n}", "long")
        wallet.put_status_list(f"https://{n}", b"", 3.0 - n)
    with pytest.raises((MemoryFull, WalletFull), match="3 credentials"):
        wallet.add(b"3", ENTRY)
    with pytest.raises((MemoryFull, WalletFull), match="3 long"):
        wallet.put_long_form("did:3", "long")
    wallet.add(b"0", ENTRY)
    wallet.put_long_form("did:0", "longer")
    assert wallet.remove(wallet_id(b"1"))
    wallet.add(b"3", ENTRY)
    assert ids(wallet.find()) == [b"3", b"2", b"0"]
    assert [n for n in range(3) if wallet.get_status_list(f"https://{n}")] == [0, 1]


NAMES = st.sampled_from(["A", "B", "C", "did:key:z6MkIssuer"])
ENTRIES = st.builds(
    WalletEntry,
    types=st.lists(NAMES, max_size=3).map(tuple),
    issuer=NAMES,
    subjects=st.lists(NAMES, max_size=3).map(tuple),
    valid_from_s=st.none() | st.integers(0, 5).map(float),
    valid_until_s=st.none() | st.integers(0, 5).map(float),
    credential_id=st.none() | NAMES,
    added_s=st.just(1.0),
    quarantined=st.booleans(),
)
SEARCHES = st.fixed_dictionaries(
    {},
    optional={
        "type": NAMES,
        "issuer": NAMES,
        "subject": NAMES,
        "valid_at_s": st.integers(0, 5).map(float),
        "quarantined": st.none() | st.booleans(),
        "text": st.sampled_from(["a", "MK", "z"]),
        "limit": st.integers(0, 5),
        "after": st.integers(0, 8),
    },
)


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 5), st.sampled_from("aaarq"), ENTRIES), max_size=12),
    searches=st.lists(SEARCHES, min_size=1, max_size=8),
)
def test_both_agree_on_everything(
    changes: list[tuple[int, str, WalletEntry]],
    searches: list[dict[str, object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    memory = MemoryWallet()
    with on_disk.open_wallet(Home(tmp_path_factory.mktemp("w")), SECRET) as disk:
        for n, change, entry in changes:
            for wallet in (memory, disk):
                original = b"%d" % n
                match change:
                    case "a":
                        wallet.add(original, entry)
                    case "r":
                        wallet.remove(wallet_id(original))
                    case "q":
                        wallet.set_quarantine(wallet_id(original), entry.quarantined, "said")
        assert list(memory.iterate()) == list(disk.iterate())
        for search in searches:
            assert memory.find(**search) == disk.find(**search), search  # type: ignore[arg-type]
        for quarantined in (True, False, None):
            assert memory.count(quarantined=quarantined) == disk.count(quarantined=quarantined)
