"""The wallet's tables, step by step: a database made by any earlier version becomes today's.

Step n takes a database from version n to n + 1 (`PRAGMA user_version`). A step that has been
released is never changed; a new one is added behind it. Does not run them: `kwaai.store.database`
does, in one transaction.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x4B574131
"""`PRAGMA application_id`: "KWA1", so that no other database is taken for a wallet."""

_FIRST: Final = """
-- Every name that credentials are found by, once: types, issuers, subjects.
CREATE TABLE names (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;

CREATE TABLE credentials (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    credential_id TEXT,
    issuer INTEGER NOT NULL REFERENCES names,
    valid_from_s REAL,
    valid_until_s REAL,
    added_s REAL NOT NULL,
    quarantined INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX credentials_by_claimed_id ON credentials (credential_id);
CREATE INDEX credentials_by_number
    ON credentials (quarantined, number, valid_from_s, valid_until_s);

-- The bytes are apart, so that a search reads small rows only.
CREATE TABLE originals (
    credential INTEGER PRIMARY KEY REFERENCES credentials ON DELETE CASCADE,
    original BLOB NOT NULL
) STRICT;

CREATE TABLE credential_types (
    credential INTEGER NOT NULL REFERENCES credentials ON DELETE CASCADE,
    place INTEGER NOT NULL,
    type INTEGER NOT NULL REFERENCES names,
    PRIMARY KEY (credential, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE credential_subjects (
    credential INTEGER NOT NULL REFERENCES credentials ON DELETE CASCADE,
    place INTEGER NOT NULL,
    subject INTEGER NOT NULL REFERENCES names,
    PRIMARY KEY (credential, place)
) STRICT, WITHOUT ROWID;

-- One row for every type and subject of a credential: each index answers a whole search, newest
-- first, without looking anywhere else.
CREATE TABLE facets (
    credential INTEGER NOT NULL REFERENCES credentials ON DELETE CASCADE,
    type INTEGER,
    issuer INTEGER NOT NULL,
    subject INTEGER,
    valid_from_s REAL,
    valid_until_s REAL,
    quarantined INTEGER NOT NULL
) STRICT;
CREATE INDEX facets_by_credential ON facets (credential);
CREATE INDEX facets_by_type ON facets
    (type, credential, issuer, subject, valid_from_s, valid_until_s, quarantined);
CREATE INDEX facets_by_issuer ON facets
    (issuer, credential, type, subject, valid_from_s, valid_until_s, quarantined);
CREATE INDEX facets_by_subject ON facets
    (subject, credential, type, issuer, valid_from_s, valid_until_s, quarantined);

-- What others published, as it was fetched.
CREATE TABLE fetched_lists (
    url TEXT PRIMARY KEY, original BLOB NOT NULL, fetched_s REAL NOT NULL
) STRICT;
CREATE INDEX fetched_lists_by_time ON fetched_lists (fetched_s);
CREATE TABLE long_forms (short TEXT PRIMARY KEY, long TEXT NOT NULL) STRICT;

-- What this node issued.
CREATE TABLE issued (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    credential_id TEXT NOT NULL UNIQUE,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    kind TEXT NOT NULL,
    issued_s REAL NOT NULL,
    valid_until_s REAL,
    original BLOB NOT NULL
) STRICT;
CREATE INDEX issued_by_issuer ON issued (issuer, number);
CREATE INDEX issued_by_subject ON issued (subject, number);
CREATE INDEX issued_by_kind ON issued (kind, number);
CREATE TABLE issued_lists (
    number INTEGER PRIMARY KEY,
    issuer TEXT NOT NULL,
    name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    entries INTEGER NOT NULL,
    used INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0,
    signed BLOB,
    signed_version INTEGER,
    signed_s REAL,
    UNIQUE (issuer, name)
) STRICT;
CREATE INDEX issued_lists_by_purpose ON issued_lists (issuer, purpose, number);
-- An entry without a credential is one that was taken for a credential that was never finished.
-- Two credentials share an entry only where registers of two machines were joined.
CREATE TABLE issued_entries (
    list INTEGER NOT NULL REFERENCES issued_lists,
    place INTEGER NOT NULL,
    taken_s REAL NOT NULL,
    issued INTEGER REFERENCES issued,
    is_on INTEGER NOT NULL DEFAULT 0,
    changed_s REAL
) STRICT;
CREATE UNIQUE INDEX issued_entries_by_place ON issued_entries (list, place, issued);
CREATE INDEX issued_entries_by_issued ON issued_entries (issued);
CREATE INDEX issued_entries_on ON issued_entries (list, place) WHERE is_on = 1;

-- What waits for a decision.
CREATE TABLE requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    direction TEXT NOT NULL,
    peer TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    type TEXT NOT NULL,
    body BLOB NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    created_s REAL NOT NULL,
    changed_s REAL NOT NULL,
    UNIQUE (direction, peer, id)
) STRICT;
CREATE INDEX requests_by_state ON requests (state, direction, peer, number);
"""

MIGRATIONS: Final = (_FIRST,)
"""Step n at place n."""
