//! Retries of a step that conflicted with another transaction, or lost its connection.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};

use crate::biz::values::error::StoreError;

/// Attempts at one step, over some seconds.
const ATTEMPTS: u32 = 8;
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(20))
    .with_max_delay(Duration::from_secs(2))
    .with_max_times(ATTEMPTS as usize - 1)
    .with_jitter();

/// Retries a repeatable step after conflicts and outages. A process that was suspended for long has
/// lost its connections.
///
/// # Errors
/// The last conflict or outage, and every other error at once.
pub async fn repeat<T, F>(attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    attempt
        .retry(BACKOFF)
        .when(|error| matches!(error, StoreError::Conflict(_) | StoreError::Unavailable(_)))
        .notify(|error, _| tracing::warn!(%error, "job step failed; retrying"))
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn outcome(times: u32, error: StoreError, then: Result<(), StoreError>) -> (Result<(), StoreError>, u32) {
        let attempts = Cell::new(0);
        let done = repeat(|| {
            attempts.set(attempts.get() + 1);
            let result = if attempts.get() <= times { Err(error.clone()) } else { then.clone() };
            async move { result }
        });
        (done.await, attempts.get())
    }

    #[tokio::test(start_paused = true)]
    async fn conflicts_and_outages_are_retried_a_bounded_number_of_times() {
        let conflict = || StoreError::Conflict("deadlock".into());
        let outage = || StoreError::Unavailable("down".into());
        for error in [conflict(), outage()] {
            assert_eq!(outcome(ATTEMPTS - 1, error.clone(), Ok(())).await, (Ok(()), ATTEMPTS));
            assert_eq!(outcome(u32::MAX, error.clone(), Ok(())).await, (Err(error), ATTEMPTS));
        }
        let defect = StoreError::Failed("a defect".into());
        assert_eq!(outcome(1, conflict(), Err(defect.clone())).await, (Err(defect), 2));
    }
}
