//! Token prices: rows of `price_version`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Row, mysql::MySqlRow};

use super::{MySqlStore, money, optional_money, store_error, text};
use crate::biz::{
    error::{Invalid, StoreError},
    prices::{MAX_STORED, PriceStore, StoredVersion, TokenPrices},
};

#[async_trait]
impl PriceStore for MySqlStore {
    async fn price_versions(&self) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError> {
        let query = sqlx::query(
            "SELECT model, effective_from, version_id, input_price, cached_input_price, output_price \
             FROM price_version LIMIT ?",
        )
        .bind(MAX_STORED as u32 + 1);
        let rows = self.reader.fetch_all(query).await?;
        rows.iter()
            .map(|row| {
                let effective_from: DateTime<Utc> = row.try_get(1).map_err(store_error)?;
                Ok(StoredVersion::parse(&text(row, 0)?, effective_from, version_of(row)))
            })
            .collect()
    }
}

fn version_of(row: &MySqlRow) -> Result<(String, TokenPrices), StoreError> {
    let input = money(row, 3)?;
    let cached_input = optional_money(row, 4)?.unwrap_or(input);
    Ok((text(row, 2)?, TokenPrices { input, cached_input, output: money(row, 5)? }))
}
