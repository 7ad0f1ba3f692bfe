-- Events, written in the transactions that made them true. position is the place in the feed, given when the feed
-- is read. event_feed has one row: the last given position, and the last month that was announced as closed.
--
-- user_balance.is_exhausted says that a call was refused for money since the last credit. alerts has the thresholds
-- of the user.
CREATE TABLE IF NOT EXISTS event (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    position   INTEGER NULL UNIQUE, -- NULL: not read yet
    event_id   TEXT    NOT NULL UNIQUE, -- UUID, ordered by time
    type       TEXT    NOT NULL,
    user_id    TEXT    NULL, -- NULL: of no user
    data       TEXT    NOT NULL, -- a JSON object
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS idx_event_user ON event (user_id, position);

CREATE TABLE IF NOT EXISTS event_feed (
    id           INTEGER PRIMARY KEY, -- always 1
    position     INTEGER NOT NULL,
    closed_month TEXT    NULL -- NULL: none yet
) STRICT;
INSERT INTO event_feed (id, position) VALUES (1, 0) ON CONFLICT DO NOTHING;

ALTER TABLE user_balance ADD COLUMN is_exhausted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user_balance ADD COLUMN alerts TEXT NULL; -- JSON; NULL: as configured
