//! Columns of MySQL. Texts with a binary collation arrive as bytes, amounts and sums as decimals.

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use sqlx::{Row, mysql::MySqlRow};

use crate::{
    biz::values::{error::StoreError, money::Money},
    data::{
        error::{corrupt, store_error},
        row::Columns,
    },
};

impl Columns for MySqlRow {
    fn optional_text(&self, column: usize) -> Result<Option<String>, StoreError> {
        let bytes: Option<Vec<u8>> = self.try_get(column).map_err(store_error)?;
        bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| corrupt("text"))).transpose()
    }

    fn optional_integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(column).map_err(store_error)
    }

    fn optional_sum(&self, column: usize) -> Result<Option<i64>, StoreError> {
        let sum: Option<Decimal> = self.try_get(column).map_err(store_error)?;
        sum.map(|sum| i64::try_from(sum).map_err(|_| corrupt("number"))).transpose()
    }

    fn optional_money(&self, column: usize) -> Result<Option<Money>, StoreError> {
        let amount: Option<Decimal> = self.try_get(column).map_err(store_error)?;
        amount.map(|amount| Money::from_decimal(amount).ok_or_else(|| corrupt("amount"))).transpose()
    }

    fn optional_time(&self, column: usize) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.try_get(column).map_err(store_error)
    }

    fn optional_day(&self, column: usize) -> Result<Option<NaiveDate>, StoreError> {
        self.try_get(column).map_err(store_error)
    }
}
