//! Token prices: rows of `price_version`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Row, mysql::MySqlRow};

use super::MySqlStore;
use crate::{
    biz::{
        charge::prices::{MAX_STORED, PriceStore, StoredVersion, TokenPrices},
        values::{error::StoreError, invalid::Invalid},
    },
    data::{
        error::store_error,
        mysql::row::{money, optional_money, text},
    },
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
                let effective_from = row.try_get::<DateTime<Utc>, _>(1).map_err(store_error);
                let (model, effective_from) =
                    text(row, 0).and_then(|model| Ok((model, effective_from?))).map_err(unread)?;
                StoredVersion::parse(&model, effective_from, version_of(row))
            })
            .map(Ok)
            .collect()
    }
}

fn unread(error: StoreError) -> Invalid {
    Invalid::new("price_version", error.to_string())
}

fn version_of(row: &MySqlRow) -> Result<(String, TokenPrices), StoreError> {
    let input = money(row, 3)?;
    let cached_input = optional_money(row, 4)?.unwrap_or(input);
    Ok((text(row, 2)?, TokenPrices { input, cached_input, output: money(row, 5)? }))
}
