-- The tables of migrations 1 to 17, for an empty database on TiDB, which can't change a primary key
-- as migration 2 does. Later migrations run on TiDB as on MySQL. CHECK counts only where the global
-- variable tidb_enable_check_constraint is on.
--
-- billing_record comes first: by its day, which is not NULL, a start that was cut short is known for
-- one of this service.

CREATE TABLE IF NOT EXISTS billing_record (
    billing_record_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_id           VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    service_name      VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    type              TINYINT NOT NULL COMMENT '1 free quota, 2 balance',
    amount            DECIMAL(20,6) NOT NULL DEFAULT 0,
    count             INT NOT NULL DEFAULT 1,
    created_at        DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    usage_date        DATE NOT NULL,
    trace_id          VARBINARY(128) NULL,
    PRIMARY KEY (user_id, created_at, billing_record_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS user_balance (
    user_balance_id VARCHAR(36) NOT NULL DEFAULT '',
    user_id         VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    balance         DECIMAL(20,6) NOT NULL DEFAULT 0,
    version         BIGINT NOT NULL DEFAULT 0,
    created_at      DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at      DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    held            DECIMAL(20,6) NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS free_quota (
    free_quota_id VARCHAR(36) NOT NULL DEFAULT '',
    user_id       VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    service_name  VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    total_quota   BIGINT NOT NULL DEFAULT 0,
    used_quota    BIGINT NOT NULL DEFAULT 0,
    reset_month   VARCHAR(7) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    created_at    DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at    DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    held_quota    BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, reset_month, service_name)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS billing_record_archive (
    billing_record_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_id           VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    service_name      VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    type              TINYINT NOT NULL COMMENT '1 free quota, 2 balance',
    amount            DECIMAL(20,6) NOT NULL,
    count             INT NOT NULL,
    created_at        DATETIME(6) NOT NULL,
    usage_date        DATE NOT NULL,
    trace_id          VARBINARY(128) NULL,
    PRIMARY KEY (user_id, created_at, billing_record_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS billing_transaction (
    user_id                 VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    trace_id                VARBINARY(128) NOT NULL,
    status                  VARCHAR(10) NOT NULL DEFAULT 'COMMITTED' COMMENT 'PENDING, COMMITTED, RELEASED, EXPIRED',
    service_name            VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    count                   INT NOT NULL,
    cost                    DECIMAL(20,6) NULL COMMENT 'as requested; NULL: price times count',
    api_key_id              VARBINARY(128) NULL,
    model                   VARBINARY(128) NULL,
    input_tokens            INT NULL,
    output_tokens           INT NULL,
    cached_input_tokens     INT NULL,
    free_count              INT NOT NULL,
    paid_count              INT NOT NULL,
    amount                  DECIMAL(20,6) NOT NULL,
    record_id               VARCHAR(36) NOT NULL,
    balance_after           DECIMAL(20,6) NOT NULL,
    free_remaining_after    INT NOT NULL,
    created_at              DATETIME(6) NOT NULL,
    held_free               INT NULL,
    held_amount             DECIMAL(20,6) NULL,
    full_cost               DECIMAL(20,6) NULL COMMENT 'of all reserved units, at the price of the reserve',
    commit_cost             DECIMAL(20,6) NULL COMMENT 'as the commit asked',
    usage_date              DATE NULL COMMENT 'billing day of the reserve, which the commit counts to',
    expires_at              DATETIME(6) NULL,
    price_version           VARBINARY(128) NULL,
    input_price             DECIMAL(20,6) NULL,
    cached_input_price      DECIMAL(20,6) NULL,
    output_price            DECIMAL(20,6) NULL,
    estimated_input_tokens  INT NULL,
    estimated_output_tokens INT NULL,
    quota_unit              VARCHAR(6) NULL COMMENT 'tokens; NULL: calls',
    shortfall               DECIMAL(20,6) NULL COMMENT 'NULL: none',
    charged_by              TINYINT NULL COMMENT '1: what its stream had reported, 2: that and a commit; NULL: a commit',
    free_remaining_large    BIGINT NULL COMMENT 'NULL: free_remaining_after holds it',
    PRIMARY KEY (user_id, trace_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS reservation_expiry (
    expires_at DATETIME(6) NOT NULL,
    user_id    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    trace_id   VARBINARY(128) NOT NULL,
    PRIMARY KEY (expires_at, user_id, trace_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS usage_daily (
    user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    usage_date   DATE NOT NULL,
    service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    free_count   BIGINT NOT NULL,
    paid_count   BIGINT NOT NULL,
    amount       DECIMAL(20,6) NOT NULL,
    free_records BIGINT NOT NULL,
    paid_records BIGINT NOT NULL,
    PRIMARY KEY (user_id, usage_date, service_name)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS balance_adjustment (
    user_id       VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    adjustment_id VARBINARY(128) NOT NULL,
    amount        DECIMAL(20,6) NOT NULL,
    reason        VARCHAR(255) NOT NULL,
    operator      VARCHAR(64) NOT NULL,
    request_id    VARCHAR(36) NOT NULL,
    balance_after DECIMAL(20,6) NOT NULL,
    created_at    DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, adjustment_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS quota_opening (
    user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    reset_month  VARCHAR(7) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    units        BIGINT NOT NULL COMMENT 'below zero: less was used than the records say',
    created_at   DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, reset_month, service_name)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS recharge_order (
    order_id         VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_id          VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    amount           DECIMAL(20,6) NOT NULL,
    payment_order_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    status           VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'pending' COMMENT 'pending, success, failed, expired',
    created_at       DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at       DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    payment_method   VARCHAR(16) NULL COMMENT 'alipay, wechatpay, stripe',
    payment_url      VARCHAR(2048) NULL COMMENT 'where the user pays',
    idempotency_key  VARBINARY(128) NULL COMMENT 'of the request that made the order',
    PRIMARY KEY (order_id),
    UNIQUE KEY uk_payment_order_id (payment_order_id),
    UNIQUE KEY uk_user_idempotency_key (user_id, idempotency_key),
    KEY idx_user_created (user_id, created_at, order_id),
    KEY idx_status_created (status, created_at, order_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS tenant_quota (
    user_id       VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    daily_limit   INT NULL COMMENT 'requests a day; NULL: no cap',
    monthly_limit INT NULL COMMENT 'requests a month; NULL: no cap',
    usage_date    DATE NOT NULL COMMENT 'billing day that daily_used counts; monthly_used counts its month',
    daily_used    INT NOT NULL DEFAULT 0,
    monthly_used  INT NOT NULL DEFAULT 0,
    version       BIGINT NOT NULL DEFAULT 0,
    created_at    DATETIME(6) NOT NULL,
    updated_at    DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS api_key_quota (
    api_key_id  VARBINARY(128) NOT NULL,
    quota_type  VARCHAR(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'requests, tokens, amount',
    period      VARCHAR(5) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'day, month, total',
    quota_limit BIGINT NOT NULL,
    used        BIGINT NOT NULL DEFAULT 0,
    usage_date  DATE NOT NULL COMMENT 'billing day whose period used counts',
    version     BIGINT NOT NULL DEFAULT 0,
    created_at  DATETIME(6) NOT NULL,
    updated_at  DATETIME(6) NOT NULL,
    used_day    BIGINT NOT NULL DEFAULT 0 COMMENT 'of usage_date',
    used_month  BIGINT NOT NULL DEFAULT 0 COMMENT 'of the month of usage_date',
    used_total  BIGINT NOT NULL DEFAULT 0,
    day_since   DATETIME(6) NULL COMMENT 'used_day is complete since then; NULL: created_at',
    month_since DATETIME(6) NULL,
    total_since DATETIME(6) NULL,
    PRIMARY KEY (api_key_id, quota_type)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS price_version (
    model              VARBINARY(128) NOT NULL,
    effective_from     DATETIME(6) NOT NULL COMMENT 'UTC',
    version_id         VARBINARY(128) NOT NULL COMMENT 'what transactions keep of it',
    input_price        DECIMAL(20,6) NOT NULL CHECK (input_price BETWEEN 0 AND 999999999.999999),
    cached_input_price DECIMAL(20,6) NULL COMMENT 'NULL: input_price' CHECK (cached_input_price BETWEEN 0 AND 999999999.999999),
    output_price       DECIMAL(20,6) NOT NULL CHECK (output_price BETWEEN 0 AND 999999999.999999),
    created_at         DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (model, effective_from),
    UNIQUE KEY uk_model_version (model, version_id)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS job_run (
    job         VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    period      VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    position    VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'where a run goes on that was cut short',
    started_at  DATETIME(6) NOT NULL,
    finished_at DATETIME(6) NULL,
    PRIMARY KEY (job, period)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS job_lease (
    job     VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    owner   VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    ends_at DATETIME(6) NOT NULL,
    PRIMARY KEY (job)
) DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS database_identity (
    only_row   TINYINT NOT NULL DEFAULT 1 CHECK (only_row = 1),
    id         CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'UUID',
    currency   CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'ISO 4217',
    time_zone  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'IANA',
    created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (only_row)
) DEFAULT CHARSET = utf8mb4;
