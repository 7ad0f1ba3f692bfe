//! When a delivery that failed is tried again.

use chrono::{DateTime, TimeDelta, Utc};

/// The pauses after the first failures.
const PAUSES: [TimeDelta; 6] = [
    TimeDelta::seconds(5),
    TimeDelta::seconds(30),
    TimeDelta::minutes(2),
    TimeDelta::minutes(10),
    TimeDelta::hours(1),
    TimeDelta::hours(3),
];
/// The pause after each further failure.
const LAST_PAUSE: TimeDelta = TimeDelta::hours(6);
/// The time for which an event is tried. If the last try fails, the webhook has failed.
pub const TRIED_FOR: TimeDelta = TimeDelta::days(3);
/// A pause is longer by up to this part, by chance, so that deliveries that failed together do not come back together.
const JITTER_PER_MILLE: i32 = 100;

/// When an event is tried again whose last of `attempts` failed at `now`; `None` after [`TRIED_FOR`].
pub fn next_attempt(attempts: u32, first_at: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let end = first_at + TRIED_FOR;
    if now >= end {
        return None;
    }
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let pause = PAUSES.get(index).copied().unwrap_or(LAST_PAUSE);
    let pause = pause + pause * fastrand::i32(0..=JITTER_PER_MILLE) / 1_000;
    Some((now + pause).min(end))
}

/// The longest pause between two probes of a receiver that is down.
const PROBE_PAUSE: TimeDelta = TimeDelta::minutes(10);

/// The pause after so many probes without an accepted event.
pub fn probe_pause(probes: u32) -> TimeDelta {
    let index = usize::try_from(probes).unwrap_or(usize::MAX);
    PAUSES.get(index).copied().unwrap_or(PROBE_PAUSE).min(PROBE_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_for_three_days() {
        let first = DateTime::UNIX_EPOCH;
        let (mut at, mut pauses) = (first, Vec::new());
        for attempts in 1.. {
            let Some(next) = next_attempt(attempts, first, at) else { break };
            pauses.push((next - at).num_seconds());
            at = next;
        }
        assert_eq!(at, first + TRIED_FOR, "the last attempt is at the end");
        let stated = [5, 30, 120, 600, 3_600, 10_800, 21_600, 21_600];
        for (pause, stated) in pauses.iter().zip(stated) {
            assert!((stated..=stated + stated / 10).contains(pause), "{pauses:?}");
        }
        assert!((15..=18).contains(&pauses.len()), "{pauses:?}");
        let spread: std::collections::BTreeSet<_> = (0..100).filter_map(|_| next_attempt(5, first, first)).collect();
        assert!(spread.len() > 50, "chance spreads the attempts");
    }
}
