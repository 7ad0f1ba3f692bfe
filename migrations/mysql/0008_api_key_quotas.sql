-- Quotas of API keys, and what of them was taken in the period of the last day on which
-- anything was. Requests and tokens are counted, amounts are in millionths. Keys without
-- quotas have no row.
CREATE TABLE IF NOT EXISTS api_key_quota (
    api_key_id  VARBINARY(128) NOT NULL,
    quota_type  VARCHAR(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'requests, tokens, amount',
    period      VARCHAR(5)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'day, month, total',
    quota_limit BIGINT      NOT NULL,
    used        BIGINT      NOT NULL DEFAULT 0,
    usage_date  DATE        NOT NULL COMMENT 'billing day whose period used counts',
    version     BIGINT      NOT NULL DEFAULT 0,
    created_at  DATETIME(6) NOT NULL,
    updated_at  DATETIME(6) NOT NULL,
    PRIMARY KEY (api_key_id, quota_type)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
