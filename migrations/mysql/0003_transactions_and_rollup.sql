-- One row for every settled charge, found by the id that makes it idempotent. It
-- holds what the caller asked, to tell a retry from a conflict, and what was
-- answered, to answer it again. Trace ids are bytes: no collation folds two of
-- them into one, and trailing spaces count.
CREATE TABLE IF NOT EXISTS billing_transaction (
    user_id              VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    trace_id             VARBINARY(128) NOT NULL,
    status               VARCHAR(10)    NOT NULL COMMENT 'PENDING, COMMITTED, RELEASED, EXPIRED',
    service_name         VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    count                INT            NOT NULL,
    cost                 DECIMAL(20,6)  NULL COMMENT 'as requested; NULL: price times count',
    api_key_id           VARBINARY(128) NULL,
    model                VARBINARY(128) NULL,
    input_tokens         INT            NULL,
    output_tokens        INT            NULL,
    cached_input_tokens  INT            NULL,
    free_count           INT            NOT NULL,
    paid_count           INT            NOT NULL,
    amount               DECIMAL(20,6)  NOT NULL,
    record_id            VARCHAR(36)    NOT NULL,
    balance_after        DECIMAL(20,6)  NOT NULL,
    free_remaining_after INT            NOT NULL,
    created_at           DATETIME(6)    NOT NULL,
    PRIMARY KEY (user_id, trace_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Use per user, day in the billing time zone, and service. Every statistic and
-- every total of a record list reads this and not the records.
CREATE TABLE IF NOT EXISTS usage_daily (
    user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    usage_date   DATE          NOT NULL,
    service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    free_count   BIGINT        NOT NULL,
    paid_count   BIGINT        NOT NULL,
    amount       DECIMAL(20,6) NOT NULL,
    free_records BIGINT        NOT NULL,
    paid_records BIGINT        NOT NULL,
    PRIMARY KEY (user_id, usage_date, service_name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Operators' credits and debits, with their reasons.
CREATE TABLE IF NOT EXISTS balance_adjustment (
    user_id       VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    adjustment_id VARBINARY(128) NOT NULL,
    amount        DECIMAL(20,6)  NOT NULL,
    reason        VARCHAR(255)   NOT NULL,
    operator      VARCHAR(64)    NOT NULL,
    request_id    VARCHAR(36)    NOT NULL,
    balance_after DECIMAL(20,6)  NOT NULL,
    created_at    DATETIME(6)    NOT NULL,
    PRIMARY KEY (user_id, adjustment_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
