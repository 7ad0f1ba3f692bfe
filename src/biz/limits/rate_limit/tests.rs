use proptest::prelude::*;

use super::*;

fn rates(limits: [u32; 3]) -> Rates {
    let [second, minute, hour] = limits.map(NonZeroU32::new);
    Rates { second, minute, hour }
}

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The definition of the limit: counted from any admitted request, at most N requests are admitted,
/// and one more for each Nth of the period that has passed since.
fn admissible(rates: &Rates, admitted: &[u64], now: u64) -> bool {
    rates.limits().into_iter().zip(PERIODS).all(|(limit, period)| {
        limit.is_none_or(|limit| {
            let limit = u128::from(limit.get());
            (0..=admitted.len()).all(|first| {
                let since = admitted.get(first).map_or(0, |at| u128::from(now - at));
                let requests = (admitted.len() - first + 1) as u128;
                requests <= limit + since * limit / u128::from(period)
            })
        })
    })
}

/// Time steps in microseconds, from zero (a burst) to about two hours.
fn steps() -> impl Strategy<Value = Vec<u64>> {
    let step = prop_oneof![4 => Just(0), 2 => 0..2_000_000_u64, 2 => 0..90_000_000_u64, 1 => 0..8_000_000_000_u64];
    proptest::collection::vec(step, 1..120)
}

/// Limits of a second, a minute and an hour: none, small or up to the largest.
fn limits() -> impl Strategy<Value = [u32; 3]> {
    let limit = prop_oneof![Just(0), 1..20_u32, 1..=MAX_LIMIT];
    [limit.clone(), limit.clone(), limit]
}

proptest! {
    #[test]
    fn a_request_is_admitted_exactly_when_the_definition_allows_it(limits in limits(), steps in steps()) {
        let rates = rates(limits);
        let (mut now, mut level, mut admitted) = (0, Level::default(), Vec::new());
        for step in steps {
            now += step;
            let taken = rates.take(level, micros(now));
            prop_assert_eq!(taken.is_ok(), admissible(&rates, &admitted, now));
            if let Ok(next) = taken {
                level = next;
                admitted.push(now);
            }
        }
    }

    #[test]
    fn a_request_is_admitted_after_the_returned_wait_and_not_1_us_earlier(limits in limits(), steps in steps()) {
        let rates = rates(limits);
        let (mut now, mut level) = (0, Level::default());
        for step in steps {
            now += step;
            match rates.take(level, micros(now)) {
                Ok(next) => level = next,
                Err(wait) => {
                    prop_assert!(wait > Duration::ZERO);
                    prop_assert!(rates.take(level, micros(now) + wait - micros(1)).is_err());
                    now += u64::try_from(wait.as_micros()).unwrap();
                    level = rates.take(level, micros(now)).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_level_that_has_run_out_equals_an_empty_one(limits in limits(), steps in steps()) {
        let rates = rates(limits);
        let (mut now, mut level) = (0, Level::default());
        for step in steps {
            now += step;
            if rates.has_run_out(level, micros(now)) {
                prop_assert_eq!(rates.take(level, micros(now)), rates.take(Level::default(), micros(now)));
            }
            level = rates.take(level, micros(now)).unwrap_or(level);
        }
        prop_assert!(rates.has_run_out(level, micros(now + PERIODS[2])));
    }
}

#[test]
fn a_request_that_one_window_refuses_counts_to_none() {
    let rates = rates([1, 3, 0]);
    let mut level = Level::default();
    for second in 0..3 {
        level = rates.take(level, micros(second * 1_000_000)).unwrap();
        assert_eq!(rates.take(level, micros(second * 1_000_000)).unwrap_err().as_secs(), [1, 1, 18][second as usize]);
    }
    assert_eq!(rates.take(level, micros(19_999_999)), Err(micros(1)));
    rates.take(level, micros(20_000_000)).unwrap();
}

#[test]
fn the_largest_limits_fit() {
    let rates = rates([MAX_LIMIT; 3]);
    let mut level = Level::default();
    for _ in 0..MAX_LIMIT {
        level = rates.take(level, micros(0)).unwrap();
    }
    assert_eq!(rates.take(level, micros(0)), Err(micros(3_600)));
    assert!(!rates.has_run_out(level, micros(3_599_999_999)));
    assert!(rates.has_run_out(level, Duration::MAX));
    assert!(rates.take(level, Duration::MAX).is_ok());
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let rates = rates([1, 0, 0]);
    let level = rates.take(Level::default(), micros(5_000_000)).unwrap();
    assert_eq!(rates.take(level, micros(0)), Err(micros(1_000_000)));
    assert_eq!(rates.take(level, micros(5_500_000)), Err(micros(500_000)));
}
