-- Seals of closed months. A seal covers the history of one account from the end of the seal before it to the
-- end of its month. sealed_account has the figures of the last seal of each account, up to its end. all_sealed has
-- the month up to which all accounts without differences are sealed. All begin empty: the job seal-months fills
-- them in the background.
--
-- low_count has the last count of low accounts, which one server makes for all.
CREATE TABLE IF NOT EXISTS sealed_month (
    user_id   TEXT    NOT NULL,
    month     TEXT    NOT NULL, -- the last sealed one
    content   TEXT    NOT NULL, -- kind:number:digest of each kind of rows
    balance   INTEGER NOT NULL, -- closing balance
    seal      TEXT    NOT NULL, -- hash, with that of the seal before it
    sealed_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, month)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS sealed_account (
    user_id          TEXT    NOT NULL,
    month            TEXT    NOT NULL, -- the last sealed one
    sealed_until     INTEGER NOT NULL, -- its end in UTC
    version          INTEGER NOT NULL, -- of user_balance, before the history was read
    balance          INTEGER NOT NULL, -- closing balance
    charged          INTEGER NOT NULL, -- of all sealed records but refunds
    given_back       INTEGER NOT NULL, -- of all sealed records of refunds
    given_back_count INTEGER NOT NULL,
    seal             TEXT    NOT NULL,
    PRIMARY KEY (user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS all_sealed (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    month    TEXT    NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS low_count (
    basis        TEXT    NOT NULL, -- month and thresholds
    service_name TEXT    NOT NULL, -- empty: the balance
    users        INTEGER NOT NULL,
    counted_at   INTEGER NOT NULL,
    due_at       INTEGER NOT NULL, -- of the next count
    PRIMARY KEY (basis, service_name)
) STRICT, WITHOUT ROWID;

-- The count of low quotas reads one month, however many there are. A charge changes no column of the key.
CREATE INDEX IF NOT EXISTS idx_free_quota_month ON free_quota (reset_month);
