"""Bitstring Status List 1.0 over HTTP: entries, lists, and what verification makes of them.

The rules of the W3C's suite (w3c/vc-bitstring-status-list-test-suite) in our own words.
https://www.w3.org/TR/vc-bitstring-status-list/
"""

from __future__ import annotations

import base64
import gzip
from typing import Any
from urllib.parse import urlsplit

import pytest
from conformance_server import SUITES, V2, Client, assert_refused, credential

from credentials.document import Document
from credentials.proof import Suite


def statuses(issued: Document) -> list[Document]:
    status = issued["credentialStatus"]
    return status if isinstance(status, list) else [status]


def fetch(api: Client, entry: Document) -> Document:
    answer = api.get(urlsplit(entry["statusListCredential"]).path)
    assert answer.status == 200
    document: Document = answer.body
    return document


def bits(listed: Document) -> bytes:
    encoded = listed["credentialSubject"]["encodedList"]
    assert encoded[0] == "u"
    assert "=" not in encoded
    padded = encoded[1:] + "=" * (-len(encoded[1:]) % 4)
    return gzip.decompress(base64.urlsafe_b64decode(padded))


def is_set(data: bytes, index: int) -> bool:
    return bool(data[index // 8] >> (7 - index % 8) & 1)


@pytest.mark.parametrize("suite", SUITES)
def test_the_entry_of_an_issued_credential(api: Client, suite: Suite) -> None:
    issued = api.issued(credential(), suite)
    (entry,) = statuses(issued)
    assert entry["type"] == "BitstringStatusListEntry"
    assert entry["statusPurpose"] == "revocation"
    assert isinstance(entry["statusListIndex"], str)
    assert str(int(entry["statusListIndex"])) == entry["statusListIndex"]
    assert 0 <= int(entry["statusListIndex"]) < 131_072
    assert entry["id"] != entry["statusListCredential"]
    assert issued["id"].startswith("urn:uuid:")
    assert api.verify(issued).status == 200


def test_the_list_credential(api: Client) -> None:
    (entry,) = statuses(api.issued(credential()))
    listed = fetch(api, entry)
    assert listed["@context"][0] == V2
    assert listed["id"] == entry["statusListCredential"]
    assert set(listed["type"]) == {"VerifiableCredential", "BitstringStatusListCredential"}
    assert listed["issuer"] == api.office.did
    subject = listed["credentialSubject"]
    assert subject["type"] == "BitstringStatusList"
    assert subject["statusPurpose"] == "revocation"
    assert len(bits(listed)) >= 16 * 1024
    assert api.verify(listed).status == 200


def test_a_list_as_a_credential_or_as_json(api: Client) -> None:
    (entry,) = statuses(api.issued(credential()))
    path = urlsplit(entry["statusListCredential"]).path
    assert api.get(path).media_type == "application/json"
    assert api.get(path, Accept="application/vc").media_type == "application/vc"


@pytest.mark.parametrize("path", ["/status/nothing-1", "/status/revocation-99", "/status/..%2fkey"])
def test_a_list_that_is_not_there(api: Client, path: str) -> None:
    answer = api.get(path)
    assert answer.status == 404
    assert answer.body["type"].endswith("status-list#STATUS_RETRIEVAL_ERROR")


def test_lists_of_the_past_are_not_kept(api: Client) -> None:
    api.issued(credential())
    answer = api.get("/status/revocation-1?timestamp=2024-01-01T00%3A00%3A00Z")
    assert answer.status == 404
    assert answer.body["type"].endswith("status-list#STATUS_RETRIEVAL_ERROR")


def change(api: Client, id: str, purpose: str, status: Any = True) -> int:
    entry = {"type": "BitstringStatusListEntry", "statusPurpose": purpose, "status": status}
    return api.post("/credentials/status", {"credentialId": id, "credentialStatus": entry}).status


def test_revocation(api: Client) -> None:
    issued, other = api.issued(credential()), api.issued(credential())
    assert change(api, issued["id"], "revocation") == 200
    answer = api.verify(issued)
    assert_refused(answer)
    assert answer.body["type"].endswith("status-list#STATUS_VERIFICATION_ERROR")
    assert answer.body["code"] == "credential_revoked"
    assert api.verify(other).status == 200
    (entry,) = statuses(issued)
    listed = bits(fetch(api, entry))
    assert is_set(listed, int(entry["statusListIndex"]))
    assert not is_set(listed, int(statuses(other)[0]["statusListIndex"]))
    assert change(api, issued["id"], "revocation", False) == 409


def test_suspension_and_its_end(api: Client) -> None:
    wishes = [{"statusPurpose": "revocation"}, {"statusPurpose": "suspension"}]
    issued = api.issued(credential(), credentialStatus=wishes)
    assert [entry["statusPurpose"] for entry in statuses(issued)] == ["revocation", "suspension"]
    assert change(api, issued["id"], "suspension", "1") == 200
    assert api.verify(issued).body["code"] == "credential_suspended"
    assert change(api, issued["id"], "suspension", "0") == 200
    assert api.verify(issued).status == 200


def test_a_credential_that_was_not_issued_here(api: Client) -> None:
    assert change(api, "urn:uuid:00000000-0000-4000-8000-000000000000", "revocation") == 404


def test_no_status_where_none_is_wanted(api: Client) -> None:
    assert "credentialStatus" not in api.issued(credential(), credentialStatus=[])
    assert "credentialStatus" not in api.issued(credential(), credentialStatus=False)


def entry_of(**changes: Any) -> Document:
    entry = {
        "id": "https://issuer.example/status/1#7",
        "type": "BitstringStatusListEntry",
        "statusPurpose": "revocation",
        "statusListIndex": "7",
        "statusListCredential": "https://issuer.example/status/1",
        **changes,
    }
    return {name: value for name, value in entry.items() if value is not None}


MALFORMED = {
    "an index that is true": entry_of(statusListIndex=True),
    "an index below 0": entry_of(statusListIndex="-1"),
    "an index that is none": entry_of(statusListIndex="x"),
    "no index": entry_of(statusListIndex=None),
    "no purpose": entry_of(statusPurpose=None),
    "no list": entry_of(statusListCredential=None),
    "a list that is no URL": entry_of(statusListCredential="not-a-url"),
    "a size of 0": entry_of(statusSize=0),
    "a size of 2 without messages": entry_of(statusSize=2),
}


@pytest.mark.parametrize("entry", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_entries_are_not_signed(api: Client, entry: Document) -> None:
    answer = api.issue(credential(credentialStatus=entry))
    assert_refused(answer)
    assert answer.body["type"].endswith("#MALFORMED_VALUE_ERROR")


def test_a_status_under_another_name_is_not_signed(api: Client) -> None:
    assert_refused(api.issue(credential(statusEntry=entry_of(statusListIndex=True))))


def test_a_list_that_nobody_here_has_is_no_verdict(api: Client) -> None:
    issued = api.issued(credential(credentialStatus=entry_of()))
    answer = api.verify(issued)
    assert_refused(answer)
    assert answer.body["type"].endswith("status-list#STATUS_RETRIEVAL_ERROR")
    assert answer.body["conclusive"] is False
    lenient = api.verify(issued, checks=["proof"])
    assert lenient.status == 200
    assert [warning["step"] for warning in lenient.body["warnings"]] == ["status"]
