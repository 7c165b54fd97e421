-- Revocations of many users. Everyone is stopped by one row: its epoch counts as part of every user's generation, and a user
-- whose own epoch is older has not been dealt with yet. A binary that does not ask for it would hand out what was revoked.
CREATE TABLE everyone (
    id                 INTEGER      PRIMARY KEY CHECK (id = 1),
    epoch              INTEGER      NOT NULL,
    logins_valid_from  TEXT
);
INSERT INTO everyone (id, epoch) VALUES (1, 0);
ALTER TABLE users ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- The table before it was never used.
DROP TABLE batches;
CREATE TABLE revocations (
    id             BLOB         PRIMARY KEY,
    actor_kind     TEXT         NOT NULL,
    actor          TEXT         NOT NULL,
    reason         TEXT,
    request_id     TEXT,
    epoch          INTEGER,
    total          INTEGER      NOT NULL,
    swept_to       TEXT         NOT NULL,
    swept_at       TEXT,
    claimed_until  TEXT,
    created_at     TEXT         NOT NULL,
    completed_at   TEXT
);
CREATE UNIQUE INDEX revocations_epoch ON revocations (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX revocations_open ON revocations (id) WHERE completed_at IS NULL;
CREATE INDEX operations_of_batch ON operations (batch) WHERE batch IS NOT NULL;

UPDATE schema_compatibility SET oldest_known_version = 3;
