-- The mapping of app users to ACS identities, and everything that must survive a crash.
-- Times come from the service's clock in whole milliseconds, never from the database.

-- The oldest schema version that a binary must know to run on this database:
-- a migration raises it only when older binaries can no longer work.
CREATE TABLE schema_compatibility (
    id                    INTEGER  PRIMARY KEY CHECK (id = 1),
    oldest_known_version  INTEGER  NOT NULL
);
INSERT INTO schema_compatibility (id, oldest_known_version) VALUES (1, 1);

-- Revocations of all users. The global epoch counts as part of every user's generation. A user whose own epoch is older
-- has not had the latest global revocation applied yet.
CREATE TABLE global_state (
    id                   INTEGER  PRIMARY KEY CHECK (id = 1),
    epoch                INTEGER  NOT NULL,
    sign_ins_valid_from  TEXT
);
INSERT INTO global_state (id, epoch) VALUES (1, 0);

-- cached_tokens are encrypted. They stand in their user's row, so that one read finds both and one write drops both.
-- cached_until_day is the day, counted from 1970, on which the last of them expires. It changes once a day at most, so that
-- a mint seldom touches its index.
CREATE TABLE users (
    id                   TEXT     PRIMARY KEY,
    issuer_key           TEXT     NOT NULL,
    subject              TEXT     NOT NULL,
    resource             TEXT,
    acs_id               TEXT     UNIQUE,
    state                TEXT     NOT NULL CHECK (state IN ('creating', 'active', 'deleting', 'unbound')),
    blocked_at           TEXT,
    block_reason         TEXT,
    generation           INTEGER  NOT NULL,
    epoch                INTEGER  NOT NULL,
    sign_ins_valid_from  TEXT,
    claim_id             BLOB,
    claimed_until        TEXT,
    held_until           TEXT,
    no_reuse_before      TEXT,
    last_minted_at       TEXT,
    tokens_expire_at     TEXT,
    cached_tokens        BLOB,
    cached_until_day     INTEGER,
    created_at           TEXT     NOT NULL,
    updated_at           TEXT     NOT NULL,
    UNIQUE (issuer_key, subject),
    CHECK ((state = 'creating') = (claim_id IS NOT NULL)),
    CHECK ((state IN ('active', 'deleting')) = (acs_id IS NOT NULL))
);
CREATE INDEX users_to_purge ON users (updated_at) WHERE state = 'unbound';
CREATE INDEX users_with_expired_tokens ON users (cached_until_day) WHERE cached_until_day IS NOT NULL;

-- A transactional outbox: calls to ACS that were accepted and must happen even if every process dies.
-- Rows outlive their user, so user_id is not a foreign key.
CREATE TABLE operations (
    id               BLOB     PRIMARY KEY,
    kind             TEXT     NOT NULL CHECK (kind IN ('revoke', 'delete', 'discard')),
    user_id          TEXT     NOT NULL,
    acs_id           TEXT     NOT NULL,
    resource         TEXT     NOT NULL,
    revocation       BLOB,
    actor_kind       TEXT     NOT NULL,
    actor            TEXT     NOT NULL,
    reason           TEXT,
    request_id       TEXT,
    not_before       TEXT     NOT NULL,
    next_attempt_at  TEXT     NOT NULL,
    attempts         INTEGER  NOT NULL,
    unanswered       INTEGER  NOT NULL,
    last_attempt_at  TEXT,
    leased_by        BLOB,
    leased_until     TEXT,
    last_error       TEXT,
    created_at       TEXT     NOT NULL,
    completed_at     TEXT
);
CREATE INDEX operations_due ON operations (next_attempt_at) WHERE completed_at IS NULL;
CREATE INDEX operations_pending_of_user ON operations (user_id) WHERE completed_at IS NULL;
CREATE INDEX operations_of_user ON operations (user_id, id);
CREATE INDEX operations_of_identity ON operations (acs_id);
CREATE INDEX operations_of_revocation ON operations (revocation) WHERE revocation IS NOT NULL;

CREATE TABLE revocations (
    id             BLOB     PRIMARY KEY,
    actor_kind     TEXT     NOT NULL,
    actor          TEXT     NOT NULL,
    reason         TEXT,
    request_id     TEXT,
    epoch          INTEGER,
    total          INTEGER  NOT NULL,
    swept_to       TEXT     NOT NULL,
    swept_at       TEXT,
    claimed_until  TEXT,
    created_at     TEXT     NOT NULL,
    completed_at   TEXT
);
CREATE UNIQUE INDEX revocations_epoch ON revocations (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX revocations_pending ON revocations (id) WHERE completed_at IS NULL;

CREATE TABLE idempotency_keys (
    actor       TEXT     NOT NULL,
    route       TEXT     NOT NULL,
    key         TEXT     NOT NULL,
    body_hash   TEXT     NOT NULL,
    status      INTEGER,
    answer      TEXT,
    begun_at    TEXT     NOT NULL,
    expires_at  TEXT     NOT NULL,
    PRIMARY KEY (actor, route, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- The calls to ACS that were reserved in each of the last cells of 250 ms, the newest last. It need not survive a crash.
CREATE TABLE quota (
    resource         TEXT     NOT NULL,
    call             TEXT     NOT NULL,
    newest_cell      INTEGER  NOT NULL,
    calls            TEXT     NOT NULL,
    paused_until_ms  INTEGER  NOT NULL,
    PRIMARY KEY (resource, call)
);

-- The ACS resources that identities were created in, by the host of their endpoint.
CREATE TABLE resources (
    name        TEXT  PRIMARY KEY,
    guid        TEXT  NOT NULL,
    created_at  TEXT  NOT NULL
);

-- Append only. Rows outlive their user, so user_id is not a foreign key. It is null where all users are concerned.
CREATE TABLE audit_events (
    id                 BLOB     PRIMARY KEY,
    at                 TEXT     NOT NULL,
    action             TEXT     NOT NULL,
    actor_kind         TEXT     NOT NULL,
    actor              TEXT     NOT NULL,
    user_id            TEXT,
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
