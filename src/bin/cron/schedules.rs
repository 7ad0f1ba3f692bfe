//! Runs all jobs on their schedules.

use std::{sync::Arc, time::Duration};

use billing_service::app::cron::{Job, Runner};
use tokio::sync::Semaphore;
use tokio_cron_scheduler::JobScheduler;
use tokio_util::sync::CancellationToken;

use crate::screen::{Begins, Screen};

/// Schedule of the catch-up: it starts runs that were missed, for example because a process
/// died. The schedules of the jobs themselves are exact.
const CATCH_UP_SCHEDULE: &str = "15 * * * * *";

/// Time that open runs have to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until `stop`, starting with missed runs. An interrupted run continues later, here or
/// in another process.
pub async fn run(runner: Arc<Runner>, screen: Screen, stop: CancellationToken) -> anyhow::Result<()> {
    let mut scheduler = JobScheduler::new().await?;
    let permits = Arc::new(Permits::new());
    let zone = runner.zone();
    for (job, schedule) in runner.scheduled() {
        tracing::info!(%job, schedule, "scheduled");
        let (runner, screen, permits) = (runner.clone(), screen.clone(), permits.clone());
        let trigger = tokio_cron_scheduler::Job::new_async_tz(schedule, zone, move |_, _| {
            Box::pin(run_due(runner.clone(), screen.clone(), permits.clone(), job))
        });
        scheduler.add(trigger?).await?;
    }
    let catch_up = {
        let (runner, screen, permits) = (runner.clone(), screen.clone(), permits.clone());
        move || {
            for (job, _) in runner.scheduled() {
                tokio::spawn(run_due(runner.clone(), screen.clone(), permits.clone(), job));
            }
        }
    };
    catch_up();
    let trigger = tokio_cron_scheduler::Job::new_tz(CATCH_UP_SCHEDULE, zone, move |_, _| catch_up());
    scheduler.add(trigger?).await?;
    scheduler.start().await?;
    tracing::info!(%zone, "waiting for the schedules");
    stop.cancelled().await;
    scheduler.shutdown().await?;
    permits.until_free().await;
    Ok(())
}

/// One run at a time of each job in this process.
struct Permits(Vec<Arc<Semaphore>>);

impl Permits {
    fn new() -> Self {
        Self(Job::ALL.iter().map(|_| Arc::new(Semaphore::new(1))).collect())
    }

    fn of(&self, job: Job) -> Arc<Semaphore> {
        let number = Job::ALL.iter().position(|known| *known == job).unwrap_or_default();
        self.0[number].clone()
    }

    /// Waits until the runs have ended, for a bounded time.
    async fn until_free(&self) {
        let free = async {
            for permit in &self.0 {
                let _ = permit.acquire().await;
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, free).await.is_err() {
            tracing::warn!("job still running at the stop deadline; ended");
        }
    }
}

async fn run_due(runner: Arc<Runner>, screen: Screen, permits: Arc<Permits>, job: Job) {
    let Ok(_permit) = permits.of(job).try_acquire_owned() else { return };
    let ran = runner.run_due(job, &screen.show(job, Begins::OnSchedule)).await;
    match ran {
        Ok(None) => {}
        Ok(Some(report)) => {
            report.lines.iter().for_each(|line| screen.print(line));
            if !report.is_good {
                let sum = report.lines.last().map(String::as_str).unwrap_or_default();
                tracing::error!(%job, sum, "job finished with errors");
            }
        }
        Err(error) => tracing::error!(%error, %job, "job run did not finish; a later run continues it"),
    }
}
