//! Runs of jobs: rows of `job_run`, and of `job_lease`.

use async_trait::async_trait;
use sqlx::Row;

use super::{MySqlStore, optional_text, store_error};
use crate::biz::{
    error::StoreError,
    runs::{Begun, LEASE, REMEMBERED, Run, RunStore},
};

#[async_trait]
impl RunStore for MySqlStore {
    async fn begin_run(&self, run: &Run) -> Result<Begun, StoreError> {
        let mut connection = self.reader.take().await?;
        // First, so that who only looks keeps nobody from running the job.
        let done = sqlx::query("SELECT 1 FROM job_run WHERE job = ? AND period = ? AND finished_at IS NOT NULL")
            .bind(run.job)
            .bind(&run.period)
            .fetch_optional(&mut *connection)
            .await
            .map_err(store_error)?;
        if done.is_some() {
            connection.give_back();
            return Ok(Begun::Done);
        }
        sqlx::query("INSERT IGNORE INTO job_lease (job, owner, ends_at) VALUES (?, '', '1970-01-02')")
            .bind(run.job)
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
        let taken = sqlx::query(
            "UPDATE job_lease SET owner = ?, ends_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND \
             WHERE job = ? AND (ends_at <= UTC_TIMESTAMP(6) OR owner = ?)",
        )
        .bind(&run.owner)
        .bind(LEASE.as_secs())
        .bind(run.job)
        .bind(&run.owner)
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
        if taken.rows_affected() == 0 {
            connection.give_back();
            return Ok(Begun::Elsewhere);
        }
        // Nobody else begins a run of the job while the lease is ours.
        sqlx::query("INSERT IGNORE INTO job_run (job, period, started_at) VALUES (?, ?, UTC_TIMESTAMP(6))")
            .bind(run.job)
            .bind(&run.period)
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
        let row = sqlx::query("SELECT position, finished_at IS NOT NULL FROM job_run WHERE job = ? AND period = ?")
            .bind(run.job)
            .bind(&run.period)
            .fetch_one(&mut *connection)
            .await
            .map_err(store_error)?;
        connection.give_back();
        let is_done: i64 = row.try_get(1).map_err(store_error)?;
        if is_done == 0 {
            return Ok(Begun::Ours { position: optional_text(&row, 0)? });
        }
        self.give_lease_back(run).await?;
        Ok(Begun::Done)
    }

    async fn renew_run(&self, run: &Run, position: Option<&str>) -> Result<bool, StoreError> {
        let mut connection = self.reader.take().await?;
        let renewed = sqlx::query(
            "UPDATE job_lease l LEFT JOIN job_run r ON r.job = l.job AND r.period = ? \
             SET l.ends_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND, r.position = COALESCE(?, r.position) \
             WHERE l.job = ? AND l.owner = ? AND l.ends_at > UTC_TIMESTAMP(6)",
        )
        .bind(&run.period)
        .bind(LEASE.as_secs())
        .bind(position)
        .bind(run.job)
        .bind(&run.owner)
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
        connection.give_back();
        Ok(renewed.rows_affected() > 0)
    }

    async fn end_run(&self, run: &Run, is_done: bool) -> Result<(), StoreError> {
        if is_done {
            let mut connection = self.reader.take().await?;
            sqlx::query("UPDATE job_run SET finished_at = UTC_TIMESTAMP(6) WHERE job = ? AND period = ?")
                .bind(run.job)
                .bind(&run.period)
                .execute(&mut *connection)
                .await
                .map_err(store_error)?;
            if let Some(began) = run.shared_period() {
                sqlx::query("DELETE FROM job_run WHERE job = ? AND period LIKE CONCAT(?, ' %') AND period <> ?")
                    .bind(run.job)
                    .bind(began)
                    .bind(&run.period)
                    .execute(&mut *connection)
                    .await
                    .map_err(store_error)?;
            }
            sqlx::query("DELETE FROM job_run WHERE job = ? AND started_at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND")
                .bind(run.job)
                .bind(REMEMBERED.as_secs())
                .execute(&mut *connection)
                .await
                .map_err(store_error)?;
            connection.give_back();
        }
        self.give_lease_back(run).await
    }
}

impl MySqlStore {
    async fn give_lease_back(&self, run: &Run) -> Result<(), StoreError> {
        let mut connection = self.reader.take().await?;
        sqlx::query("UPDATE job_lease SET ends_at = UTC_TIMESTAMP(6) WHERE job = ? AND owner = ?")
            .bind(run.job)
            .bind(&run.owner)
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
        connection.give_back();
        Ok(())
    }
}
