//! Runs of regular jobs. Several processes may have the same schedule, but each period runs once:
//! a process needs the lease of a job to run it, and finished periods are stored.

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::time::timeout;

use super::retry::repeat;
use crate::biz::values::error::StoreError;

/// Lifetime of a lease without a renewal. The clock of the database decides, because the clocks
/// of the processes may differ.
pub const LEASE: Duration = Duration::from_secs(60);

/// Age at which stored runs are deleted. It is longer than any period.
pub const REMEMBERED: Duration = Duration::from_secs(60 * 24 * 3_600);

/// A period of a job, and the process that runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub job: &'static str,
    /// The begin of the period and, after a space, the settings that the run depends on, if there
    /// are any. A run with other settings replaces the stored run of the same period. At most 56
    /// characters, without `%` and `_`.
    pub period: String,
    /// A run by hand is independent of the schedule: it runs even if the period is done, and it does
    /// not make the period done. It is stored until a run by hand of the job finishes.
    pub is_by_hand: bool,
    /// Id of the lease holder, unique among all processes.
    pub owner: String,
}

impl Run {
    /// The key of the stored run, unique for its job; at most 64 characters.
    pub fn key(&self) -> Cow<'_, str> {
        if self.is_by_hand { format!("{} by hand", self.period).into() } else { self.period.as_str().into() }
    }

    /// The begin of the period without the settings; `None` if the run depends on no settings.
    pub fn shared_period(&self) -> Option<&str> {
        self.period.split_once(' ').map(|(began, _)| began)
    }
}

/// The outcome of an attempt to begin a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// This process has the lease. The run resumes from `position`, if an interrupted run left one.
    Ours { position: Option<String> },
    /// Another process has the lease of the job, for this period or another one.
    Elsewhere,
    /// The period is done.
    Done,
}

/// A stored run, as people look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    pub job: String,
    /// As [`Run::key`].
    pub period: String,
    /// The checkpoint of a run that was interrupted, or that goes on.
    pub position: Option<String>,
    pub started_at: DateTime<Utc>,
    /// `None` while it goes on, or if it was interrupted.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Reads the stored runs.
#[async_trait]
pub trait RunReader: Send + Sync + 'static {
    /// At most `limit` runs of a job, that of the latest period first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn last_runs(&self, job: &str, limit: u32) -> Result<Vec<StoredRun>, StoreError>;

    /// The jobs whose lease a process has now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn leased_jobs(&self) -> Result<Vec<String>, StoreError>;
}

/// Stores runs and leases.
#[async_trait]
pub trait RunStore: Send + Sync + 'static {
    /// Takes the lease of the job, unless another process has it or the period is done. Deletes the
    /// stored runs of the same period with other settings, so that they may run again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Conflict`], [`StoreError::Failed`].
    async fn begin_run(&self, run: &Run) -> Result<Begun, StoreError>;

    /// Renews the lease, and stores the checkpoint `position` if there is one. False means that the
    /// lease is lost and the run must end.
    ///
    /// # Errors
    /// As [`Self::begin_run`].
    async fn renew_run(&self, run: &Run, position: Option<&str>) -> Result<bool, StoreError>;

    /// Releases the lease, and marks the period as done if `is_done`. Otherwise the period can begin
    /// again at once.
    ///
    /// # Errors
    /// As [`Self::begin_run`]; the lease then expires after [`LEASE`].
    async fn end_run(&self, run: &Run, is_done: bool) -> Result<(), StoreError>;

    /// Stores a run of a job as one that finished now, with its last checkpoint. Touches no lease.
    ///
    /// # Errors
    /// As [`Self::begin_run`].
    async fn store_run(&self, job: &'static str, period: &str, position: Option<&str>) -> Result<(), StoreError>;

    /// Takes the lease of a job for [`LEASE`]; `false` if another process has it. Stores no run.
    ///
    /// # Errors
    /// As [`Self::begin_run`].
    async fn take_lease(&self, job: &'static str, owner: &str) -> Result<bool, StoreError>;

    /// Releases the lease of a job.
    ///
    /// # Errors
    /// As [`Self::end_run`].
    async fn give_lease_back(&self, job: &'static str, owner: &str) -> Result<(), StoreError>;
}

/// Deadline of an access to a lease or a stored run, for example over a connection that went silent.
const ACCESS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest work under a lease that is not renewed. Together with the accesses to the lease it is shorter than the
/// lease.
pub const LONGEST_WORK: Duration = Duration::from_secs(45);

/// An access to a lease, with a deadline.
///
/// # Errors
/// [`StoreError::Unavailable`] after the deadline, and the errors of the access.
pub async fn in_time<T>(access: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| Err(StoreError::Unavailable(format!("no answer in {ACCESS_TIMEOUT:?}").into()));
    timeout(ACCESS_TIMEOUT, access).await.unwrap_or_else(late)
}

/// Stores a checkpoint of a run, and renews its lease. The work before a checkpoint may have taken hours, so the write is
/// repeated.
///
/// # Errors
/// The last error of the store; [`StoreError::Unavailable`] at once if the lease is lost. The run must end.
pub async fn store_checkpoint(store: &(impl RunStore + ?Sized), run: &Run, position: &str) -> Result<(), StoreError> {
    match repeat(|| in_time(store.renew_run(run, Some(position)))).await? {
        true => Ok(()),
        false => Err(StoreError::Unavailable("the lease of the run is lost".into())),
    }
}

/// Runs `work` under the lease of a job; `None` if another process has the lease. Stores no run, and does not renew
/// the lease. Always returns within [`LEASE`].
///
/// # Errors
/// As [`RunStore::take_lease`]; [`StoreError::Unavailable`] if an access to the lease or the work takes too long.
pub async fn under_lease<T, E>(
    store: &(impl RunStore + ?Sized),
    job: &'static str,
    owner: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<Option<Result<T, E>>, StoreError> {
    if !in_time(store.take_lease(job, owner)).await? {
        return Ok(None);
    }
    let done = timeout(LONGEST_WORK, work).await;
    if let Err(error) = in_time(store.give_lease_back(job, owner)).await {
        tracing::warn!(%error, job, "release of the lease failed; the lease expires by itself");
    }
    match done {
        Ok(done) => Ok(Some(done)),
        Err(_) => Err(StoreError::Unavailable(format!("{job} did not end in {LONGEST_WORK:?}").into())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A store whose accesses hang from the given one on. Renewals answer what `renewals` says.
    #[derive(Default)]
    struct Hanging {
        accesses_that_answer: usize,
        renewals: Vec<Result<bool, StoreError>>,
        seen: Mutex<Vec<&'static str>>,
    }

    impl Hanging {
        async fn answer<T>(&self, access: &'static str, answer: T) -> Result<T, StoreError> {
            let count = {
                let mut seen = self.seen.lock().unwrap();
                seen.push(access);
                seen.len()
            };
            if count > self.accesses_that_answer {
                std::future::pending::<()>().await;
            }
            Ok(answer)
        }
    }

    #[async_trait]
    impl RunStore for Hanging {
        async fn begin_run(&self, _: &Run) -> Result<Begun, StoreError> {
            unreachable!("no run is stored")
        }

        async fn renew_run(&self, _: &Run, position: Option<&str>) -> Result<bool, StoreError> {
            assert_eq!(position, Some("1 0 u"));
            let renewal = self.seen.lock().unwrap().len();
            self.answer("renew", ()).await?;
            self.renewals[renewal].clone()
        }

        async fn end_run(&self, _: &Run, _: bool) -> Result<(), StoreError> {
            unreachable!("no run is stored")
        }

        async fn store_run(&self, _: &'static str, _: &str, _: Option<&str>) -> Result<(), StoreError> {
            unreachable!("no run is stored")
        }

        async fn take_lease(&self, _: &'static str, _: &str) -> Result<bool, StoreError> {
            self.answer("take", true).await
        }

        async fn give_lease_back(&self, _: &'static str, _: &str) -> Result<(), StoreError> {
            self.answer("give back", ()).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_under_a_lease_ends_before_the_lease_wherever_it_hangs() {
        for (accesses, hangs, expected) in [
            (0, false, &["take"][..]),
            (1, false, &["take", "give back"]),
            (1, true, &["take", "give back"]),
            (2, true, &["take", "give back"]),
        ] {
            let store = Hanging { accesses_that_answer: accesses, ..Hanging::default() };
            let work = async {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok::<_, ()>(1)
            };
            let began = tokio::time::Instant::now();
            let done = under_lease(&store, "j", "o", work).await;
            assert_eq!(done.is_ok(), accesses == 1 && !hangs, "{done:?}");
            assert!(began.elapsed() < LEASE, "{:?}", began.elapsed());
            assert_eq!(*store.seen.lock().unwrap(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_outlasts_an_outage_and_ends_at_once_without_the_lease() {
        let outage = || Err(StoreError::Unavailable("connection lost".into()));
        for (renewals, hangs_after, expected) in [
            (vec![Ok(true)], 1, (true, 1)),
            (vec![outage(), outage(), Ok(true)], 3, (true, 3)),
            (vec![Ok(false), Ok(true)], 2, (false, 1)),
            (vec![outage(), Ok(false), Ok(true)], 3, (false, 2)),
            (vec![outage(); 8], 8, (false, 8)),
            (vec![Ok(true)], 0, (false, 8)),
        ] {
            let store = Hanging { accesses_that_answer: hangs_after, renewals, seen: Mutex::default() };
            let run = Run { job: "j", period: String::new(), is_by_hand: false, owner: String::new() };
            let stored = store_checkpoint(&store, &run, "1 0 u").await;
            assert_eq!((stored.is_ok(), store.seen.into_inner().unwrap().len()), expected, "{stored:?}");
        }
    }
}
