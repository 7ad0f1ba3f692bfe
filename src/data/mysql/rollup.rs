//! The daily rollup, compared with the records and made anew from them.

use async_trait::async_trait;

use super::{MySqlStore, statement::Statement, text};
use crate::biz::{error::StoreError, ids::UserId, rollup::RollupStore, users::UserSpan};

const TABLES: [&str; 2] = ["billing_record", "billing_record_archive"];

#[async_trait]
impl RollupStore for MySqlStore {
    /// What the rollup says, and against it what the records say, cancel out or do not.
    async fn differing(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError> {
        let of_span = |statement: &mut Statement| {
            statement.push("user_id > ").texts([users.after()]).push(" AND user_id <= ").texts([users.last.as_str()]);
        };
        let mut statement = Statement::new(
            "SELECT DISTINCT user_id FROM (SELECT user_id, usage_date, service_name, \
             free_count, paid_count, amount, free_records, paid_records FROM usage_daily WHERE ",
        );
        of_span(&mut statement);
        for table in TABLES {
            statement.push(" UNION ALL ");
            sums(&mut statement, "-", table, of_span);
        }
        statement.push(
            ") books GROUP BY user_id, usage_date, service_name \
             HAVING SUM(free_count) <> 0 OR SUM(paid_count) <> 0 OR SUM(amount) <> 0 \
             OR SUM(free_records) <> 0 OR SUM(paid_records) <> 0",
        );
        let mut connection = self.reader.take().await?;
        let sets = statement.fetch(&mut connection).await?;
        connection.give_back();
        sets.iter().flatten().map(|row| Ok(UserId::from_stored(text(row, 0)?))).collect()
    }

    /// The locks of the accounts come first: nothing is settled for these users until the
    /// commit, which would otherwise fail on the rows that settlements write meanwhile.
    async fn rebuild(&self, users: &[UserId]) -> Result<(), StoreError> {
        let these = |statement: &mut Statement| {
            statement.push("user_id IN (").texts(users.iter().map(UserId::as_str)).push(")");
        };
        let mut statement = Statement::new("START TRANSACTION; SELECT user_id FROM user_balance WHERE ");
        these(&mut statement);
        statement.push(" ORDER BY user_id FOR UPDATE; DELETE FROM usage_daily WHERE ");
        these(&mut statement);
        statement.push(
            "; INSERT INTO usage_daily \
             (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) \
             SELECT user_id, usage_date, service_name, SUM(free_count), SUM(paid_count), SUM(amount), \
             SUM(free_records), SUM(paid_records) FROM (",
        );
        for (index, table) in TABLES.into_iter().enumerate() {
            statement.push(if index == 0 { "" } else { " UNION ALL " });
            sums(&mut statement, "", table, these);
        }
        statement.push(") records GROUP BY user_id, usage_date, service_name; COMMIT");
        let mut connection = self.writer.take().await?;
        statement.execute(&mut connection).await?;
        connection.give_back();
        Ok(())
    }
}

/// The sums of a table of records as the columns of the rollup, of the users that `of` says.
fn sums(statement: &mut Statement, sign: &'static str, table: &'static str, of: impl Fn(&mut Statement)) {
    statement.push("SELECT user_id, usage_date, service_name");
    for (sum, name) in [
        ("SUM(IF(type = 1, count, 0))", "free_count"),
        ("SUM(IF(type = 2, count, 0))", "paid_count"),
        ("SUM(amount)", "amount"),
        ("SUM(type = 1)", "free_records"),
        ("SUM(type = 2)", "paid_records"),
    ] {
        statement.push(", ").push(sign).push(sum).push(" AS ").push(name);
    }
    statement.push(" FROM ").push(table).push(" WHERE ");
    of(statement);
    statement.push(" GROUP BY user_id, usage_date, service_name");
}
