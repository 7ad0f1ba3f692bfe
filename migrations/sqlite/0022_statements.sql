-- The time at which this service took the database of the legacy service over; no row for a database
-- that was always its own. Statements begin with the first full month after it.
--
-- No SQLite database of the legacy service exists.
CREATE TABLE legacy_takeover (
    only_row      INTEGER PRIMARY KEY CHECK (only_row = 1),
    taken_over_at INTEGER NOT NULL
) STRICT;

-- A statement reads the orders that changed since its month began: a credit is a change.
CREATE INDEX idx_order_user_updated ON recharge_order (user_id, updated_at);
