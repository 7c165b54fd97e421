-- The mapping of app users to ACS identities, and everything that must survive a crash.
-- Times come from the service's clock in whole milliseconds, never from the database.

-- The oldest schema version that a binary must know to run on this database:
-- a migration raises it only when older binaries can no longer work.
CREATE TABLE schema_compatibility (
    id                    BIGINT  PRIMARY KEY CHECK (id = 1),
    oldest_known_version  BIGINT  NOT NULL
);
INSERT INTO schema_compatibility (id, oldest_known_version) VALUES (1, 1);

-- Revocations of all users. The global epoch counts as part of every user's generation. A user whose own epoch is older
-- has not had the latest global revocation applied yet.
CREATE TABLE global_state (
    id                   BIGINT       PRIMARY KEY CHECK (id = 1),
    epoch                BIGINT       NOT NULL,
    sign_ins_valid_from  TIMESTAMPTZ
);
INSERT INTO global_state (id, epoch) VALUES (1, 0);

-- cached_tokens are encrypted. They stand in their user's row, so that one read finds both and one write drops both.
-- cached_until_day is the day, counted from 1970, on which the last of them expires. It changes once a day at most, so that
-- a mint seldom touches its index.
CREATE TABLE users (
    id                   TEXT         PRIMARY KEY,
    issuer_key           TEXT         NOT NULL,
    subject              TEXT         NOT NULL,
    resource             TEXT,
    acs_id               TEXT         UNIQUE,
    state                TEXT         NOT NULL CHECK (state IN ('creating', 'active', 'deleting', 'unbound')),
    blocked_at           TIMESTAMPTZ,
    block_reason         TEXT,
    generation           BIGINT       NOT NULL,
    epoch                BIGINT       NOT NULL,
    sign_ins_valid_from  TIMESTAMPTZ,
    claim_id             UUID,
    claimed_until        TIMESTAMPTZ,
    held_until           TIMESTAMPTZ,
    no_reuse_before      TIMESTAMPTZ,
    last_minted_at       TIMESTAMPTZ,
    tokens_expire_at     TIMESTAMPTZ,
    cached_tokens        BYTEA,
    cached_until_day     BIGINT,
    created_at           TIMESTAMPTZ  NOT NULL,
    updated_at           TIMESTAMPTZ  NOT NULL,
    UNIQUE (issuer_key, subject),
    CHECK ((state = 'creating') = (claim_id IS NOT NULL)),
    CHECK ((state IN ('active', 'deleting')) = (acs_id IS NOT NULL))
);
CREATE INDEX users_to_purge ON users (updated_at) WHERE state = 'unbound';
CREATE INDEX users_with_expired_tokens ON users (cached_until_day) WHERE cached_until_day IS NOT NULL;

-- A transactional outbox: calls to ACS that were accepted and must happen even if every process dies.
-- Rows outlive their user, so user_id is not a foreign key.
CREATE TABLE operations (
    id               UUID         PRIMARY KEY,
    kind             TEXT         NOT NULL CHECK (kind IN ('revoke', 'delete', 'discard')),
    user_id          TEXT         NOT NULL,
    acs_id           TEXT         NOT NULL,
    resource         TEXT         NOT NULL,
    revocation       UUID,
    actor_kind       TEXT         NOT NULL,
    actor            TEXT         NOT NULL,
    reason           TEXT,
    request_id       TEXT,
    not_before       TIMESTAMPTZ  NOT NULL,
    next_attempt_at  TIMESTAMPTZ  NOT NULL,
    attempts         BIGINT       NOT NULL,
    unanswered       BIGINT       NOT NULL,
    last_attempt_at  TIMESTAMPTZ,
    leased_by        UUID,
    leased_until     TIMESTAMPTZ,
    last_error       TEXT,
    created_at       TIMESTAMPTZ  NOT NULL,
    completed_at     TIMESTAMPTZ
);
CREATE INDEX operations_due ON operations (next_attempt_at) WHERE completed_at IS NULL;
CREATE INDEX operations_pending_of_user ON operations (user_id) WHERE completed_at IS NULL;
CREATE INDEX operations_of_user ON operations (user_id, id);
CREATE INDEX operations_of_identity ON operations (acs_id);
CREATE INDEX operations_of_revocation ON operations (revocation) WHERE revocation IS NOT NULL;

CREATE TABLE revocations (
    id             UUID         PRIMARY KEY,
    actor_kind     TEXT         NOT NULL,
    actor          TEXT         NOT NULL,
    reason         TEXT,
    request_id     TEXT,
    epoch          BIGINT,
    total          BIGINT       NOT NULL,
    swept_to       TEXT         NOT NULL,
    swept_at       TIMESTAMPTZ,
    claimed_until  TIMESTAMPTZ,
    created_at     TIMESTAMPTZ  NOT NULL,
    completed_at   TIMESTAMPTZ
);
CREATE UNIQUE INDEX revocations_epoch ON revocations (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX revocations_pending ON revocations (id) WHERE completed_at IS NULL;

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

-- The calls to ACS that were reserved in each of the last cells of 250 ms, the newest last. Unlogged, because it need not
-- survive a crash.
CREATE UNLOGGED TABLE quota (
    resource         TEXT      NOT NULL,
    call             TEXT      NOT NULL,
    newest_cell      BIGINT    NOT NULL,
    calls            BIGINT[]  NOT NULL,
    paused_until_ms  BIGINT    NOT NULL,
    PRIMARY KEY (resource, call)
);

-- Reserves as many of the wanted calls as the limit leaves, and returns how many and the window as it is now. The row's
-- lock puts those who reserve one after the other. The same is in `src/domain/window.rs`, where it is explained.
CREATE FUNCTION reserve_quota(
    for_resource TEXT, for_call TEXT, now_ms BIGINT, allowed BIGINT, counted BIGINT, wanted BIGINT,
    OUT granted BIGINT, OUT is_ahead BOOLEAN, OUT newest BIGINT, OUT counts BIGINT[], OUT paused_until BIGINT
) LANGUAGE plpgsql AS $$
DECLARE
    stored quota;
    present BIGINT := now_ms / 250;
BEGIN
    INSERT INTO quota (resource, call, newest_cell, calls, paused_until_ms)
    VALUES (for_resource, for_call, present, '{0}', 0)
    ON CONFLICT (resource, call) DO NOTHING;
    SELECT * INTO stored FROM quota WHERE resource = for_resource AND call = for_call FOR UPDATE;

    is_ahead := stored.newest_cell > present + 4 OR stored.paused_until_ms > now_ms + 300000;
    paused_until := LEAST(stored.paused_until_ms, now_ms + 300000);
    newest := CASE WHEN stored.newest_cell > present + 4 THEN present ELSE GREATEST(stored.newest_cell, present) END;
    counts := stored.calls || array_fill(0::BIGINT, ARRAY[LEAST(GREATEST(newest - stored.newest_cell, 0), counted)::INT]);
    counts := counts[GREATEST(cardinality(counts) - counted + 1, 1)::INT :];

    granted := 0;
    IF now_ms >= paused_until THEN
        granted := GREATEST(LEAST(wanted, allowed - (SELECT SUM(n)::BIGINT FROM unnest(counts) AS n)), 0);
    END IF;
    counts[cardinality(counts)] := counts[cardinality(counts)] + granted;
    IF granted > 0 OR is_ahead THEN
        UPDATE quota SET newest_cell = newest, calls = counts, paused_until_ms = paused_until
        WHERE resource = for_resource AND call = for_call;
    END IF;
END
$$;

-- The ACS resources that identities were created in, by the host of their endpoint.
CREATE TABLE resources (
    name        TEXT         PRIMARY KEY,
    guid        TEXT         NOT NULL,
    created_at  TIMESTAMPTZ  NOT NULL
);

-- Append only. Rows outlive their user, so user_id is not a foreign key. It is null where all users are concerned.
CREATE TABLE audit_events (
    id                 UUID         PRIMARY KEY,
    at                 TIMESTAMPTZ  NOT NULL,
    action             TEXT         NOT NULL,
    actor_kind         TEXT         NOT NULL,
    actor              TEXT         NOT NULL,
    user_id            TEXT,
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

-- Revokes all users: one call that the server ends by itself, whatever becomes of the client. Mints and binds hold a share of
-- the row of global_state while their statement runs. The lock on the table waits for them and cannot be overtaken, which a
-- lock on the row could be.
CREATE FUNCTION revoke_all(since TIMESTAMPTZ, revocation JSONB, event JSONB) RETURNS BIGINT
    LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    new_epoch BIGINT;
BEGIN
    LOCK TABLE global_state IN EXCLUSIVE MODE;
    UPDATE global_state SET epoch = epoch + 1, sign_ins_valid_from = GREATEST(sign_ins_valid_from, since)
        WHERE id = 1 RETURNING epoch INTO new_epoch;
    INSERT INTO revocations
        SELECT * FROM jsonb_populate_record(NULL::revocations, revocation || jsonb_build_object('epoch', new_epoch));
    INSERT INTO audit_events SELECT * FROM jsonb_populate_record(NULL::audit_events, event);
    RETURN new_epoch;
END $$;
