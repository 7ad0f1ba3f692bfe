//! Runs of jobs, in the table `job_run`, and their leases, in `job_lease`.

use async_trait::async_trait;

use crate::{
    biz::{
        jobs::runs::{Begun, LEASE, REMEMBERED, Run, RunReader, RunStore, StoredRun},
        values::error::StoreError,
    },
    data::{
        mysql::MySqlStore,
        row::Columns,
        rows::jobs::{LAST_RUNS, stored_run_of},
    },
};

#[async_trait]
impl RunStore for MySqlStore {
    async fn begin_run(&self, run: &Run) -> Result<Begun, StoreError> {
        // This check comes before the lock of the lease, so that a process that only looks blocks
        // no run.
        let done = sqlx::query("SELECT 1 FROM job_run WHERE job = ? AND period = ? AND finished_at IS NOT NULL")
            .bind(run.job)
            .bind(run.key());
        if !self.reader.fetch_all(done).await?.is_empty() {
            return Ok(Begun::Done);
        }
        if !self.take_lease(run.job, &run.owner).await? {
            return Ok(Begun::Elsewhere);
        }
        // No other process begins a run of the job while this one has the lease.
        if let Some(began) = run.shared_period() {
            let undo = sqlx::query(
                "DELETE FROM job_run WHERE job = ? AND period LIKE CONCAT(?, ' %') AND period NOT LIKE CONCAT(?, '%')",
            );
            self.reader.execute(undo.bind(run.job).bind(began).bind(&run.period)).await?;
        }
        let begin = sqlx::query("INSERT IGNORE INTO job_run (job, period, started_at) VALUES (?, ?, UTC_TIMESTAMP(6))");
        self.reader.execute(begin.bind(run.job).bind(run.key())).await?;
        let find = sqlx::query("SELECT position, finished_at IS NOT NULL FROM job_run WHERE job = ? AND period = ?");
        let rows = self.reader.fetch_all(find.bind(run.job).bind(run.key())).await?;
        let row = rows.first().ok_or_else(|| StoreError::Failed("the row of the new run is missing".into()))?;
        if row.number::<i64>(1)? == 0 {
            return Ok(Begun::Ours { position: row.optional_text(0)? });
        }
        self.give_lease_back(run.job, &run.owner).await?;
        Ok(Begun::Done)
    }

    async fn renew_run(&self, run: &Run, position: Option<&str>) -> Result<bool, StoreError> {
        let renew = sqlx::query(
            "UPDATE job_lease l LEFT JOIN job_run r ON r.job = l.job AND r.period = ? \
             SET l.ends_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND, r.position = COALESCE(?, r.position) \
             WHERE l.job = ? AND l.owner = ? AND l.ends_at > UTC_TIMESTAMP(6)",
        );
        let renew = renew.bind(run.key()).bind(LEASE.as_secs()).bind(position).bind(run.job).bind(&run.owner);
        Ok(self.reader.execute(renew).await? > 0)
    }

    async fn end_run(&self, run: &Run, is_done: bool) -> Result<(), StoreError> {
        if is_done {
            // The end of a run may be stored again after its answer was lost, and another run may have begun since.
            let end = if run.is_by_hand {
                let end = "DELETE r FROM job_run r JOIN job_lease l ON l.job = r.job AND l.owner = ? \
                           WHERE r.job = ? AND r.period LIKE '% by hand'";
                sqlx::query(end).bind(&run.owner).bind(run.job)
            } else {
                let end = "UPDATE job_run r JOIN job_lease l ON l.job = r.job AND l.owner = ? \
                           SET r.finished_at = UTC_TIMESTAMP(6) WHERE r.job = ? AND r.period = ?";
                sqlx::query(end).bind(&run.owner).bind(run.job).bind(run.key())
            };
            self.reader.execute(end).await?;
            // Periods begin with their day, and the key with the period.
            let forget = sqlx::query(
                "DELETE FROM job_run WHERE job = ? AND period < DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL ? SECOND, '%Y-%m-%d') \
                 AND started_at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND",
            );
            self.reader.execute(forget.bind(run.job).bind(REMEMBERED.as_secs()).bind(REMEMBERED.as_secs())).await?;
        }
        self.give_lease_back(run.job, &run.owner).await
    }

    async fn store_run(&self, job: &'static str, period: &str, position: Option<&str>) -> Result<(), StoreError> {
        let write = sqlx::query(
            "INSERT IGNORE INTO job_run (job, period, position, started_at, finished_at) \
             VALUES (?, ?, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        );
        self.reader.execute(write.bind(job).bind(period).bind(position)).await.map(|_| ())
    }

    async fn take_lease(&self, job: &'static str, owner: &str) -> Result<bool, StoreError> {
        let lease = sqlx::query("INSERT IGNORE INTO job_lease (job, owner, ends_at) VALUES (?, '', '1970-01-02')");
        let take = sqlx::query(
            "UPDATE job_lease SET owner = ?, ends_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND \
             WHERE job = ? AND (ends_at <= UTC_TIMESTAMP(6) OR owner IN (?, ''))",
        );
        let taking = async {
            self.reader.execute(lease.bind(job)).await?;
            self.reader.execute(take.bind(owner).bind(LEASE.as_secs()).bind(job).bind(owner)).await
        };
        match taking.await {
            Ok(taken) => Ok(taken > 0),
            // Another node took it at the same moment.
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn give_lease_back(&self, job: &'static str, owner: &str) -> Result<(), StoreError> {
        // It has no owner then, because a renewal that an interrupted run has sent may arrive later, and the clock may
        // step back.
        let end =
            sqlx::query("UPDATE job_lease SET owner = '', ends_at = UTC_TIMESTAMP(6) WHERE job = ? AND owner = ?");
        self.reader.execute(end.bind(job).bind(owner)).await.map(|_| ())
    }
}

#[async_trait]
impl RunReader for MySqlStore {
    async fn last_runs(&self, job: &str, limit: u32) -> Result<Vec<StoredRun>, StoreError> {
        let query = sqlx::query(LAST_RUNS).bind(job).bind(limit);
        self.reader.fetch_all(query).await?.iter().map(stored_run_of).collect()
    }

    async fn leased_jobs(&self) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query("SELECT job FROM job_lease WHERE owner <> '' AND ends_at > UTC_TIMESTAMP(6)");
        self.reader.fetch_all(query).await?.iter().map(|row| row.text(0)).collect()
    }
}
