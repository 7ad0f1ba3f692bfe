//! Token prices: `price_version`.

use crate::{
    biz::{
        charge::prices::{
            Class, Draft, StoredVersion,
            json::{self, OfTransaction},
        },
        values::{error::StoreError, invalid::Invalid},
    },
    data::row::Columns,
};

/// A version: model, begin, id, input, cached input, output, details. NULL for cached input means the
/// price of input; NULL for details, no other prices.
///
/// # Errors
/// A row whose model or begin can't be read.
pub fn stored_version_of(row: &impl Columns) -> Result<StoredVersion, Invalid> {
    let key = row.text(0).and_then(|model| Ok((model, row.time(1)?)));
    let (model, effective_from) = key.map_err(|error| Invalid::new("price_version", error.to_string()))?;
    StoredVersion::parse(&model, effective_from, version_of(row))
}

fn version_of(row: &impl Columns) -> Result<(String, Draft), Invalid> {
    let unreadable = |error: StoreError| Invalid::new("price", error.to_string());
    let id = row.text(2).map_err(unreadable)?;
    let (draft, of_transaction) = draft_of(row, 3, 6).map_err(unreadable)??;
    if of_transaction != OfTransaction::NONE {
        return Err(Invalid::new("price_details", "multiplier, quota_weights: belong to transactions"));
    }
    Ok((id, draft))
}

/// The prices in three columns from `first` on, and in the column `details`, which may also have details
/// of a transaction.
pub fn draft_of(
    row: &impl Columns,
    first: usize,
    details: usize,
) -> Result<Result<(Draft, OfTransaction), Invalid>, StoreError> {
    let mut draft = Draft::default();
    for (column, class) in (first..).zip([Class::Input, Class::CachedInput, Class::Output]) {
        draft.given[class as usize] = row.optional_money(column)?;
    }
    let details = row.optional_text(details)?;
    let read = details.map_or(Ok(OfTransaction::NONE), |details| json::read_beside(&mut draft, &details));
    Ok(read.map(|of_transaction| (draft, of_transaction)))
}
