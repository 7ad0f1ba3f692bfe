//! Repeats of a step that lost to another transaction.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};

use crate::biz::values::error::StoreError;

/// Attempts at one step.
const ATTEMPTS: u32 = 5;
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(5))
    .with_max_delay(Duration::from_millis(100))
    .with_max_times(ATTEMPTS as usize - 1)
    .with_jitter();

/// Repeats a step that changes nothing where it conflicts, until it does not conflict.
///
/// # Errors
/// The last conflict, and every other error at once.
pub async fn unless_conflict<T, F>(attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    attempt.retry(BACKOFF).when(|error| matches!(error, StoreError::Conflict(_))).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn outcome(conflicts: u32, then: Result<(), StoreError>) -> (Result<(), StoreError>, u32) {
        let attempts = Cell::new(0);
        let done = unless_conflict(|| {
            attempts.set(attempts.get() + 1);
            let conflict = attempts.get() <= conflicts;
            let then = then.clone();
            async move { if conflict { Err(StoreError::Conflict("deadlock".into())) } else { then } }
        });
        (done.await, attempts.get())
    }

    #[tokio::test(start_paused = true)]
    async fn conflicts_alone_are_tried_again_and_not_for_ever() {
        assert_eq!(outcome(ATTEMPTS - 1, Ok(())).await, (Ok(()), ATTEMPTS));
        let down = StoreError::Unavailable("down".into());
        assert_eq!(outcome(1, Err(down.clone())).await, (Err(down), 2));
        let (done, attempts) = outcome(u32::MAX, Ok(())).await;
        assert!(matches!(done, Err(StoreError::Conflict(_))) && attempts == ATTEMPTS, "{done:?} {attempts}");
    }
}
