"""A node's own DID documents: under its did:key, and as did:peer with services inside.

Does not know addresses: the caller says where the node is reached. DID Core 1.0, section 5.4
(services).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from credentials.did import Did, did_key, did_peer_alias
from credentials.did_document import KEY_AGREEMENT, absolute
from credentials.did_peer import CONTEXTS, create_peer_2, create_peer_4
from credentials.document import Document
from credentials.keys import PublicKey, peer_id
from credentials.multikey import encode_multikey, encode_x25519
from credentials.resolve import key_document

SERVICE_TYPE = "KwaaiNetNode"


def node_service(public: PublicKey, addresses: Sequence[str]) -> Document:
    """Return the service entry that says where a node is reached: libp2p multiaddrs."""
    endpoint = {"peerId": peer_id(public), "multiaddrs": list(addresses)}
    return {"id": "#node", "type": SERVICE_TYPE, "serviceEndpoint": endpoint}


def node_document(public: PublicKey, *, services: Iterable[Document] = ()) -> Document:
    """Return a node's DID document: that of its did:key, with the alias and with services.

    Nobody can resolve the services from the DID alone: a peer that asks the node gets them.
    """
    did = did_key(public)
    document = key_document(did, public)
    document["alsoKnownAs"] = [did_peer_alias(public)]
    offered = [{**service, "id": absolute(did, service["id"])} for service in services]
    if offered:
        document["service"] = offered
    return document


def node_peer_2(public: PublicKey, *, services: Iterable[Document] = ()) -> Did:
    """Return a did:peer:2 of the node's key, for authentication, assertions and key agreement."""
    key = encode_multikey(public)
    keys = [
        ("authentication", key),
        ("assertionMethod", key),
        (KEY_AGREEMENT, encode_x25519(public.to_x25519())),
    ]
    return create_peer_2(keys, services)


def node_peer_4(public: PublicKey, *, services: Iterable[Document] = ()) -> Did:
    """Return the long form of a did:peer:4 of the node's key, with the same rights."""
    twin = encode_x25519(public.to_x25519())
    document: Document = {
        "@context": list(CONTEXTS),
        "verificationMethod": [
            {"id": "#key-1", "type": "Multikey", "publicKeyMultibase": encode_multikey(public)},
            {"id": "#key-2", "type": "Multikey", "publicKeyMultibase": twin},
        ],
        "authentication": ["#key-1"],
        "assertionMethod": ["#key-1"],
        KEY_AGREEMENT: ["#key-2"],
    }
    offered = list(services)
    if offered:
        document["service"] = offered
    return create_peer_4(document)
