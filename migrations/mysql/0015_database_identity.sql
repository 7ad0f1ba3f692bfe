-- The identity of this database, in one row that the first start writes: the id by which its
-- entries in Redis are told from those of other databases, the currency of its amounts, and
-- the zone of its days and months.
CREATE TABLE IF NOT EXISTS database_identity (
    only_row   TINYINT     NOT NULL DEFAULT 1 CHECK (only_row = 1),
    id         CHAR(36)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'UUID',
    currency   CHAR(3)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'ISO 4217',
    time_zone  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'IANA',
    created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (only_row)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
