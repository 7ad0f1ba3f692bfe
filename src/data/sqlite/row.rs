//! Columns of SQLite rows, for both drivers: sqlx for the readers, rusqlite for the writer. Amounts are
//! millionths, times are microseconds since 1970, and days are texts.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::writer::writer_error;
use crate::{
    biz::values::{error::StoreError, money::Money},
    data::{
        error::{corrupt, store_error},
        row::Columns,
    },
};

/// The two types that SQLite stores.
trait Stored {
    fn integer(&self, column: usize) -> Result<Option<i64>, StoreError>;
    fn string(&self, column: usize) -> Result<Option<String>, StoreError>;
}

impl Stored for SqliteRow {
    fn integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(column).map_err(store_error)
    }

    fn string(&self, column: usize) -> Result<Option<String>, StoreError> {
        self.try_get(column).map_err(store_error)
    }
}

impl Stored for rusqlite::Row<'_> {
    fn integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.get(column).map_err(writer_error)
    }

    fn string(&self, column: usize) -> Result<Option<String>, StoreError> {
        self.get(column).map_err(writer_error)
    }
}

impl<R: Stored> Columns for R {
    fn optional_text(&self, column: usize) -> Result<Option<String>, StoreError> {
        self.string(column)
    }

    fn optional_integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.integer(column)
    }

    fn optional_sum(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.integer(column)
    }

    fn optional_money(&self, column: usize) -> Result<Option<Money>, StoreError> {
        Ok(self.integer(column)?.map(Money::from_micros))
    }

    fn optional_time(&self, column: usize) -> Result<Option<DateTime<Utc>>, StoreError> {
        let micros = self.integer(column)?;
        micros.map(|micros| DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt("time"))).transpose()
    }

    fn optional_day(&self, column: usize) -> Result<Option<NaiveDate>, StoreError> {
        self.string(column)?.map(|day| day.parse().map_err(|_| corrupt("day"))).transpose()
    }
}
