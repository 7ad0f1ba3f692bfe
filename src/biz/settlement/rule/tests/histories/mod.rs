//! Random histories of accounts against a reference model. After every batch, each answer, balance
//! and quota equals the model's, and the audit finds no difference.
//!
//! The library's tests play them in memory, and `tests/it/state_machine` includes this folder
//! to play them on the databases. `crate::biz` is the same in both.

mod answers;
pub mod events;
pub mod model;
mod play;
pub mod postings;
mod stage;
pub mod steps;

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use crate::biz::values::calendar::Clock;

pub use self::{
    play::play,
    stage::Stage,
    steps::{USERS, histories},
};

/// The number of cases: `PROPTEST_CASES`, or `usual`.
pub fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|asked| asked.parse().ok()).unwrap_or(usual)
}

/// One of `shares` runners that play [`cases`] cases together. A seed of the environment gives each share
/// random numbers of its own.
pub fn share_of_runner(usual: u32, share: u32, shares: u32) -> TestRunner {
    let usual_config = Config::default();
    let rng_seed = match usual_config.rng_seed {
        RngSeed::Fixed(seed) => RngSeed::Fixed(seed.wrapping_add(u64::from(share))),
        random => random,
    };
    TestRunner::new(Config {
        cases: cases(usual).div_ceil(shares),
        rng_seed,
        // With the default generator, half the time of a case goes into random numbers.
        rng_algorithm: RngAlgorithm::XorShift,
        failure_persistence: None,
        ..usual_config
    })
}

/// A clock that shows the instant of the batch.
#[derive(Clone)]
pub struct StoppedClock(Arc<Mutex<DateTime<Utc>>>);

impl StoppedClock {
    pub fn at(instant: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    pub fn set(&self, instant: DateTime<Utc>) {
        *self.0.lock().unwrap() = instant;
    }
}

impl Clock for StoppedClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}
