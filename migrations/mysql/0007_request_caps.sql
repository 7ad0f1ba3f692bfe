-- Caps on the requests of a user, and the requests of the last day in which there were any
-- and of its month. Users without caps have no row, and cost nothing.
CREATE TABLE IF NOT EXISTS tenant_quota (
    user_id       VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    daily_limit   INT         NULL COMMENT 'requests a day; NULL: no cap',
    monthly_limit INT         NULL COMMENT 'requests a month; NULL: no cap',
    usage_date    DATE        NOT NULL COMMENT 'billing day that daily_used counts; monthly_used counts its month',
    daily_used    INT         NOT NULL DEFAULT 0,
    monthly_used  INT         NOT NULL DEFAULT 0,
    version       BIGINT      NOT NULL DEFAULT 0,
    created_at    DATETIME(6) NOT NULL,
    updated_at    DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
