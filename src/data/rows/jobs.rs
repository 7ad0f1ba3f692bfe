//! Rows that jobs and their metrics read.

use chrono::{DateTime, Utc};

use crate::{
    biz::{
        jobs::{
            audit::{DayBook, DifferingDay, differences_at},
            low_balance::{Counted, LowCounts, StoredCounts},
            ops_stats::FinishedAudit,
            reset::Lacking,
            runs::StoredRun,
        },
        values::{
            error::StoreError,
            ids::{ServiceName, UserId},
        },
    },
    data::{error::corrupt, row::Columns},
};

use super::account::user_of;

/// A user, service and day, ten columns of the rollup and the same of the records.
pub fn differing_day_of(row: &impl Columns) -> Result<(UserId, DifferingDay), StoreError> {
    let day = DifferingDay {
        service: ServiceName::from_stored(row.text(1)?),
        day: row.day(2)?,
        rollup: day_book_of(row, 3)?,
        records: day_book_of(row, 13)?,
    };
    Ok((user_of(row)?, day))
}

fn day_book_of(row: &impl Columns, first: usize) -> Result<DayBook, StoreError> {
    Ok(DayBook {
        free_count: row.sum(first)?,
        paid_count: row.sum(first + 1)?,
        amount: row.money(first + 2)?,
        free_records: row.sum(first + 3)?,
        paid_records: row.sum(first + 4)?,
        refunded_free: row.sum(first + 5)?,
        refunded_paid: row.sum(first + 6)?,
        refunded_amount: row.money(first + 7)?,
        free_refunds: row.sum(first + 8)?,
        paid_refunds: row.sum(first + 9)?,
    })
}

/// The end of an audit, and its last position.
pub fn finished_audit_of(row: &impl Columns) -> Result<FinishedAudit, StoreError> {
    let position = row.optional_text(1)?;
    let differences = differences_at(position.as_deref()).ok_or_else(|| corrupt("position"))?;
    Ok(FinishedAudit { at: row.time(0)?, differences })
}

/// Missing quota rows, and rows with another total.
pub fn lacking_of(row: &impl Columns) -> Result<Lacking, StoreError> {
    Ok(Lacking { rows: row.number(0)?, totals: row.number(1)? })
}

/// A service, or NULL for the balance, and the number of low users.
pub fn low_count_of(row: &impl Columns) -> Result<(Option<ServiceName>, u64), StoreError> {
    Ok((row.optional_text(0)?.map(ServiceName::from_stored), row.number(1)?))
}

/// The last runs of a job, as [`stored_run_of`] reads them. Takes the job and the limit.
pub const LAST_RUNS: &str = "SELECT job, period, position, started_at, finished_at FROM job_run WHERE job = ? \
    ORDER BY period DESC LIMIT ?";

/// A stored run.
pub fn stored_run_of(row: &impl Columns) -> Result<StoredRun, StoreError> {
    Ok(StoredRun {
        job: row.text(0)?,
        period: row.text(1)?,
        position: row.optional_text(2)?,
        started_at: row.time(3)?,
        finished_at: row.optional_time(4)?,
    })
}

/// The number of users in the only row of a basis without a count that succeeded.
const NO_COUNT: i64 = -1;

/// The stored counts of a basis, one a row.
pub const STORED_COUNTS: &str = "SELECT service_name, users, counted_at, due_at FROM low_count WHERE basis = ?";

/// The rows of [`STORED_COUNTS`].
pub fn stored_counts_of(rows: &[impl Columns]) -> Result<Option<StoredCounts>, StoreError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let due_at = first.time(3)?;
    if first.number::<i64>(1)? == NO_COUNT {
        return Ok(Some(StoredCounts { counted: None, due_at }));
    }
    let count_of = |row| {
        let (service, users) = low_count_of(row)?;
        Ok((service.filter(|service| !service.as_str().is_empty()), users))
    };
    let counts = rows.iter().map(count_of).collect::<Result<LowCounts, StoreError>>()?;
    Ok(Some(StoredCounts { counted: Some(Counted { counts, at: first.time(2)? }), due_at }))
}

/// The service, the number of users and `counted_at` of each row of `low_count`. The empty service stands for the
/// balance.
pub fn rows_of_counts(stored: &StoredCounts) -> Vec<(&str, i64, DateTime<Utc>)> {
    let Some(Counted { counts, at }) = &stored.counted else { return vec![("", NO_COUNT, stored.due_at)] };
    let number = |users: u64| i64::try_from(users).unwrap_or(i64::MAX);
    let quotas = counts.quotas.iter().map(|(service, users)| (service.as_str(), number(*users), *at));
    [("", number(counts.balance), *at)].into_iter().chain(quotas).collect()
}
