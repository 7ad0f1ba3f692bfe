//! Random histories of accounts against a reference model. After every batch, each answer, balance
//! and quota equals the model's, and the audit finds no difference.
//!
//! The library's tests play them in memory, and `tests/it/state_machine` includes this folder
//! to play them on the databases. `crate::biz` is the same in both.

mod answers;
pub mod model;
mod play;
pub mod postings;
mod stage;
pub mod steps;

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use proptest::test_runner::{Config, RngAlgorithm, TestRunner};

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

/// A runner of [`cases`] cases.
pub fn runner(usual: u32) -> TestRunner {
    // With the default generator, half the time of a case goes into random numbers.
    let rng_algorithm = RngAlgorithm::XorShift;
    TestRunner::new(Config { cases: cases(usual), rng_algorithm, failure_persistence: None, ..Config::default() })
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
