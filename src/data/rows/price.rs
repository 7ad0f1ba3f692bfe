//! Token prices: `price_version`.

use crate::{
    biz::{
        charge::prices::{StoredVersion, TokenPrices},
        values::{error::StoreError, invalid::Invalid},
    },
    data::row::Columns,
};

/// A version: model, begin, id, input, cached input, output. NULL for cached input means the price
/// of input.
///
/// # Errors
/// A row whose model or begin can't be read.
pub fn stored_version_of(row: &impl Columns) -> Result<StoredVersion, Invalid> {
    let key = row.text(0).and_then(|model| Ok((model, row.time(1)?)));
    let (model, effective_from) = key.map_err(|error| Invalid::new("price_version", error.to_string()))?;
    StoredVersion::parse(&model, effective_from, version_of(row))
}

fn version_of(row: &impl Columns) -> Result<(String, TokenPrices), StoreError> {
    let input = row.money(3)?;
    let cached_input = row.optional_money(4)?.unwrap_or(input);
    Ok((row.text(2)?, TokenPrices { input, cached_input, output: row.money(5)? }))
}
