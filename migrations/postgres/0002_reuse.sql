-- Tokens that are kept for reuse are forgotten when they are over.
CREATE INDEX issued_tokens_expiry ON issued_tokens (expires_at);
