//! The books of a month for statements: one statement over several tables, so that they are of one
//! snapshot.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    MySqlStore,
    record_transactions::{settled, with_content, with_transactions},
    statement::Statement,
};
use crate::{
    biz::{
        settlement::posting::UNAPPLIED_PREFIX,
        statements::{
            period::StatementPeriod,
            statement::{MonthBooks, Split, StatementStore},
        },
        values::{error::StoreError, ids::UserId},
    },
    data::{
        row::Columns,
        rows::statement::{month_book_of, month_books_of, no_usage},
    },
};

/// The last change of an order is its credit or later, but for the skew of the clocks of two servers.
const MOST_SKEW: TimeDelta = TimeDelta::days(1);

#[async_trait]
impl StatementStore for MySqlStore {
    async fn taken_over_at(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let rows = self.viewer.fetch_all(sqlx::query("SELECT taken_over_at FROM legacy_takeover")).await?;
        rows.first().map(|row| row.time(0)).transpose()
    }

    async fn books_of(&self, users: &[UserId], period: &StatementPeriod) -> Result<Vec<MonthBooks>, StoreError> {
        let sets = self.viewer.fetch(books(users, period, None)).await?;
        let rows: Vec<_> = sets.into_iter().flatten().collect();
        month_books_of(users, &rows)
    }

    async fn month_books(
        &self,
        user: &UserId,
        period: &StatementPeriod,
        split: Option<Split>,
    ) -> Result<MonthBooks, StoreError> {
        let users = std::slice::from_ref(user);
        let sets = match split {
            Some(Split { lines, within }) => {
                let mut statement = books(users, period, Some(within));
                charges_by_model(&mut statement, user, period, lines);
                self.viewer.fetch_once(statement).await?
            }
            None => self.viewer.fetch(books(users, period, None)).await?,
        };
        let rows: Vec<_> = sets.into_iter().flatten().collect();
        month_book_of(user, &rows, split)
    }
}

/// The balances of the users, and the sums of each kind of movement since the begin of the month. With `within`,
/// the server ends the query by then.
fn books(users: &[UserId], period: &StatementPeriod, within: Option<Duration>) -> Statement {
    let of_users = |statement: &mut Statement| {
        statement.push(" WHERE user_id IN (").texts(users.iter().map(UserId::as_str)).push(")");
    };
    let (start, end) = (period.start, period.end);
    let mut statement = within.map_or_else(|| Statement::new("SELECT "), Statement::select_within);
    statement.push(concat!(
        "user_id, 'balance' AS source, 0 AS is_later, NULL AS service_name, NULL AS model, NULL AS late_of, \
             0 AS calls, 0 AS free_count, 0 AS paid_count, ",
        no_usage!(),
        ", balance AS amount FROM user_balance"
    ));
    of_users(&mut statement);

    statement.push(" UNION ALL SELECT user_id, 'top_up', COALESCE(credited_at, updated_at) >= ").instant(end);
    statement.push(concat!(
        " AS is_later, NULL, NULL, NULL, COUNT(*), 0, 0, ",
        no_usage!(),
        ", SUM(amount) FROM recharge_order"
    ));
    of_users(&mut statement);
    statement.push(" AND updated_at >= ").instant(start - MOST_SKEW);
    statement.push(" AND status IN ('success', 'refunded') AND COALESCE(credited_at, updated_at) >= ").instant(start);
    statement.push(" GROUP BY user_id, is_later");

    statement.push(" UNION ALL SELECT user_id, IF(kind = 'chargeback', 'chargeback', 'top_up_refund') AS source, ");
    statement.push("settled_at >= ").instant(end);
    statement.push(concat!(
        " AS is_later, NULL, NULL, NULL, COUNT(*), 0, 0, ",
        no_usage!(),
        ", -SUM(amount) FROM recharge_refund"
    ));
    of_users(&mut statement);
    statement.push(" AND status = 'success' AND settled_at >= ").instant(start);
    statement.push(" GROUP BY user_id, source, is_later");

    statement.push(" UNION ALL SELECT user_id, IF(LEFT(adjustment_id, ").number(UNAPPLIED_PREFIX.len() as u32);
    statement.push(") = ").texts([UNAPPLIED_PREFIX]).push(", 'unapplied_payment', 'adjustment') AS source, ");
    statement.push("created_at >= ").instant(end);
    statement.push(concat!(
        " AS is_later, NULL, NULL, NULL, COUNT(*), 0, 0, ",
        no_usage!(),
        ", SUM(amount) FROM balance_adjustment"
    ));
    of_users(&mut statement);
    statement.push(" AND created_at >= ").instant(start).push(" GROUP BY user_id, source, is_later");

    let day = |statement: &mut Statement, day| {
        statement.row(|row| {
            row.day(day);
        });
    };
    statement.push(" UNION ALL SELECT user_id, 'charge', usage_date > ");
    day(&mut statement, period.days.last);
    statement.push(concat!(
        " AS is_later, service_name, NULL, NULL, 0, CAST(SUM(free_count) AS SIGNED), \
         CAST(SUM(paid_count) AS SIGNED), ",
        no_usage!(),
        ", -SUM(amount) FROM usage_daily"
    ));
    of_users(&mut statement);
    statement.push(" AND usage_date >= ");
    day(&mut statement, period.days.first);
    statement.push(" GROUP BY user_id, is_later, service_name");

    statement.push(" UNION ALL SELECT user_id, 'charge_refund', usage_date > ");
    day(&mut statement, period.days.last);
    statement.push(concat!(
        " AS is_later, service_name, NULL, NULL, 0, CAST(SUM(refunded_free) AS SIGNED), \
         CAST(SUM(refunded_paid) AS SIGNED), ",
        no_usage!(),
        ", SUM(refunded_amount) FROM usage_daily"
    ));
    of_users(&mut statement);
    statement.push(" AND refunded_amount IS NOT NULL AND usage_date >= ");
    day(&mut statement, period.days.first);
    statement.push(" GROUP BY user_id, is_later, service_name");
    statement
}

/// Tokens of a charge, at its main record. A commit may still add to a charge that the report of a stream
/// made, and the row then has the tokens of both; so only those of other charges are final.
macro_rules! tokens {
    ($column:literal) => {
        concat!(
            "CAST(SUM(IF(",
            settled!("record_id"),
            " = r.billing_record_id AND ",
            settled!("charged_by"),
            " IS NULL, COALESCE(",
            settled!($column),
            ", 0), 0)) AS SIGNED) AS ",
            $column,
            ", "
        )
    };
}

/// Adds the charges and refunds of the month, from the records of both tables: `lines` of them, and one more if
/// there are more.
fn charges_by_model(statement: &mut Statement, user: &UserId, period: &StatementPeriod, lines: u32) {
    statement.push(concat!(
        " UNION ALL SELECT * FROM (SELECT r.user_id, \
         IF(r.type IN (3, 4), 'charge_refund_by_model', 'charge_by_model') AS source, 0 AS is_later, \
         r.service_name, ",
        settled!("model"),
        " AS model, r.late_of, \
         CAST(COUNT(DISTINCT r.trace_id) + SUM(r.trace_id IS NULL) AS SIGNED) AS calls, \
         CAST(SUM(IF(r.type IN (1, 3), r.count, 0)) AS SIGNED) AS free_count, \
         CAST(SUM(IF(r.type IN (2, 4), r.count, 0)) AS SIGNED) AS paid_count, ",
        tokens!("input_tokens"),
        tokens!("output_tokens"),
        tokens!("cached_input_tokens"),
        tokens!("cache_write_tokens"),
        tokens!("cache_write_1h_tokens"),
        tokens!("reasoning_tokens"),
        tokens!("audio_input_tokens"),
        tokens!("audio_output_tokens"),
        tokens!("images"),
        "SUM(IF(r.type IN (3, 4), r.amount, -r.amount)) AS amount FROM ("
    ));
    for (index, table) in ["billing_record", "billing_record_archive"].into_iter().enumerate() {
        statement.push(if index == 0 { "" } else { " UNION ALL " });
        statement.push("SELECT user_id, billing_record_id, service_name, type, amount, count, trace_id, late_of FROM ");
        statement.push(table).push(" WHERE user_id = ").texts([user.as_str()]);
        statement.push(" AND created_at >= ").instant(period.start).push(" AND created_at < ").instant(period.end);
    }
    statement.push(concat!(
        ") r ",
        with_transactions!(),
        " GROUP BY r.user_id, source, r.service_name, ",
        settled!("model"),
        ", r.late_of LIMIT "
    ));
    statement.number(lines.saturating_add(1)).push(") by_model");
}
