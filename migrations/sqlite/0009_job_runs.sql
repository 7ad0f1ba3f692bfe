-- Runs of regular jobs: a row for each period that was begun, with where it got to. Who
-- runs a job holds its lease, and renews it; another takes it over once it has ended.
CREATE TABLE job_run (
    job         TEXT    NOT NULL,
    period      TEXT    NOT NULL,
    -- Where a run goes on that was cut short.
    position    TEXT    NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER NULL,
    PRIMARY KEY (job, period)
) STRICT, WITHOUT ROWID;
CREATE TABLE job_lease (
    job     TEXT    NOT NULL PRIMARY KEY,
    owner   TEXT    NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
