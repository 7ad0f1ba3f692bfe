//! Expiry, caps, days and months are decided by the clock of the process. Its distance from
//! the database's clock, which all processes share, must stay small.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use crate::biz::values::{calendar::Clock, error::StoreError};

/// Tells the time of the database.
#[async_trait]
pub trait DatabaseClock: Send + Sync + 'static {
    /// `None`: the database is embedded, and has the clock of this machine.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn database_time(&self) -> Result<Option<DateTime<Utc>>, StoreError>;
}

/// How far the clock of this process is ahead of the database's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skew {
    /// Below zero: it is behind. The middle of the possible range.
    pub ahead: TimeDelta,
    /// The part that is certain even if the answer was slow: zero or more.
    least: TimeDelta,
}

impl Skew {
    /// Of an answer that came between two readings of the own clock.
    fn between(before: DateTime<Utc>, database: DateTime<Utc>, after: DateTime<Utc>) -> Self {
        let least = (before - database).max(database - after).max(TimeDelta::zero());
        Self { ahead: before + (after - before) / 2 - database, least }
    }

    /// Whether it is certainly beyond `max`.
    pub fn is_beyond(self, max: Duration) -> bool {
        TimeDelta::from_std(max).is_ok_and(|max| self.least > max)
    }
}

/// Measures the skew. A clock that a test sets has none.
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
