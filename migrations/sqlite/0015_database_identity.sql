-- The identity of this database, in one row that the first start writes: the id by which its
-- entries in Redis are told from those of other databases, the currency of its amounts, and
-- the zone of its days and months.
CREATE TABLE database_identity (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    id         TEXT NOT NULL,
    currency   TEXT NOT NULL,
    time_zone  TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
