"""Every bound of this package, with its unit and its reason."""

from __future__ import annotations

from typing import Final

DOCUMENT_BYTES_MAX: Final = 256 * 1024
"""Of one credential or presentation; a large one of the wild has 30 kB, a status list 20 kB."""
DOCUMENT_DEPTH_MAX: Final = 32
"""Levels of nesting; the deepest in the W3C's suites has 9."""
DID_CHARS_MAX: Final = 4096
"""Base58 decoding is quadratic: 4 kB take 12 ms, 64 kB 2.9 s."""
PROOFS_MAX: Final = 8
"""Of one document; each costs a canonicalisation and a signature."""
CREDENTIALS_MAX: Final = 32
"""In one presentation."""
CLOCK_SKEW_S: Final = 300
"""How far clocks may differ; Digital Bazaar's libraries use the same."""
PROOF_VALUES_MAX: Final = 16
"""Domains of one proof."""

# Decentralised identifiers.
DID_URL_CHARS_MAX: Final = DID_CHARS_MAX + 1024
"""A DID, and a path, a query and a fragment; ours have 53."""
MULTIBASE_CHARS_MAX: Final = 1024
"""Of a key; an Ed25519 Multikey has 48, the largest that exist (RSA-4096) 720."""
DID_METHODS_MAX: Final = 64
"""Keys of one DID document, and as many references under each purpose."""
DID_SERVICES_MAX: Final = 64
"""Services of one DID document; a peer offers a handful."""
DID_KEYS_CACHED: Final = 4096
"""Resolved did:keys that are remembered: 2 kB each."""
DID_OTHERS_CACHED: Final = 256
"""Other resolved DIDs that are remembered: up to 50 kB each."""
ACCEPT_CHARS_MAX: Final = 1024
"""Of an Accept header that is looked at; browsers send 140."""

# Sealed secrets.
SEAL_MEMORY_BYTES_MAX: Final = 512 * 1024 * 1024
"""What a sealed file may ask for: twice the memory that ours ask for."""
SEAL_PASSES_MAX: Final = 8
"""And how often it is gone through: 3 s on a slow core."""

# Credentials and presentations.
CONTEXTS_MAX: Final = 16
"""Of one document; the W3C's suites have four, Digital Bazaar's processor takes ten to load."""
MODEL_OBJECTS_MAX: Final = 256
"""Subjects, statuses, resources of one credential: each is looked at, some are looked up."""

# Status lists, schemas and types.
STATUSES_MAX: Final = 16
"""Of one credential; each costs a list's verification."""
STATUS_LIST_BYTES_MAX: Final = 1024 * 1024
"""Inflated: 8 million entries of one bit, in 2 ms. The W3C's shortest list has 16 KiB."""
STATUS_SIZE_BITS_MAX: Final = 8
"""Of one entry: 256 values, each with its message in the credential."""
STATUS_PURPOSES_MAX: Final = 16
"""Strings of one property of an entry or a list."""
STATUS_PURPOSE_CHARS_MAX: Final = 256
"""Of a status purpose; the standard ones have at most 10."""
URL_CHARS_MAX: Final = 8192
"""Of one URL; a status list of a long did:peer has one of 4 kB."""
SCHEMAS_MAX: Final = 4
"""`credentialSchema` of one credential; each costs an evaluation."""
SCHEMA_BYTES_MAX: Final = 32 * 1024
"""Of a schema from a stranger; the W3C's for a whole credential has 11 kB."""
SCHEMA_PARTS_MAX: Final = 1_000
"""Values in it: checking that it is a schema takes 0.2 ms each. The W3C's has 232."""
SCHEMA_WORK_MAX: Final = 20_000
"""Steps of one evaluation by a stranger's schema, so that nested references end."""
PATTERN_CHARS_MAX: Final = 256
"""Of a regular expression in a stranger's schema."""
CLAIM_WINDOW_S_MAX: Final = 366 * 86_400
"""Of the window a claim is about: who counts longer counts again."""

# JSON-LD and RDFC-1.0: one document costs less than 0.2 s, whatever is in it.
RDFC_VALUES_MAX: Final = 6000
"""JSON values of a document, its contexts included, 15 us each. A credential has 30 to 300."""
RDFC_CHARS_MAX: Final = 2 * 1024 * 1024
"""Of the N-Quads of one document; they have 5 times the length of its JSON."""
RDFC_WORK_MAX: Final = 20_000
"""Blank nodes hashed or permuted for one graph, 2 us each; the W3C's hardest takes 6,168."""
RDFC_DEPTH_MAX: Final = 200
"""Blank nodes that look alike in a chain; each takes two of Python's 1,000 stack frames."""
CONTEXT_WORK_MAX: Final = 2500
"""Terms defined or copied for one document, 15 us each; the pinned contexts take 2 to 32."""
TERM_CHARS_MAX: Final = 1024
"""Of the URL that a @context maps a term to: every use of the term repeats it."""

# Presentations and what is remembered.
CHALLENGES_MAX: Final = 10_000
"""Given out and not used; each is below 400 bytes."""
CHALLENGE_TTL_S: Final = 300
"""A holder needs seconds; a person who has to unlock a wallet, a minute."""
CHALLENGE_CHARS_MIN: Final = 16
"""Below 96 random bits somebody could guess one."""
CHALLENGE_CHARS_MAX: Final = 256
"""Also the most that a presentation's proof is compared with."""
VERIFIED_MAX: Final = 4096
"""Credentials whose proofs are remembered to have held."""
VERIFIED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of all of these together, as JSON: a proof may be nearly as long as its document."""
PRESENTATION_BYTES_MAX: Final = 1024 * 1024
"""Of one presentation: four of the largest credentials, or the most that there may be, at 30 kB."""
PRESENTATION_VALUES_MAX: Final = 12_000
"""JSON values of one presentation: 32 credentials of the largest kind that is usual."""
