-- Use by service, model and API key. No charge writes it: it is summed from the records, a part of a day at
-- a time. usage_parts has the parts of each day, the number of records that they were summed from, and a
-- version that each change of the day raises. Both begin empty, because a read and the job rebuild-rollup
-- sum the missing records.
--
-- Every statement can be run again, because MySQL commits each by itself.
CREATE TABLE IF NOT EXISTS usage_by (
    user_id               VARCHAR(36)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    usage_date            DATE          NOT NULL,
    part                  BIGINT        NOT NULL COMMENT 'the version of the day that has written it',
    service_name          VARCHAR(32)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    model                 VARBINARY(128) NOT NULL COMMENT 'empty: none',
    api_key_id            VARBINARY(128) NOT NULL COMMENT 'empty: none',
    calls                 BIGINT        NOT NULL,
    free_count            BIGINT        NOT NULL,
    paid_count            BIGINT        NOT NULL,
    refunded_free         BIGINT        NOT NULL,
    refunded_paid         BIGINT        NOT NULL,
    free_records          BIGINT        NOT NULL,
    paid_records          BIGINT        NOT NULL,
    free_refunds          BIGINT        NOT NULL,
    paid_refunds          BIGINT        NOT NULL,
    input_tokens          BIGINT        NOT NULL,
    cached_input_tokens   BIGINT        NOT NULL,
    cache_write_tokens    BIGINT        NOT NULL,
    cache_write_1h_tokens BIGINT        NOT NULL,
    audio_input_tokens    BIGINT        NOT NULL,
    output_tokens         BIGINT        NOT NULL,
    reasoning_tokens      BIGINT        NOT NULL,
    audio_output_tokens   BIGINT        NOT NULL,
    images                BIGINT        NOT NULL,
    amount                DECIMAL(20,6) NOT NULL,
    refunded_amount       DECIMAL(20,6) NOT NULL,
    PRIMARY KEY (user_id, usage_date, part, service_name, model, api_key_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS usage_parts (
    user_id               VARCHAR(36)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    usage_date            DATE          NOT NULL,
    version               BIGINT        NOT NULL,
    records               BIGINT        NOT NULL COMMENT 'of all parts; -1: to be summed anew',
    parts                 MEDIUMTEXT    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
        COMMENT 'JSON: [id, first millisecond of the day, end, records, rows] of each part',
    PRIMARY KEY (user_id, usage_date)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
