-- Webhooks. Only the process with the lease deliver-webhooks changes position, attempts, failures and failing_since,
-- and the tables webhook_retry and webhook_attempt, but for a restart by an operator. secrets is a list in JSON of
-- secrets that are sealed by billing.webhooks.key.
--
-- webhook_retry has the users whose next event was not accepted by a webhook, or who have many events. webhook_attempt keeps the last attempts of
-- each webhook, 100 that were accepted and 100 that failed; a later one takes the slot of an earlier one.
-- webhook_resend has deliveries beside the feed, which operators asked for.
CREATE TABLE IF NOT EXISTS webhook (
    webhook_id    TEXT    PRIMARY KEY,
    url           TEXT    NOT NULL,
    types         TEXT    NOT NULL, -- with commas; empty: all
    is_active     INTEGER NOT NULL,
    secrets       TEXT    NOT NULL, -- JSON; sealed
    position      INTEGER NOT NULL, -- all events up to it are delivered or in retries
    attempts      INTEGER NOT NULL DEFAULT 0,
    accepted      INTEGER NOT NULL DEFAULT 0, -- of the attempts
    failures      INTEGER NOT NULL DEFAULT 0, -- in a row
    failing_since INTEGER NULL,
    failed_at     INTEGER NULL,
    reason        TEXT    NULL, -- of the failure
    restarts      INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS webhook_retry (
    webhook_id    TEXT    NOT NULL,
    user_id       TEXT    NOT NULL, -- empty: events of no user
    next_position INTEGER NOT NULL, -- the first event that is not delivered is here or behind it
    attempts      INTEGER NOT NULL, -- of that event
    first_at      INTEGER NULL,
    next_at       INTEGER NOT NULL,
    failed_at     INTEGER NULL, -- given up; not tried until a restart
    PRIMARY KEY (webhook_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS webhook_attempt (
    webhook_id  TEXT    NOT NULL,
    is_accepted INTEGER NOT NULL,
    slot        INTEGER NOT NULL,
    number      INTEGER NOT NULL, -- among the attempts of the webhook
    event_id    TEXT    NOT NULL,
    type        TEXT    NOT NULL,
    user_id     TEXT    NULL,
    began_at    INTEGER NOT NULL,
    took_ms     INTEGER NOT NULL,
    status      INTEGER NULL, -- of HTTP
    failure     TEXT    NULL,
    next_at     INTEGER NULL,
    PRIMARY KEY (webhook_id, is_accepted, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS webhook_resend (
    webhook_id  TEXT    NOT NULL,
    resend_id   TEXT    NOT NULL, -- UUID, ordered by time
    event_id    TEXT    NOT NULL,
    type        TEXT    NOT NULL,
    data        TEXT    NOT NULL, -- a JSON object
    created_at  INTEGER NOT NULL, -- of the event
    traceparent TEXT    NULL,
    tracestate  TEXT    NULL,
    PRIMARY KEY (webhook_id, resend_id)
) STRICT, WITHOUT ROWID;
