//! Token prices, in the table `price_version`.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{Row, mysql::MySqlRow};

use super::{
    MySqlStore, audit_trail,
    statement::{LockMode, Row as StatementRow, Statement},
    transaction::BEGINNING,
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
        },
    },
    data::{error::store_error, rows::price::stored_version_of},
};

/// A page of the versions, after a model and an instant, in the columns of [`stored_version_of`].
const VERSIONS: &str = "\
    SELECT model, effective_from, version_id, input_price, cached_input_price, output_price, price_details \
    FROM price_version WHERE model > ? OR model = ? AND effective_from > ? ORDER BY model, effective_from LIMIT ?";

/// Every change of a row sets its `changed_at`. The sum also shows a change that was committed behind a
/// later one. An index has all of it.
const STAMP: &str = "\
    SELECT CONCAT_WS('/', COUNT(*), SUM(TIMESTAMPDIFF(MICROSECOND, '2000-01-01', changed_at))) FROM price_version";

#[async_trait]
impl PriceStore for MySqlStore {
    async fn price_stamp(&self) -> Result<Stamp, StoreError> {
        let rows = self.reader.fetch_all(sqlx::query(STAMP)).await?;
        rows.first().map_or(Ok(String::new()), |row| row.try_get(0).map_err(store_error))
    }

    async fn price_versions(&self) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError> {
        let mut versions = Vec::new();
        // Each page begins after the previous one, so the loop ends with the table.
        let mut after = Some((Vec::new(), NaiveDateTime::default()));
        while let Some((model, instant)) = after {
            let query = sqlx::query(VERSIONS).bind(model.clone()).bind(model).bind(instant).bind(PAGE);
            after = add_page(&mut versions, self.reader.fetch_all(query).await?).await?;
        }
        Ok(versions)
    }
}

/// Adds a page of versions. Returns the row after which the next page begins, if there may be one.
async fn add_page(
    versions: &mut Vec<Result<StoredVersion, Invalid>>,
    rows: Vec<MySqlRow>,
) -> Result<Option<(Vec<u8>, NaiveDateTime)>, StoreError> {
    let next = rows.last().filter(|_| rows.len() == PAGE as usize).map(key_of).transpose()?;
    let parse = move || rows.iter().map(stored_version_of).collect::<Vec<_>>();
    versions.extend(blocking(parse).await?);
    Ok(next)
}

/// The stored key of a row. The model of an unusable row may not be text.
fn key_of(row: &MySqlRow) -> Result<(Vec<u8>, NaiveDateTime), StoreError> {
    Ok((row.try_get(0).map_err(store_error)?, row.try_get(1).map_err(store_error)?))
}

/// The columns of [`stored_version_of`].
const COLUMNS: &str = "model, effective_from, version_id, input_price, cached_input_price, output_price, price_details";

#[async_trait]
impl VersionStore for MySqlStore {
    async fn put_price_version(
        &self,
        version: &NewVersion,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<error::Result<bool>, StoreError> {
        let mut read = reading(&version.model, call);
        read.push(" AND (effective_from = ").instant(version.effective_from);
        read.push(" OR version_id = ").texts([version.id.as_str()]).push(")").push(end_of_read(call));
        if call.is_previewed() {
            of_model(&mut read, &version.model).push("; ");
        }
        self.change_version(
            read,
            |stored, all| version.decide(stored, all, call, now),
            |packet| {
                packet.push("DELETE FROM price_version WHERE model = ").texts([version.model.as_str()]);
                packet.push(" AND effective_from = ").instant(version.effective_from).push("; ");
                packet.push("INSERT INTO price_version (").push(COLUMNS).push(") VALUES ");
                packet.rows([version], insert).push("; ");
            },
        )
        .await
    }

    async fn delete_price_version(
        &self,
        key: &VersionKey,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<error::Result<bool>, StoreError> {
        let mut read = reading(&key.model, call);
        read.push(" AND version_id = ").texts([key.id.as_str()]).push(end_of_read(call));
        self.change_version(
            read,
            |stored, _| key.decide(stored.first(), call, now),
            |packet| {
                packet.push("DELETE FROM price_version WHERE model = ").texts([key.model.as_str()]);
                packet.push(" AND version_id = ").texts([key.id.as_str()]).push("; ");
            },
        )
        .await
    }
}

/// The begin of a change, after [`ROWS`] statements without rows: versions of a model.
///
/// A row that is not there can't be locked, so all changes lock one row. They also write it, so that two nodes of Galera
/// can't both commit one. A preview locks nothing, so that it neither waits for an import of prices nor holds it up.
fn reading(model: &ModelName, call: &AuditedCall) -> Statement {
    let mut read = Statement::beginning(LockMode::Wait);
    read.push(match call.is_preview() {
        true => "DO 0; ",
        false => {
            "INSERT INTO price_change (only_row, changes) VALUES (1, 1) ON DUPLICATE KEY UPDATE changes = changes + 1; "
        }
    });
    of_model(&mut read, model);
    read
}

fn end_of_read(call: &AuditedCall) -> &'static str {
    if call.is_preview() { "; " } else { LockMode::Wait.suffix() }
}

/// Statements of [`reading`] before the one with the rows.
const ROWS: usize = BEGINNING + 1;

fn of_model<'s>(read: &'s mut Statement, model: &ModelName) -> &'s mut Statement {
    read.push("SELECT ").push(COLUMNS).push(" FROM price_version WHERE model = ").texts([model.as_str()])
}

fn insert(row: &mut StatementRow<'_>, version: &NewVersion) {
    let price = |class| version.prices.base().given(class);
    row.text(version.model.as_str())
        .instant(version.effective_from)
        .text(version.id.as_str())
        .optional(price(Class::Input), StatementRow::money)
        .optional(price(Class::CachedInput), StatementRow::money)
        .optional(price(Class::Output), StatementRow::money)
        .optional(json::beside_columns(&version.prices).as_deref(), StatementRow::text);
}

fn versions_of(rows: &[MySqlRow]) -> Result<Vec<StoredVersion>, StoreError> {
    let stored: Result<_, Invalid> = rows.iter().map(stored_version_of).collect();
    stored.map_err(|error| StoreError::Failed(error.to_string()))
}

impl MySqlStore {
    /// Changes a version by the decision about the rows of the first and of the second statement of `read`.
    async fn change_version(
        &self,
        read: Statement,
        decide: impl Fn(&[StoredVersion], &[StoredVersion]) -> Change + Send + Sync,
        write: impl Fn(&mut Statement) + Send + Sync,
    ) -> Result<error::Result<bool>, StoreError> {
        let outcome = Mutex::new(Ok(false));
        self.change_sets(read, |sets| {
            let stored = |set| versions_of(sets.get(set).map_or(&[], Vec::as_slice));
            let (decided, packet) = match decide(&stored(ROWS)?, &stored(ROWS + 1)?) {
                Change::Unchanged => (Ok(false), None),
                Change::Refused(why) => (Err(why), None),
                Change::Write(event) => {
                    let packet = Statement::committing(LockMode::Wait, |packet| {
                        write(packet);
                        audit_trail::insert(packet, &[*event]);
                    });
                    (Ok(true), Some(packet))
                }
            };
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = decided;
            Ok(packet)
        })
        .await?;
        Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
