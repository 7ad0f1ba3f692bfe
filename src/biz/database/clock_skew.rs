//! The skew between the clock of this process and the clock of the database. The clock of the
//! process decides expiry, caps, days and months, and must stay close to the clock that all
//! processes share.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use crate::biz::values::{calendar::Clock, error::StoreError};

/// The clock of the database.
#[async_trait]
pub trait DatabaseClock: Send + Sync + 'static {
    /// The time of the database; `None` for an embedded database, which has the clock of this
    /// machine.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn database_time(&self) -> Result<Option<DateTime<Utc>>, StoreError>;
}

/// The distance of this process's clock from the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skew {
    /// The lead of this process's clock, below zero if it is behind. The middle of the possible
    /// range.
    pub ahead: TimeDelta,
    /// The part of the distance that is certain even if the answer was slow. Zero or more.
    least: TimeDelta,
}

impl Skew {
    /// The skew from an answer that came between two readings of the own clock.
    fn between(before: DateTime<Utc>, database: DateTime<Utc>, after: DateTime<Utc>) -> Self {
        let least = (before - database).max(database - after).max(TimeDelta::zero());
        Self { ahead: before + (after - before) / 2 - database, least }
    }

    /// Whether the skew is certainly beyond `max`.
    pub fn is_beyond(self, max: Duration) -> bool {
        TimeDelta::from_std(max).is_ok_and(|max| self.least > max)
    }
}

/// Measures the skew. A clock that a test controls has none.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn measure(database: &(impl DatabaseClock + ?Sized), clock: &dyn Clock) -> Result<Skew, StoreError> {
    if !clock.is_of_machine() {
        return Ok(Skew::default());
    }
    let before = clock.now();
    let Some(time) = database.database_time().await? else { return Ok(Skew::default()) };
    Ok(Skew::between(before, time, clock.now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_slow_answer_is_no_skew() {
        let max = Duration::from_secs(5);
        for (before, database, after, ahead, is_beyond) in [
            (0, 0, 0, 0, false),
            (0, 5, 0, -5, false),
            (0, 6, 0, -6, true),
            (6, 0, 6, 6, true),
            // The answer took 20 seconds, and the clocks may well agree.
            (0, 0, 20, 10, false),
            (0, 20, 20, -10, false),
            (6, 0, 20, 13, true),
            (0, 3_600, 20, -3_590, true),
        ] {
            let skew = Skew::between(at(before), at(database), at(after));
            assert_eq!(
                (skew.ahead.num_seconds(), skew.is_beyond(max)),
                (ahead, is_beyond),
                "{before} {database} {after}"
            );
        }
    }
}
