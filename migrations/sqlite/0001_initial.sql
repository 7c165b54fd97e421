-- The mapping of app users to ACS identities, and everything that must survive a crash.
-- Times come from the service's clock in whole milliseconds, never from the database.

-- The oldest schema version that a binary must know to run on this database:
-- a migration raises it only when older binaries can no longer work.
CREATE TABLE schema_compatibility (
    id                    INTEGER     PRIMARY KEY CHECK (id = 1),
    oldest_known_version  INTEGER     NOT NULL
);
INSERT INTO schema_compatibility (id, oldest_known_version) VALUES (1, 1);

CREATE TABLE users (
    id                 TEXT         PRIMARY KEY,
    issuer_key         TEXT         NOT NULL,
    subject            TEXT         NOT NULL,
    resource           TEXT,
    acs_id             TEXT         UNIQUE,
    state              TEXT         NOT NULL CHECK (state IN ('creating', 'active', 'deleting', 'unbound')),
    blocked_at         TEXT,
    block_reason       TEXT,
    generation         INTEGER      NOT NULL,
    logins_valid_from  TEXT,
    claim_id           BLOB,
    claimed_until      TEXT,
    held_until         TEXT,
    no_reuse_before    TEXT,
    last_minted_at     TEXT,
    tokens_expire_at   TEXT,
    created_at         TEXT         NOT NULL,
    updated_at         TEXT         NOT NULL,
    UNIQUE (issuer_key, subject),
    CHECK ((state = 'creating') = (claim_id IS NOT NULL)),
    CHECK ((state IN ('active', 'deleting')) = (acs_id IS NOT NULL))
);

CREATE INDEX users_to_forget ON users (updated_at) WHERE state = 'unbound';

CREATE TABLE issued_tokens (
    user_id      TEXT         NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    scopes       TEXT         NOT NULL,
    generation   INTEGER      NOT NULL,
    acs_key      TEXT         NOT NULL,
    sealed       BLOB         NOT NULL,
    fingerprint  TEXT         NOT NULL,
    issued_at    TEXT         NOT NULL,
    expires_at   TEXT         NOT NULL,
    PRIMARY KEY (user_id, scopes)
);

-- Work at ACS that was accepted and must happen even if every process dies.
-- Rows outlive their user, so user_id is no foreign key.
CREATE TABLE operations (
    id               BLOB         PRIMARY KEY,
    kind             TEXT         NOT NULL CHECK (kind IN ('revoke', 'delete', 'discard')),
    user_id          TEXT         NOT NULL,
    acs_id           TEXT         NOT NULL,
    resource         TEXT         NOT NULL,
    batch            BLOB,
    actor_kind       TEXT         NOT NULL,
    actor            TEXT         NOT NULL,
    reason           TEXT,
    request_id       TEXT,
    not_before       TEXT         NOT NULL,
    next_attempt_at  TEXT         NOT NULL,
    attempts         INTEGER      NOT NULL,
    unanswered       INTEGER      NOT NULL,
    last_attempt_at  TEXT,
    claimed_by       BLOB,
    claimed_until    TEXT,
    last_error       TEXT,
    created_at       TEXT         NOT NULL,
    completed_at     TEXT       
);
CREATE INDEX operations_due ON operations (next_attempt_at) WHERE completed_at IS NULL;
CREATE INDEX operations_open_of_user ON operations (user_id) WHERE completed_at IS NULL;
CREATE INDEX operations_of_user ON operations (user_id, id);
CREATE INDEX operations_of_identity ON operations (acs_id);

CREATE TABLE batches (
    id          BLOB         PRIMARY KEY,
    actor_kind  TEXT         NOT NULL,
    actor       TEXT         NOT NULL,
    reason      TEXT,
    total       INTEGER      NOT NULL,
    created_at  TEXT         NOT NULL
);

CREATE TABLE idempotency_keys (
    actor       TEXT         NOT NULL,
    route       TEXT         NOT NULL,
    key         TEXT         NOT NULL,
    body_hash   TEXT         NOT NULL,
    status      INTEGER,
    answer      TEXT,
    begun_at    TEXT         NOT NULL,
    expires_at  TEXT         NOT NULL,
    PRIMARY KEY (actor, route, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Times of the rate calculation are milliseconds since 1970, because they are reckoned with in SQL.
CREATE TABLE budget (
    resource        TEXT    NOT NULL,
    operation       TEXT    NOT NULL,
    arrival_ms      INTEGER NOT NULL,
    paused_until_ms INTEGER NOT NULL,
    PRIMARY KEY (resource, operation)
);

CREATE TABLE resources (
    name        TEXT         PRIMARY KEY,
    guid        TEXT         NOT NULL,
    created_at  TEXT         NOT NULL
);

-- Append only. Rows outlive their user, so user_id is no foreign key.
CREATE TABLE audit_events (
    id                 BLOB         PRIMARY KEY,
    at                 TEXT         NOT NULL,
    action             TEXT         NOT NULL,
    actor_kind         TEXT         NOT NULL,
    actor              TEXT         NOT NULL,
    user_id            TEXT         NOT NULL,
    acs_id             TEXT,
    request_id         TEXT,
    client             TEXT,
    operation_id       BLOB,
    token_fingerprint  TEXT,
    token_scopes       TEXT,
    token_expires_at   TEXT,
    generation         INTEGER,
    detail             TEXT
);
CREATE INDEX audit_events_of_user ON audit_events (user_id, id);
CREATE INDEX audit_events_at ON audit_events (at);
