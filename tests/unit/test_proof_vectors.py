"""The W3C's vectors of vc-di-eddsa, byte for byte: canonical forms, hashes, signatures; sets and
chains of proofs."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import base58
import pytest
from proof_scene import NOW, check

from credentials.document import Document, parse_document, parse_time
from credentials.errors import ProofUnsupported
from credentials.keys import SecretKey
from credentials.proof import ProofOptions, Suite, add_proof
from credentials.proof_fields import parse_proof
from credentials.suites import canonical_forms, signed_bytes

# Folder and the ending of its files' names.
SINGLE = [
    ("eddsa-jcs-2022", "JCS"),
    ("eddsa-rdfc-2022", "DataInt"),
    ("eddsa-rdfc-2022/employ", "DataInt"),
    ("Ed25519Signature2020", "EdSig"),
]
CHAIN = "proof-set-chain"


@pytest.fixture
def root(vectors: Path) -> Path:
    return vectors / "vc-di-eddsa" / "TestVectors"


def load(root: Path, *parts: str) -> Document:
    return parse_document(root.joinpath(*parts).read_bytes())


def text(folder: Path, name: str) -> str:
    return (folder / f"{name}.txt").read_text(encoding="utf-8")


def secret_of(pair: dict[str, str]) -> SecretKey:
    """0x8026 is the multicodec of an Ed25519 seed."""
    raw = base58.b58decode(pair["privateKeyMultibase"][1:])
    assert raw[:2] == b"\x80\x26"
    return SecretKey(raw[2:])


@pytest.mark.parametrize(("folder_name", "ending"), SINGLE)
def test_canonical_forms_hashes_and_signature(root: Path, folder_name: str, ending: str) -> None:
    folder = root / folder_name
    signed = load(root, folder_name, f"signed{ending}.json")
    proof = parse_proof(signed["proof"])
    options, body = canonical_forms(signed, proof)

    assert options.decode() == text(folder, f"proofCanon{ending}")
    assert body.decode() == text(folder, f"canonDoc{ending}")
    assert sha256(options).hexdigest() == text(folder, f"proofHash{ending}")
    assert sha256(body).hexdigest() == text(folder, f"docHash{ending}")
    assert signed_bytes(signed, proof).hex() == text(folder, f"combinedHash{ending}")
    assert proof.signature.hex() == text(folder, f"sigHex{ending}")
    assert proof.raw["proofValue"] == text(folder, f"sigBTC58{ending}")

    [checked] = check(signed)
    assert checked.method == proof.method


@pytest.mark.parametrize(("folder_name", "ending"), SINGLE)
def test_signing_again_gives_the_same_document(root: Path, folder_name: str, ending: str) -> None:
    signed = load(root, folder_name, f"signed{ending}.json")
    unsigned = {name: value for name, value in signed.items() if name != "proof"}
    secret = secret_of(load(root, "keyPair.json"))
    config = load(root, folder_name, f"proofConfig{ending}.json")
    if config["type"] != "DataIntegrityProof":
        with pytest.raises(ProofUnsupported):
            parse_proof({**config, "type": "Ed25519Signature2018", "proofValue": "z"})
        combined = bytes.fromhex(text(root / folder_name, f"combinedHash{ending}"))
        assert secret.sign(combined).hex() == text(root / folder_name, f"sigHex{ending}")
        return  # verified only, never made
    assert add_proof(unsigned, options_of(config), secret) == signed
    assert unsigned == {name: value for name, value in signed.items() if name != "proof"}


def options_of(config: dict[str, Any]) -> ProofOptions:
    suite: Suite = config["cryptosuite"]
    previous = config.get("previousProof")
    return ProofOptions(
        suite=suite,
        method=config["verificationMethod"],
        purpose=config["proofPurpose"],
        created_s=parse_time(config["created"]),
        id=config.get("id"),
        previous=tuple(previous) if isinstance(previous, list) else previous,
    )


@pytest.mark.parametrize(
    ("name", "proofs"),
    [
        ("signedProofSet1", 1),
        ("signedProofSet2", 2),
        ("signedProofChain1", 3),
        ("signedProofChain2", 4),
    ],
)
def test_sets_and_chains_verify(root: Path, name: str, proofs: int) -> None:
    checked = check(load(root, CHAIN, f"{name}.json"))
    assert len(checked) == proofs
    assert [proof.created_s for proof in checked] == sorted(
        proof.created_s for proof in checked if proof.created_s is not None
    )


def test_sets_and_chains_are_made_the_same(root: Path) -> None:
    keys = load(root, CHAIN, "multiKeyPairs.json")
    made = load(root, CHAIN, "unsigned.json")
    steps = [
        ("proofSetConfig1", "keyPair1", "signedProofSet1"),
        ("proofSetConfig2", "keyPair2", "signedProofSet2"),
        ("proofChainConfig1", "keyPair3", "signedProofChain1"),
        ("proofChainConfig2", "keyPair4", "signedProofChain2"),
    ]
    for config, pair, expected in steps:
        options = options_of(load(root, CHAIN, f"{config}.json"))
        made = add_proof(made, options, secret_of(keys[pair]))
        assert made == load(root, CHAIN, f"{expected}.json")


def test_the_temporary_documents_of_the_chain(root: Path) -> None:
    """What a chained proof is made over: the document with the proofs that it names."""
    signed = load(root, CHAIN, "signedProofChain2.json")
    proofs = signed["proof"]
    for place, name in ((2, "proofChainTempDoc1"), (3, "proofChainTempDoc2")):
        expected = load(root, CHAIN, f"{name}.json")
        previous = proofs[place].get("previousProof")
        named = [proof for proof in proofs if proof.get("id") in (previous, *previous)]
        assert expected["proof"] == named
        temporary = {**expected, "proof": [*named, proofs[place]]}
        assert signed_bytes(temporary, parse_proof(proofs[place]), named) == signed_bytes(
            signed, parse_proof(proofs[place]), named
        )


def test_every_vector_file_is_read(root: Path) -> None:
    """A new file in the folder is a new vector that nobody looks at yet."""
    single = {
        "proofCanon",
        "canonDoc",
        "proofHash",
        "docHash",
        "combinedHash",
        "sigHex",
        "sigBTC58",
    }
    read = {"keyPair.json", "unsigned.json", "employmentAuth.json"}
    for folder, ending in SINGLE:
        read |= {f"{folder}/{name}{ending}.txt" for name in single}
        read |= {f"{folder}/signed{ending}.json", f"{folder}/proofConfig{ending}.json"}
    read |= {
        f"{CHAIN}/{name}.json"
        for name in (
            "multiKeyPairs",
            "unsigned",
            *(
                f"{kind}{number}"
                for kind in ("proofSetConfig", "proofChainConfig")
                for number in "12"
            ),
            *(
                f"{kind}{number}"
                for kind in ("signedProofSet", "signedProofChain")
                for number in "12"
            ),
            *(f"{kind}ConfigSigned{n}" for kind in ("proofSet", "proofChain") for n in "12"),
            "proofChainTempDoc1",
            "proofChainTempDoc2",
        )
    }
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert there == read


@pytest.mark.parametrize("kind", ["proofSet", "proofChain"])
@pytest.mark.parametrize("number", [1, 2])
def test_signed_configurations_are_the_proofs(root: Path, kind: str, number: int) -> None:
    signed = load(root, CHAIN, f"signed{kind[0].upper()}{kind[1:]}{number}.json")
    proofs = signed["proof"] if isinstance(signed["proof"], list) else [signed["proof"]]
    config = load(root, CHAIN, f"{kind}ConfigSigned{number}.json")
    assert config == proofs[-1]
    unsigned_config = load(root, CHAIN, f"{kind}Config{number}.json")
    assert {**unsigned_config, "proofValue": config["proofValue"]} == config


def test_the_plain_inputs_are_those_that_were_signed(root: Path) -> None:
    for folder, plain in (
        ("eddsa-jcs-2022", "unsigned.json"),
        ("eddsa-rdfc-2022", "unsigned.json"),
    ):
        [signed] = (root / folder).glob("signed*.json")
        document = json.loads(signed.read_text(encoding="utf-8"))
        proof = document.pop("proof")
        assert document == load(root, plain)
        assert parse_proof(proof).created_s is not None
        assert parse_time(proof["created"]) < NOW
    assert replace(options_of(load(root, "eddsa-jcs-2022", "proofConfigJCS.json")), id="urn:x").id


def test_the_vector_of_an_unpinned_context_holds_from_its_canonical_texts_on(
    root: Path,
) -> None:
    folder = root / "eddsa-rdfc-2022" / "employ"
    signed = load(root, "eddsa-rdfc-2022", "employ", "signedDataInt.json")
    assert {**load(root, "employmentAuth.json"), "proof": signed["proof"]} == signed
    digests = [
        sha256(text(folder, name).encode()).digest()
        for name in ("proofCanonDataInt", "canonDocDataInt")
    ]
    assert [digest.hex() for digest in digests] == [
        text(folder, name) for name in ("proofHashDataInt", "docHashDataInt")
    ]
    assert b"".join(digests).hex() == text(folder, "combinedHashDataInt")
    signature = parse_proof(signed["proof"]).signature
    assert signature.hex() == text(folder, "sigHexDataInt")
    secret_of(load(root, "keyPair.json")).public.verify(b"".join(digests), signature)
