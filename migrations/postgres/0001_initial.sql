-- The mapping of app users to ACS identities, and everything that must survive a crash.
-- Times come from the service's clock in whole milliseconds, never from the database.

-- The oldest schema version that a binary must know to run on this database:
-- a migration raises it only when older binaries can no longer work.
CREATE TABLE schema_compatibility (
    id                    BIGINT      PRIMARY KEY CHECK (id = 1),
    oldest_known_version  BIGINT      NOT NULL
);
INSERT INTO schema_compatibility (id, oldest_known_version) VALUES (1, 1);

CREATE TABLE users (
    id                 TEXT         PRIMARY KEY,
    issuer_key         TEXT         NOT NULL,
    subject            TEXT         NOT NULL,
    resource           TEXT,
    acs_id             TEXT         UNIQUE,
    state              TEXT         NOT NULL CHECK (state IN ('creating', 'active', 'deleting', 'unbound')),
    blocked_at         TIMESTAMPTZ,
    block_reason       TEXT,
    generation         BIGINT       NOT NULL,
    logins_valid_from  TIMESTAMPTZ,
    claim_id           UUID,
    claimed_until      TIMESTAMPTZ,
    held_until         TIMESTAMPTZ,
    no_reuse_before    TIMESTAMPTZ,
    last_minted_at     TIMESTAMPTZ,
    tokens_expire_at   TIMESTAMPTZ,
    created_at         TIMESTAMPTZ  NOT NULL,
    updated_at         TIMESTAMPTZ  NOT NULL,
    UNIQUE (issuer_key, subject),
    CHECK ((state = 'creating') = (claim_id IS NOT NULL)),
    CHECK ((state IN ('active', 'deleting')) = (acs_id IS NOT NULL))
);

CREATE INDEX users_to_forget ON users (updated_at) WHERE state = 'unbound';

CREATE TABLE issued_tokens (
    user_id      TEXT         NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    scopes       TEXT         NOT NULL,
    generation   BIGINT       NOT NULL,
    acs_key      TEXT         NOT NULL,
    sealed       BYTEA        NOT NULL,
    fingerprint  TEXT         NOT NULL,
    issued_at    TIMESTAMPTZ  NOT NULL,
    expires_at   TIMESTAMPTZ  NOT NULL,
    PRIMARY KEY (user_id, scopes)
);

-- Work at ACS that was accepted and must happen even if every process dies.
-- Rows outlive their user, so user_id is no foreign key.
CREATE TABLE operations (
    id               UUID         PRIMARY KEY,
    kind             TEXT         NOT NULL CHECK (kind IN ('revoke', 'delete', 'discard')),
    user_id          TEXT         NOT NULL,
    acs_id           TEXT         NOT NULL,
    resource         TEXT         NOT NULL,
    batch            UUID,
    actor_kind       TEXT         NOT NULL,
    actor            TEXT         NOT NULL,
    reason           TEXT,
    request_id       TEXT,
    not_before       TIMESTAMPTZ  NOT NULL,
    next_attempt_at  TIMESTAMPTZ  NOT NULL,
    attempts         BIGINT       NOT NULL,
    unanswered       BIGINT       NOT NULL,
    last_attempt_at  TIMESTAMPTZ,
    claimed_by       UUID,
    claimed_until    TIMESTAMPTZ,
    last_error       TEXT,
    created_at       TIMESTAMPTZ  NOT NULL,
    completed_at     TIMESTAMPTZ
);
CREATE INDEX operations_due ON operations (next_attempt_at) WHERE completed_at IS NULL;
CREATE INDEX operations_open_of_user ON operations (user_id) WHERE completed_at IS NULL;
CREATE INDEX operations_of_user ON operations (user_id, id);
CREATE INDEX operations_of_identity ON operations (acs_id);

CREATE TABLE batches (
    id          UUID         PRIMARY KEY,
    actor_kind  TEXT         NOT NULL,
    actor       TEXT         NOT NULL,
    reason      TEXT,
    total       BIGINT       NOT NULL,
    created_at  TIMESTAMPTZ  NOT NULL
);

CREATE TABLE idempotency_keys (
    actor       TEXT         NOT NULL,
    route       TEXT         NOT NULL,
    key         TEXT         NOT NULL,
    body_hash   TEXT         NOT NULL,
    status      BIGINT,
    answer      TEXT,
    begun_at    TIMESTAMPTZ  NOT NULL,
    expires_at  TIMESTAMPTZ  NOT NULL,
    PRIMARY KEY (actor, route, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Times of the rate calculation are milliseconds since 1970, because they are reckoned with in SQL.
CREATE TABLE budget (
    resource        TEXT    NOT NULL,
    operation       TEXT    NOT NULL,
    arrival_ms      BIGINT  NOT NULL,
    paused_until_ms BIGINT  NOT NULL,
    PRIMARY KEY (resource, operation)
);

CREATE TABLE resources (
    name        TEXT         PRIMARY KEY,
    guid        TEXT         NOT NULL,
    created_at  TIMESTAMPTZ  NOT NULL
);

-- Append only. Rows outlive their user, so user_id is no foreign key.
CREATE TABLE audit_events (
    id                 UUID         PRIMARY KEY,
    at                 TIMESTAMPTZ  NOT NULL,
    action             TEXT         NOT NULL,
    actor_kind         TEXT         NOT NULL,
    actor              TEXT         NOT NULL,
    user_id            TEXT         NOT NULL,
    acs_id             TEXT,
    request_id         TEXT,
    client             TEXT,
    operation_id       UUID,
    token_fingerprint  TEXT,
    token_scopes       TEXT,
    token_expires_at   TIMESTAMPTZ,
    generation         BIGINT,
    detail             JSONB
);
CREATE INDEX audit_events_of_user ON audit_events (user_id, id);
CREATE INDEX audit_events_at ON audit_events (at);
