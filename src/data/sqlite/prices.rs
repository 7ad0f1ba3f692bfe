//! Token prices, in the table `price_version`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Params, TransactionBehavior, params};
use sqlx::sqlite::SqliteRow;

use super::{
    SqliteStore, audit_trail,
    writer::{commit, writer_error},
};
use crate::{
    biz::{
        audit_trail::AuditedCall,
        charge::prices::{
            Change, Class, NewVersion, PAGE, PriceStore, Stamp, StoredVersion, VersionKey, VersionStore, blocking, json,
        },
        values::{
            error::{self, StoreError},
            ids::ModelName,
            invalid::Invalid,
            money::Money,
        },
    },
    data::{error::store_error, row::Columns, rows::price::stored_version_of},
};

/// A page of the versions, after a model and an instant.
const VERSIONS: &str = "\
    SELECT model, effective_from, version_id, input_price, cached_input_price, output_price, price_details \
    FROM price_version WHERE (model, effective_from) > (?, ?) ORDER BY model, effective_from LIMIT ?";

/// Triggers count the changes of the rows. The table itself is named, so that its absence is an error.
const STAMP: &str = "\
    SELECT CAST(changes AS TEXT), (SELECT COUNT(*) FROM (SELECT 1 FROM price_version LIMIT 1)) FROM price_change";

#[async_trait]
impl PriceStore for SqliteStore {
    async fn price_stamp(&self) -> Result<Stamp, StoreError> {
        sqlx::query(STAMP).fetch_one(&self.reader).await.map_err(store_error)?.text(0)
    }

    async fn price_versions(&self) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError> {
        let mut versions = Vec::new();
        // Each page begins after the previous one, so the loop ends with the table. Instants begin in 1970.
        let mut after = Some((String::new(), i64::MIN));
        while let Some((model, instant)) = after {
            let page = sqlx::query(VERSIONS).bind(model).bind(instant).bind(PAGE).fetch_all(&self.reader);
            after = add_page(&mut versions, page.await.map_err(store_error)?).await?;
        }
        Ok(versions)
    }
}

/// Adds a page of versions. Returns the row after which the next page begins, if there may be one.
async fn add_page(
    versions: &mut Vec<Result<StoredVersion, Invalid>>,
    rows: Vec<SqliteRow>,
) -> Result<Option<(String, i64)>, StoreError> {
    let next = rows.last().filter(|_| rows.len() == PAGE as usize).map(key_of).transpose()?;
    let parse = move || rows.iter().map(stored_version_of).collect::<Vec<_>>();
    versions.extend(blocking(parse).await?);
    Ok(next)
}

/// The stored key of a row. The instant of an unusable row may not be valid.
fn key_of(row: &SqliteRow) -> Result<(String, i64), StoreError> {
    Ok((row.text(0)?, row.number(1)?))
}

#[async_trait]
impl VersionStore for SqliteStore {
    async fn put_price_version(
        &self,
        version: &NewVersion,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<error::Result<bool>, StoreError> {
        let (version, call) = (version.clone(), call.clone());
        let put = move |connection: &mut Connection| {
            let NewVersion { model, effective_from, id, prices, .. } = &version;
            let (from, price) =
                (effective_from.timestamp_micros(), |class| prices.base().given(class).map(Money::micros));
            change(
                connection,
                (" AND (effective_from = ? OR version_id = ?)", params![model.as_str(), from, id.as_str()]),
                call.is_previewed().then_some(model),
                |stored, all| version.decide(stored, all, &call, now),
                |transaction| {
                    transaction.execute(
                        "INSERT INTO price_version (model, effective_from, version_id, input_price, cached_input_price, \
                         output_price, price_details) VALUES (?, ?, ?, ?, ?, ?, ?) \
                         ON CONFLICT (model, effective_from) DO UPDATE SET version_id = excluded.version_id, \
                         input_price = excluded.input_price, cached_input_price = excluded.cached_input_price, \
                         output_price = excluded.output_price, price_details = excluded.price_details",
                        params![
                            model.as_str(),
                            from,
                            id.as_str(),
                            price(Class::Input),
                            price(Class::CachedInput),
                            price(Class::Output),
                            json::beside_columns(prices),
                        ],
                    )
                },
            )
        };
        self.writer.run(put).await
    }

    async fn delete_price_version(
        &self,
        key: &VersionKey,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<error::Result<bool>, StoreError> {
        let (key, call) = (key.clone(), call.clone());
        let delete = move |connection: &mut Connection| {
            let named = params![key.model.as_str(), key.id.as_str()];
            change(
                connection,
                (" AND version_id = ?", named),
                None,
                |stored, _| key.decide(stored.first(), &call, now),
                |transaction| {
                    transaction.execute("DELETE FROM price_version WHERE model = ? AND version_id = ?", named)
                },
            )
        };
        self.writer.run(delete).await
    }
}

/// Changes a version by the decision about the rows of its model that match a condition, and about all rows of the model
/// `beside`.
fn change(
    connection: &mut Connection,
    (condition, values): (&str, impl Params),
    beside: Option<&ModelName>,
    decide: impl FnOnce(&[StoredVersion], &[StoredVersion]) -> Change,
    write: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<usize>,
) -> Result<error::Result<bool>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let stored = versions(&transaction, condition, values)?;
    let all = match beside {
        Some(model) => versions(&transaction, "", params![model.as_str()])?,
        None => Vec::new(),
    };
    match decide(&stored, &all) {
        Change::Unchanged => Ok(Ok(false)),
        Change::Refused(why) => Ok(Err(why)),
        Change::Write(event) => {
            write(&transaction).map_err(writer_error)?;
            audit_trail::insert(&transaction, &[*event]).map_err(writer_error)?;
            commit(transaction)?;
            Ok(Ok(true))
        }
    }
}

/// The versions of a model that match a condition.
fn versions(connection: &Connection, condition: &str, values: impl Params) -> Result<Vec<StoredVersion>, StoreError> {
    let select = format!(
        "SELECT model, effective_from, version_id, input_price, cached_input_price, output_price, price_details \
         FROM price_version WHERE model = ?{condition}"
    );
    let mut find = connection.prepare(&select).map_err(writer_error)?;
    let mut rows = find.query(values).map_err(writer_error)?;
    let mut stored = Vec::new();
    while let Some(row) = rows.next().map_err(writer_error)? {
        stored.push(stored_version_of(row).map_err(|error| StoreError::Failed(error.to_string()))?);
    }
    Ok(stored)
}
