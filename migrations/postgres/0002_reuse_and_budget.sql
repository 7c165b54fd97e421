-- Tokens that are kept for reuse, sealed: in their user's row, so that one read finds both and one write drops both.
-- kept_until is the day, counted from 1970, when they are all over; it changes once a day at most, so that a mint need
-- not touch an index. The table before them was never used.
DROP TABLE issued_tokens;
ALTER TABLE users ADD COLUMN kept_tokens BYTEA;
ALTER TABLE users ADD COLUMN kept_until BIGINT;
CREATE INDEX users_to_forget_tokens ON users (kept_until) WHERE kept_until IS NOT NULL;

-- What was spent of ACS's limits: cells of half a second, and how many calls were made in each.
-- The table before it was never used. Nothing here needs to survive a crash of the database.
DROP TABLE budget;
CREATE UNLOGGED TABLE budget (
    resource         TEXT     NOT NULL,
    call             TEXT     NOT NULL,
    version          UUID     NOT NULL,
    spent            JSONB    NOT NULL,
    paused_until_ms  BIGINT   NOT NULL,
    PRIMARY KEY (resource, call)
);
