//! Columns of a row. Those with a binary collation arrive as bytes.

use sqlx::{ColumnIndex, Row, mysql::MySqlRow};

use crate::{
    biz::values::{error::StoreError, money::Money},
    data::error::{corrupt, store_error},
};

/// Text of any collation; `None` for NULL.
pub(super) fn optional_text<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<Option<String>, StoreError> {
    row.try_get::<Option<Vec<u8>>, _>(column)
        .map_err(store_error)?
        .map(|bytes| String::from_utf8(bytes).map_err(|_| corrupt("text")))
        .transpose()
}

/// Text of any collation.
pub(super) fn text<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<String, StoreError> {
    optional_text(row, column)?.ok_or_else(|| corrupt("text"))
}

pub(super) fn optional_money<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<Option<Money>, StoreError> {
    row.try_get::<Option<rust_decimal::Decimal>, _>(column)
        .map_err(store_error)?
        .map(|decimal| Money::from_decimal(decimal).ok_or_else(|| corrupt("amount")))
        .transpose()
}

/// An amount; NULL, as of an empty sum, is zero.
pub(super) fn money<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<Money, StoreError> {
    Ok(optional_money(row, column)?.unwrap_or_default())
}

/// A whole number that is not negative.
pub(super) fn number<T: TryFrom<i64>, I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<T, StoreError> {
    let value: i64 = row.try_get(column).map_err(store_error)?;
    T::try_from(value).map_err(|_| corrupt("number"))
}
