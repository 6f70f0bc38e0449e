"""The pinned contexts: their bytes, that they are complete, and that nobody asks a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import schemas
from schemas import context_bytes, context_digests, load_context

FOLDER = Path(schemas.__file__).parent / "contexts"
OFFICIAL = {
    "https://www.w3.org/2018/credentials/v1": "vcdm/contexts/credentials/v1",
    "https://www.w3.org/ns/credentials/v2": "vcdm/contexts/credentials/v2",
    "https://www.w3.org/ns/credentials/examples/v2": "vcdm/contexts/credentials/examples/v2",
    "https://www.w3.org/ns/credentials/undefined-terms/v2": (
        "vcdm/contexts/credentials/undefined-terms/v2"
    ),
    "https://w3id.org/security/data-integrity/v1": ("vc-data-integrity/contexts/data-integrity/v1"),
    "https://w3id.org/security/data-integrity/v2": ("vc-data-integrity/contexts/data-integrity/v2"),
    "https://w3id.org/security/multikey/v1": "vc-data-integrity/contexts/multikey/v1",
    "https://w3id.org/security/jwk/v1": "vc-data-integrity/contexts/jwk/v1",
    "https://www.w3.org/ns/cid/v1": "cid/context/v1.jsonld",
    "https://www.w3.org/ns/did/v1": "did-core/context/v1",
    "https://www.w3.org/ns/did/v1.1": "did-core/context/v1.1rc1",
}


def test_every_file_has_the_bytes_that_its_digest_says() -> None:
    for url, (name, digest) in schemas._CONTEXTS.items():
        found = hashlib.sha256((FOLDER / f"{name}.jsonld").read_bytes()).hexdigest()
        assert found == digest, f'schemas/__init__.py needs for {url}: ("{name}", "{found}")'


def test_every_file_is_in_the_table_and_in_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    names = {name for name, _ in schemas._CONTEXTS.values()}
    assert {path.stem for path in FOLDER.glob("*.jsonld")} == names
    for url, (name, _) in schemas._CONTEXTS.items():
        assert name.removesuffix("-v2") in readme
        assert url in readme or url.rsplit("/", 2)[1] in readme, url


def test_the_digest_that_the_recommendation_prints() -> None:
    assert context_digests()["https://www.w3.org/ns/credentials/v2"] == (
        "59955ced6697d61e03f2b2556febe5308ab16842846f5b586d7f1f7adec92734"
    )


def test_the_bytes_are_those_of_the_w3c(vectors: Path) -> None:
    for url, path in OFFICIAL.items():
        assert context_bytes(url) == (vectors / path).read_bytes(), url


@pytest.mark.parametrize("url", sorted(context_digests()))
def test_a_context_is_one_object_that_leads_to_no_other(url: str) -> None:
    document = load_context(url)
    assert document == json.loads(context_bytes(url))
    assert isinstance(document["@context"], dict)
    text = context_bytes(url).decode("utf-8")
    assert "@import" not in text
    assert "@base" not in text
    assert '"@index"' not in text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://example.org/context",
        "http://www.w3.org/ns/credentials/v2",
        "https://www.w3.org/ns/credentials/v2/",
        "https://www.w3.org/ns/credentials/v2#",
        "HTTPS://www.w3.org/ns/credentials/v2",
        "../__init__",
    ],
)
def test_any_other_url_is_unknown(url: str) -> None:
    with pytest.raises(LookupError, match="not one of the"):
        load_context(url)


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://www.w3.org/ns/credentials/v2"
    monkeypatch.setitem(schemas._CONTEXTS, url, ("credentials-v1", context_digests()[url]))
    with pytest.raises(ValueError, match=r"credentials-v1.jsonld was changed"):
        context_bytes(url)
