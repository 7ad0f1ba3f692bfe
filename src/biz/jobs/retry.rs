//! What loses to another transaction is done again.

use crate::biz::values::error::StoreError;

/// So often at the most.
const ATTEMPTS: u32 = 5;

/// Does what changes nothing where it conflicts, until it does not.
///
/// # Errors
/// The last conflict, and at once whatever else there is.
pub async fn unless_conflict<T, F>(attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(StoreError::Conflict(_)) => {}
            done => return done,
        }
    }
    attempt().await
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

    #[tokio::test]
    async fn conflicts_alone_are_tried_again_and_not_for_ever() {
        assert_eq!(outcome(ATTEMPTS - 1, Ok(())).await, (Ok(()), ATTEMPTS));
        let down = StoreError::Unavailable("down".into());
        assert_eq!(outcome(1, Err(down.clone())).await, (Err(down), 2));
        let (done, attempts) = outcome(u32::MAX, Ok(())).await;
        assert!(matches!(done, Err(StoreError::Conflict(_))) && attempts == ATTEMPTS, "{done:?} {attempts}");
    }
}
