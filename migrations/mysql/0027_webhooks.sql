-- Webhooks. Only the process with the lease deliver-webhooks changes position, attempts, failures and failing_since,
-- and the tables webhook_retry and webhook_attempt, but for a restart by an operator. secrets is a list in JSON of
-- secrets that are sealed by billing.webhooks.key.
--
-- webhook_retry has the users whose next event was not accepted by a webhook, or who have many events. webhook_attempt keeps the last attempts of
-- each webhook, 100 that were accepted and 100 that failed; a later one takes the slot of an earlier one.
-- webhook_resend has deliveries beside the feed, which operators asked for.
--
-- Every statement can be run again, because MySQL commits each by itself.
CREATE TABLE IF NOT EXISTS webhook (
    webhook_id    VARCHAR(36)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    url           VARCHAR(2048) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    types         VARCHAR(1024) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'with commas; empty: all',
    is_active     TINYINT       NOT NULL,
    secrets       VARCHAR(2048) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'JSON; sealed',
    position      BIGINT        NOT NULL COMMENT 'all events up to it are delivered or in retries',
    attempts      BIGINT        NOT NULL DEFAULT 0,
    accepted      BIGINT        NOT NULL DEFAULT 0 COMMENT 'of the attempts',
    failures      INT           NOT NULL DEFAULT 0 COMMENT 'in a row',
    failing_since DATETIME(6)   NULL,
    failed_at     DATETIME(6)   NULL,
    reason        VARCHAR(255)  CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'of the failure',
    restarts      BIGINT        NOT NULL DEFAULT 0,
    created_at    DATETIME(6)   NOT NULL,
    updated_at    DATETIME(6)   NOT NULL,
    PRIMARY KEY (webhook_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS webhook_retry (
    webhook_id    VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id       VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'empty: events of no user',
    next_position BIGINT      NOT NULL COMMENT 'the first event that is not delivered is here or behind it',
    attempts      INT         NOT NULL COMMENT 'of that event',
    first_at      DATETIME(6) NULL,
    next_at       DATETIME(6) NOT NULL,
    failed_at     DATETIME(6) NULL COMMENT 'given up; not tried until a restart',
    PRIMARY KEY (webhook_id, user_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS webhook_attempt (
    webhook_id  VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    is_accepted TINYINT     NOT NULL,
    slot        SMALLINT    NOT NULL,
    number      BIGINT      NOT NULL COMMENT 'among the attempts of the webhook',
    event_id    CHAR(36)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    type        VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id     VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    began_at    DATETIME(6) NOT NULL,
    took_ms     INT         NOT NULL,
    status      SMALLINT    NULL COMMENT 'of HTTP',
    failure     VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NULL,
    next_at     DATETIME(6) NULL,
    PRIMARY KEY (webhook_id, is_accepted, slot)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS webhook_resend (
    webhook_id  VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    resend_id   CHAR(36)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'UUID, ordered by time',
    event_id    CHAR(36)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    type        VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    data        TEXT        CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'a JSON object',
    created_at  DATETIME(6) NOT NULL COMMENT 'of the event',
    traceparent VARCHAR(55) CHARACTER SET ascii COLLATE ascii_bin NULL,
    tracestate  VARCHAR(512) CHARACTER SET ascii COLLATE ascii_bin NULL,
    PRIMARY KEY (webhook_id, resend_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
