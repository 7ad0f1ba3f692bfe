//! What loses to another transaction, or its connection, is done again.

use std::time::Duration;

use crate::biz::values::error::StoreError;

/// So often at the most.
const ATTEMPTS: u32 = 5;

/// Before an attempt after an outage, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Does what may be repeated until it neither conflicts nor meets an outage: where a process
/// stood still for long, its connections are gone. Ends after some seconds.
///
/// # Errors
/// The last conflict or outage, and at once whatever else there is.
pub async fn repeat<T, F>(attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(StoreError::Conflict(_)) => {}
            Err(StoreError::Unavailable(why)) => {
                tracing::warn!(why, "the database does not answer; a step of a job is repeated");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            done => return done,
        }
    }
    attempt().await
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
    async fn conflicts_and_outages_are_tried_again_and_not_for_ever() {
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
