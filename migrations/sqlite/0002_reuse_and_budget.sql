-- Tokens that are kept for reuse are forgotten when they are over.
CREATE INDEX issued_tokens_expiry ON issued_tokens (expires_at);

-- What was spent of ACS's limits: cells of half a second, and how many calls were made in each.
-- The table before it was never used. Nothing here needs to survive a crash of the database.
DROP TABLE budget;
CREATE TABLE budget (
    resource         TEXT     NOT NULL,
    call             TEXT     NOT NULL,
    version          BLOB     NOT NULL,
    spent            TEXT     NOT NULL,
    paused_until_ms  INTEGER  NOT NULL,
    PRIMARY KEY (resource, call)
);
