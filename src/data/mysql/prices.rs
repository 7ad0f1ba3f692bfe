//! Token prices: rows of `price_version`.

use async_trait::async_trait;

use super::MySqlStore;
use crate::{
    biz::{
        charge::prices::{MAX_STORED, PriceStore, StoredVersion},
        values::{error::StoreError, invalid::Invalid},
    },
    data::rows::price::stored_version_of,
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
        Ok(rows.iter().map(stored_version_of).collect())
    }
}
