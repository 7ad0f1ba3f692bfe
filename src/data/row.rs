//! The columns of a row of either database. [`super::rows`] decodes each row once, from the types
//! that the databases store.

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use super::error::corrupt;
use crate::biz::values::{error::StoreError, money::Money};

/// A row, by the positions of its columns. An optional value is `None` for NULL.
///
/// Each method fails with [`StoreError::Failed`] on a value of another type.
pub(super) trait Columns {
    fn optional_text(&self, column: usize) -> Result<Option<String>, StoreError>;

    fn optional_integer(&self, column: usize) -> Result<Option<i64>, StoreError>;

    /// The sum of a column of whole numbers, which some databases return as a decimal.
    fn optional_sum(&self, column: usize) -> Result<Option<i64>, StoreError>;

    fn optional_money(&self, column: usize) -> Result<Option<Money>, StoreError>;

    fn optional_time(&self, column: usize) -> Result<Option<DateTime<Utc>>, StoreError>;

    fn optional_day(&self, column: usize) -> Result<Option<NaiveDate>, StoreError>;

    fn text(&self, column: usize) -> Result<String, StoreError> {
        self.optional_text(column)?.ok_or_else(|| corrupt("text"))
    }

    /// A number within the bounds of its type.
    fn number<T: TryFrom<i64>>(&self, column: usize) -> Result<T, StoreError> {
        self.optional_number(column)?.ok_or_else(|| corrupt("number"))
    }

    fn optional_number<T: TryFrom<i64>>(&self, column: usize) -> Result<Option<T>, StoreError> {
        let number = self.optional_integer(column)?;
        number.map(|number| T::try_from(number).map_err(|_| corrupt("number"))).transpose()
    }

    fn sum(&self, column: usize) -> Result<i64, StoreError> {
        self.optional_sum(column)?.ok_or_else(|| corrupt("number"))
    }

    /// An amount. NULL, the sum of no rows, is zero.
    fn money(&self, column: usize) -> Result<Money, StoreError> {
        Ok(self.optional_money(column)?.unwrap_or_default())
    }

    fn time(&self, column: usize) -> Result<DateTime<Utc>, StoreError> {
        self.optional_time(column)?.ok_or_else(|| corrupt("time"))
    }

    fn day(&self, column: usize) -> Result<NaiveDate, StoreError> {
        self.optional_day(column)?.ok_or_else(|| corrupt("day"))
    }

    fn uuid(&self, column: usize) -> Result<Uuid, StoreError> {
        self.text(column)?.parse().map_err(|_| corrupt("id"))
    }
}
