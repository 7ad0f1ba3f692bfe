-- Use by service, model and API key. No charge writes it: it is summed from the records, a part of a day at
-- a time. usage_parts has the parts of each day, the number of records that they were summed from, and a
-- version that each change of the day raises. Both begin empty, because a read and the job rebuild-rollup
-- sum the missing records.
CREATE TABLE IF NOT EXISTS usage_by (
    user_id               TEXT    NOT NULL,
    usage_date            TEXT    NOT NULL,
    part                  INTEGER NOT NULL, -- the version of the day that has written it
    service_name          TEXT    NOT NULL,
    model                 TEXT    NOT NULL, -- empty: none
    api_key_id            TEXT    NOT NULL, -- empty: none
    calls                 INTEGER NOT NULL,
    free_count            INTEGER NOT NULL,
    paid_count            INTEGER NOT NULL,
    refunded_free         INTEGER NOT NULL,
    refunded_paid         INTEGER NOT NULL,
    free_records          INTEGER NOT NULL,
    paid_records          INTEGER NOT NULL,
    free_refunds          INTEGER NOT NULL,
    paid_refunds          INTEGER NOT NULL,
    input_tokens          INTEGER NOT NULL,
    cached_input_tokens   INTEGER NOT NULL,
    cache_write_tokens    INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    audio_input_tokens    INTEGER NOT NULL,
    output_tokens         INTEGER NOT NULL,
    reasoning_tokens      INTEGER NOT NULL,
    audio_output_tokens   INTEGER NOT NULL,
    images                INTEGER NOT NULL,
    amount                INTEGER NOT NULL,
    refunded_amount       INTEGER NOT NULL,
    PRIMARY KEY (user_id, usage_date, part, service_name, model, api_key_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS usage_parts (
    user_id               TEXT    NOT NULL,
    usage_date            TEXT    NOT NULL,
    version               INTEGER NOT NULL,
    records               INTEGER NOT NULL, -- of all parts; -1: to be summed anew
    parts                 TEXT    NOT NULL, -- JSON: [id, first millisecond of the day, end, records, rows] of each part
    PRIMARY KEY (user_id, usage_date)
) STRICT, WITHOUT ROWID;
