-- Refunds and chargebacks of top-ups, and payments that were reported and not credited.
--
-- credited_at stays NULL on the orders that are credited already: the last change of such an order is
-- its credit.
ALTER TABLE recharge_order ADD COLUMN refunded_amount INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recharge_order ADD COLUMN refunding_amount INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recharge_order ADD COLUMN credited_at INTEGER NULL;

-- The id is unique among all orders, because payment-service finds a refund by it alone.
CREATE TABLE recharge_refund (
    refund_id     TEXT    NOT NULL PRIMARY KEY,
    order_id      TEXT    NOT NULL,
    user_id       TEXT    NOT NULL,
    kind          TEXT    NOT NULL, -- requested, reported, chargeback
    status        TEXT    NOT NULL, -- pending (held), success (debited), failed
    amount        INTEGER NOT NULL,
    asked_amount  INTEGER NULL,     -- as requested; NULL: all that was left
    is_forced     INTEGER NOT NULL DEFAULT 0,
    reason        TEXT    NOT NULL DEFAULT '',
    request_id    TEXT    NOT NULL,
    balance_after INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    settled_at    INTEGER NULL      -- of the debit
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_refund_user_settled ON recharge_refund (user_id, settled_at);
CREATE INDEX idx_refund_order ON recharge_refund (order_id);
CREATE INDEX idx_refund_status_created ON recharge_refund (status, created_at, refund_id);

CREATE TABLE unapplied_payment (
    payment_order_id TEXT    NOT NULL PRIMARY KEY,
    order_id         TEXT    NOT NULL, -- as last reported while open
    amount           INTEGER NOT NULL,
    currency         TEXT    NOT NULL,
    cause            TEXT    NOT NULL,
    times_seen       INTEGER NOT NULL DEFAULT 1,
    first_seen_at    INTEGER NOT NULL,
    last_seen_at     INTEGER NOT NULL,
    status           TEXT    NOT NULL DEFAULT 'open', -- open, applied, credited, refunding, refunded, dismissed, conflict
    user_id          TEXT    NULL,     -- to whom it was credited
    reason           TEXT    NOT NULL DEFAULT '', -- of the operator
    refunds          INTEGER NOT NULL DEFAULT 0,  -- attempts to refund it
    resolved_at      INTEGER NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_unapplied_status_seen ON unapplied_payment (status, first_seen_at, payment_order_id);
CREATE INDEX idx_unapplied_seen ON unapplied_payment (first_seen_at, payment_order_id);
