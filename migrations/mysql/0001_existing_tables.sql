-- The tables of the service this one replaces, as its databases have them.

CREATE TABLE IF NOT EXISTS user_balance (
    user_balance_id VARCHAR(36)   NOT NULL PRIMARY KEY,
    user_id         VARCHAR(36)   NOT NULL,
    balance         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    version         INT           NOT NULL DEFAULT 0,
    created_at      DATETIME      NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at      DATETIME      NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uk_user_id (user_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS free_quota (
    free_quota_id VARCHAR(36) NOT NULL PRIMARY KEY,
    user_id       VARCHAR(36) NOT NULL,
    service_name  VARCHAR(32) NOT NULL,
    total_quota   INT         NOT NULL,
    used_quota    INT         NOT NULL DEFAULT 0,
    reset_month   VARCHAR(7)  NOT NULL,
    created_at    DATETIME    NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at    DATETIME    NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uk_user_service_month (user_id, service_name, reset_month)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS billing_record (
    billing_record_id VARCHAR(36)   NOT NULL PRIMARY KEY,
    user_id           VARCHAR(36)   NOT NULL,
    service_name      VARCHAR(32)   NOT NULL,
    type              TINYINT       NOT NULL COMMENT '1 free quota, 2 balance',
    amount            DECIMAL(10,4) NOT NULL DEFAULT 0.0000,
    count             INT           NOT NULL DEFAULT 1,
    created_at        DATETIME      NOT NULL DEFAULT CURRENT_TIMESTAMP,
    KEY idx_user_date (user_id, created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS recharge_order (
    order_id         VARCHAR(64)   NOT NULL PRIMARY KEY,
    user_id          VARCHAR(36)   NOT NULL,
    amount           DECIMAL(10,2) NOT NULL,
    payment_order_id VARCHAR(64)   NULL,
    status           VARCHAR(20)   NOT NULL DEFAULT 'pending' COMMENT 'pending, success, failed',
    created_at       DATETIME      NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at       DATETIME      NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uk_payment_order_id (payment_order_id),
    KEY idx_user_id (user_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
