//! Runs of jobs, in the table `job_run`, and their leases, in `job_lease`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use sqlx::QueryBuilder;

use crate::{
    biz::{
        jobs::runs::{Begun, LEASE, REMEMBERED, Run, RunReader, RunStore, StoredRun},
        values::error::StoreError,
    },
    data::{
        error::store_error,
        row::Columns,
        rows::jobs::{LAST_RUNS, stored_run_of},
        sqlite::{SqliteStore, writer::writer_error},
    },
};

/// The current time in microseconds. All processes that use the file run on one machine, so they
/// share its clock.
pub(in crate::data::sqlite) const NOW: &str = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";

#[async_trait]
impl RunStore for SqliteStore {
    async fn begin_run(&self, run: &Run) -> Result<Begun, StoreError> {
        let run = run.clone();
        self.writer.run(move |connection| begin(connection, &run).map_err(writer_error)).await
    }

    async fn renew_run(&self, run: &Run, position: Option<&str>) -> Result<bool, StoreError> {
        let (run, position) = (run.clone(), position.map(str::to_owned));
        let renew = self.writer.run(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
            let renewed = transaction
                .execute(
                    &format!(
                        "UPDATE job_lease SET ends_at = {NOW} + ? WHERE job = ? AND owner = ? AND ends_at > {NOW}"
                    ),
                    params![LEASE.as_micros() as i64, run.job, run.owner],
                )
                .map_err(writer_error)?;
            if renewed > 0
                && let Some(position) = position
            {
                transaction
                    .execute(
                        "UPDATE job_run SET position = ? WHERE job = ? AND period = ?",
                        params![position, run.job, run.key()],
                    )
                    .map_err(writer_error)?;
            }
            transaction.commit().map_err(writer_error)?;
            Ok(renewed > 0)
        });
        renew.await
    }

    async fn end_run(&self, run: &Run, is_done: bool) -> Result<(), StoreError> {
        let run = run.clone();
        self.writer.run(move |connection| end(connection, &run, is_done).map_err(writer_error)).await
    }

    async fn store_run(&self, job: &'static str, period: &str, position: Option<&str>) -> Result<(), StoreError> {
        let write = format!(
            "INSERT OR IGNORE INTO job_run (job, period, position, started_at, finished_at) VALUES (?, ?, ?, {NOW}, {NOW})"
        );
        let (period, position) = (period.to_owned(), position.map(str::to_owned));
        self.writer
            .run(move |connection| {
                connection.execute(&write, params![job, period, position]).map(|_| ()).map_err(writer_error)
            })
            .await
    }

    async fn take_lease(&self, job: &'static str, owner: &str) -> Result<bool, StoreError> {
        let owner = owner.to_owned();
        let taking = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let is_taken = take(&transaction, job, &owner)?;
            transaction.commit()?;
            Ok(is_taken)
        };
        self.writer.run(move |connection| taking(connection).map_err(writer_error)).await
    }

    async fn give_lease_back(&self, job: &'static str, owner: &str) -> Result<(), StoreError> {
        let owner = owner.to_owned();
        self.writer.run(move |connection| give_back(connection, job, &owner).map_err(writer_error)).await
    }
}

/// Takes a lease; false if another process has it.
fn take(connection: &Connection, job: &str, owner: &str) -> rusqlite::Result<bool> {
    connection
        .execute("INSERT INTO job_lease (job, owner, ends_at) VALUES (?, '', 0) ON CONFLICT DO NOTHING", [job])?;
    let take = format!(
        "UPDATE job_lease SET owner = ?1, ends_at = {NOW} + ?2 WHERE job = ?3 AND (ends_at <= {NOW} OR owner IN (?1, ''))"
    );
    Ok(connection.execute(&take, params![owner, LEASE.as_micros() as i64, job])? > 0)
}

fn give_back(connection: &Connection, job: &str, owner: &str) -> rusqlite::Result<()> {
    // It has no owner then, because the clock may step back.
    let end = format!("UPDATE job_lease SET owner = '', ends_at = {NOW} WHERE job = ? AND owner = ?");
    connection.execute(&end, params![job, owner]).map(|_| ())
}

#[async_trait]
impl RunReader for SqliteStore {
    async fn last_runs(&self, job: &str, limit: u32) -> Result<Vec<StoredRun>, StoreError> {
        let query = sqlx::query(LAST_RUNS).bind(job).bind(limit);
        query.fetch_all(&self.reader).await.map_err(store_error)?.iter().map(stored_run_of).collect()
    }

    async fn leased_jobs(&self) -> Result<Vec<String>, StoreError> {
        let mut query = QueryBuilder::new("SELECT job FROM job_lease WHERE owner <> '' AND ends_at > ");
        let query = query.push(NOW).build();
        query.fetch_all(&self.reader).await.map_err(store_error)?.iter().map(|row| row.text(0)).collect()
    }
}

fn begin(connection: &mut Connection, run: &Run) -> rusqlite::Result<Begun> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_done: Option<bool> = transaction
        .query_row(
            "SELECT finished_at IS NOT NULL FROM job_run WHERE job = ? AND period = ?",
            params![run.job, run.key()],
            |row| row.get(0),
        )
        .optional()?;
    if !take(&transaction, run.job, &run.owner)? {
        return Ok(Begun::Elsewhere);
    }
    if is_done == Some(true) {
        return Ok(Begun::Done);
    }
    if let Some(began) = run.shared_period() {
        transaction.execute(
            "DELETE FROM job_run WHERE job = ?1 AND period LIKE ?2 || ' %' AND period NOT LIKE ?3 || '%'",
            params![run.job, began, run.period],
        )?;
    }
    transaction.execute(
        &format!("INSERT INTO job_run (job, period, started_at) VALUES (?, ?, {NOW}) ON CONFLICT DO NOTHING"),
        params![run.job, run.key()],
    )?;
    let position = transaction.query_row(
        "SELECT position FROM job_run WHERE job = ? AND period = ?",
        params![run.job, run.key()],
        |row| row.get(0),
    )?;
    transaction.commit()?;
    Ok(Begun::Ours { position })
}

fn end(connection: &mut Connection, run: &Run, is_done: bool) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_ours = "SELECT 1 FROM job_lease WHERE job = ? AND owner = ?";
    // The end of a run may be stored again after its answer was lost, and another run may have begun since.
    if is_done && transaction.prepare_cached(is_ours)?.exists(params![run.job, run.owner])? {
        if run.is_by_hand {
            transaction.execute("DELETE FROM job_run WHERE job = ? AND period LIKE '% by hand'", [run.job])?;
        } else {
            transaction.execute(
                &format!("UPDATE job_run SET finished_at = {NOW} WHERE job = ? AND period = ?"),
                params![run.job, run.key()],
            )?;
        }
        // Periods begin with their day, and the key with the period.
        transaction.execute(
            &format!(
                "DELETE FROM job_run WHERE job = ?1 AND period < date('now', '-' || ?2 || ' seconds') \
                 AND started_at < {NOW} - ?2 * 1000000"
            ),
            params![run.job, REMEMBERED.as_secs() as i64],
        )?;
    }
    give_back(&transaction, run.job, &run.owner)?;
    transaction.commit()
}
