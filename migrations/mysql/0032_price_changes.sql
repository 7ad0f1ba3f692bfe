-- The row that each change of a price version locks and writes, so that one is made after the other. The first change
-- inserts it. SQLite has it since 0021.
--
-- Every statement can be run again, because MySQL commits each by itself.
CREATE TABLE IF NOT EXISTS price_change (
    only_row TINYINT NOT NULL CHECK (only_row = 1),
    changes  BIGINT  NOT NULL,
    PRIMARY KEY (only_row)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
