//! The columns of a row, whichever driver read it: sqlx for the readers, rusqlite for the writer.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::writer::writer_error;
use crate::{
    biz::values::{error::StoreError, money::Money},
    data::error::{corrupt, store_error},
};

/// A row by the positions of its columns.
pub(super) trait Row {
    fn integer(&self, column: usize) -> Result<Option<i64>, StoreError>;
    fn string(&self, column: usize) -> Result<Option<String>, StoreError>;
}

impl Row for SqliteRow {
    fn integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(column).map_err(store_error)
    }

    fn string(&self, column: usize) -> Result<Option<String>, StoreError> {
        self.try_get(column).map_err(store_error)
    }
}

impl Row for rusqlite::Row<'_> {
    fn integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.get(column).map_err(writer_error)
    }

    fn string(&self, column: usize) -> Result<Option<String>, StoreError> {
        self.get(column).map_err(writer_error)
    }
}

pub(super) fn text(row: &impl Row, column: usize) -> Result<String, StoreError> {
    row.string(column)?.ok_or_else(|| corrupt("text"))
}

pub(super) fn optional_text(row: &impl Row, column: usize) -> Result<Option<String>, StoreError> {
    row.string(column)
}

/// An amount; NULL, as of an empty sum, is zero.
pub(super) fn money(row: &impl Row, column: usize) -> Result<Money, StoreError> {
    Ok(optional_money(row, column)?.unwrap_or_default())
}

pub(super) fn optional_money(row: &impl Row, column: usize) -> Result<Option<Money>, StoreError> {
    Ok(row.integer(column)?.map(Money::from_micros))
}

/// A whole number that is not negative.
pub(super) fn number<T: TryFrom<i64>>(row: &impl Row, column: usize) -> Result<T, StoreError> {
    row.integer(column)?.and_then(|value| T::try_from(value).ok()).ok_or_else(|| corrupt("number"))
}

pub(super) fn instant(row: &impl Row, column: usize) -> Result<DateTime<Utc>, StoreError> {
    row.integer(column)?.and_then(DateTime::from_timestamp_micros).ok_or_else(|| corrupt("time"))
}

pub(super) fn day_of(row: &impl Row, column: usize) -> Result<NaiveDate, StoreError> {
    text(row, column)?.parse().map_err(|_| corrupt("day"))
}
