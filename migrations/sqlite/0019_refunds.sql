-- Refunds of charges. A charge has the sum of its refunds, and charge_refund has each of them under
-- the id that makes it idempotent. Their records have the types 3 (free quota given back) and 4
-- (balance given back), and count to the day of the refund. All columns of the rollup that a charge
-- writes stay gross. The new columns are NULL without refunds.
--
-- late_of of a record is the closed month that it would have counted to. late_date of a reservation is
-- the day that its commit counts to, if the month of the reserve had closed.
ALTER TABLE billing_transaction ADD COLUMN refunded_free INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN refunded_paid INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN refunded_amount INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN late_date TEXT NULL;
ALTER TABLE billing_record ADD COLUMN late_of TEXT NULL;
ALTER TABLE billing_record_archive ADD COLUMN late_of TEXT NULL;
ALTER TABLE usage_daily ADD COLUMN refunded_free INTEGER NULL;
ALTER TABLE usage_daily ADD COLUMN refunded_paid INTEGER NULL;
ALTER TABLE usage_daily ADD COLUMN refunded_amount INTEGER NULL;
ALTER TABLE usage_daily ADD COLUMN free_refunds INTEGER NULL; -- records
ALTER TABLE usage_daily ADD COLUMN paid_refunds INTEGER NULL;
CREATE TABLE charge_refund (
    user_id         TEXT    NOT NULL,
    refund_id       TEXT    NOT NULL,
    trace_id        TEXT    NOT NULL, -- of the charge
    count           INTEGER NULL,     -- as requested; NULL: all units that were left
    reason          TEXT    NOT NULL,
    request_id      TEXT    NOT NULL,
    free_count      INTEGER NOT NULL, -- given back to the quota
    lapsed_count    INTEGER NOT NULL, -- free units whose month was over
    paid_count      INTEGER NOT NULL,
    amount          INTEGER NOT NULL,
    refunded_free   INTEGER NOT NULL, -- all refunds of the charge up to this one
    refunded_paid   INTEGER NOT NULL,
    refunded_amount INTEGER NOT NULL,
    balance_after   INTEGER NOT NULL,
    usage_date      TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (user_id, refund_id)
) STRICT, WITHOUT ROWID;
-- The order of the list of adjustments.
CREATE INDEX idx_adjustment_user_created ON balance_adjustment (user_id, created_at, request_id);
