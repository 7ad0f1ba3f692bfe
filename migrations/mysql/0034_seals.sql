-- Seals of closed months. A seal covers the history of one account from the end of the seal before it to the
-- end of its month. sealed_account has the figures of the last seal of each account, up to its end. all_sealed has
-- the month up to which all accounts without differences are sealed. All begin empty: the job seal-months fills
-- them in the background.
--
-- low_count has the last count of low accounts, which one server makes for all.
--
-- Every statement can be run again, because MySQL commits each by itself.
CREATE TABLE IF NOT EXISTS sealed_month (
    user_id   VARCHAR(36)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    month     CHAR(7)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'the last sealed one',
    content   VARCHAR(400)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'kind:number:digest of each kind of rows',
    balance   DECIMAL(20,6) NOT NULL COMMENT 'closing balance',
    seal      CHAR(64)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'hash, with that of the seal before it',
    sealed_at DATETIME(6)   NOT NULL,
    PRIMARY KEY (user_id, month)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS sealed_account (
    user_id          VARCHAR(36)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    month            CHAR(7)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'the last sealed one',
    sealed_until     DATETIME(6)   NOT NULL COMMENT 'its end in UTC',
    version          BIGINT        NOT NULL COMMENT 'of user_balance, before the history was read',
    balance          DECIMAL(20,6) NOT NULL COMMENT 'closing balance',
    charged          DECIMAL(20,6) NOT NULL COMMENT 'of all sealed records but refunds',
    given_back       DECIMAL(20,6) NOT NULL COMMENT 'of all sealed records of refunds',
    given_back_count BIGINT        NOT NULL,
    seal             CHAR(64)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (user_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS all_sealed (
    only_row TINYINT NOT NULL DEFAULT 1 CHECK (only_row = 1),
    month    CHAR(7) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (only_row)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS low_count (
    basis        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'month and thresholds',
    service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'empty: the balance',
    users        BIGINT      NOT NULL,
    counted_at   DATETIME(6) NOT NULL,
    due_at       DATETIME(6) NOT NULL COMMENT 'of the next count',
    PRIMARY KEY (basis, service_name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The count of low quotas reads one month, however many there are. A charge changes no column of the key.
SET @add_key = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'free_quota' AND index_name = 'idx_month') = 0,
    'ALTER TABLE free_quota ADD KEY idx_month (reset_month)', 'DO 0');
PREPARE add_key FROM @add_key;
EXECUTE add_key;
