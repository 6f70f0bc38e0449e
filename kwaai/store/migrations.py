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

_EVIDENCE: Final = """
-- What this node saw of peers. `newest` is the number of a peer's last observation: its turn.
CREATE TABLE evidence_peers (
    number INTEGER PRIMARY KEY,
    principal TEXT NOT NULL UNIQUE,
    first_s REAL NOT NULL,
    last_s REAL NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0,
    went_well INTEGER NOT NULL DEFAULT 0,
    kept INTEGER NOT NULL DEFAULT 0,
    newest INTEGER NOT NULL DEFAULT 0,
    is_known INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX evidence_peers_by_turn ON evidence_peers (is_known, newest);
CREATE INDEX evidence_peers_by_kept ON evidence_peers (kept);
CREATE TABLE observations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    peer INTEGER NOT NULL REFERENCES evidence_peers ON DELETE CASCADE,
    at_s REAL NOT NULL,
    outcome TEXT NOT NULL,
    latency_s REAL,
    expected_s REAL,
    tokens_s REAL,
    claimed_tokens_s REAL,
    tokens INTEGER NOT NULL,
    code TEXT NOT NULL
) STRICT;
CREATE INDEX observations_by_peer ON observations (peer, number);
CREATE INDEX observations_by_time ON observations (at_s);

-- What peers presented about themselves, as it came.
CREATE TABLE presented (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    principal TEXT NOT NULL,
    id TEXT NOT NULL,
    fetched_s REAL NOT NULL,
    bytes INTEGER NOT NULL,
    original BLOB NOT NULL,
    UNIQUE (principal, id)
) STRICT;
CREATE INDEX presented_by_peer ON presented (principal, fetched_s, number, bytes);

-- One row: what is kept in all, and how often an observation went.
CREATE TABLE evidence_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    observations INTEGER NOT NULL,
    removals INTEGER NOT NULL,
    presented_bytes INTEGER NOT NULL
) STRICT;
INSERT INTO evidence_state VALUES (1, 0, 0, 0);
CREATE TRIGGER observation_came AFTER INSERT ON observations BEGIN
    UPDATE evidence_peers SET kept = kept + 1, newest = max(newest, NEW.number)
        WHERE number = NEW.peer;
    UPDATE evidence_state SET observations = observations + 1;
END;
CREATE TRIGGER observation_went AFTER DELETE ON observations BEGIN
    UPDATE evidence_peers SET kept = kept - 1 WHERE number = OLD.peer;
    UPDATE evidence_state SET observations = observations - 1, removals = removals + 1;
END;
CREATE TRIGGER presented_came AFTER INSERT ON presented BEGIN
    UPDATE evidence_state SET presented_bytes = presented_bytes + NEW.bytes;
END;
CREATE TRIGGER presented_went AFTER DELETE ON presented BEGIN
    UPDATE evidence_state SET presented_bytes = presented_bytes - OLD.bytes;
END;
"""

_RECEIPTS: Final = """
-- What this node and a peer signed of one answer. `role`: what this node was.
CREATE TABLE receipts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    role TEXT NOT NULL,
    peer TEXT NOT NULL,
    session BLOB NOT NULL,
    nonce TEXT NOT NULL,
    model TEXT NOT NULL,
    block_start INTEGER NOT NULL,
    block_stop INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    answer_tokens INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    started_s REAL NOT NULL,
    finished_s REAL NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    own BLOB NOT NULL,
    counterpart BLOB,
    UNIQUE (role, peer, session)
) STRICT;
CREATE INDEX receipts_by_peer ON receipts (role, peer, number, state, outcome, finished_s);
CREATE INDEX receipts_by_end ON receipts (finished_s);
CREATE INDEX receipts_by_state ON receipts (role, state, number);
"""

MIGRATIONS: Final = (_FIRST, _EVIDENCE, _RECEIPTS)
"""Step n at place n."""
