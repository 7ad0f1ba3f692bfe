//! The counts of a running scenario: finished items, latencies and errors.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{operation::Outcome, usage::Usage};

/// Latencies in microseconds, with three digits, up to two minutes.
type Latencies = Histogram<u64>;

const LONGEST_MICROS: u64 = 120_000_000;
const DIGITS: u8 = 3;
/// Tallies, several so that callers seldom wait for the same lock.
const SHARDS: usize = 8;

/// The measured time of a run, after the warm-up.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    asked: Instant,
    pub from: Instant,
    pub until: Instant,
}

impl Window {
    pub fn after(warm_up: Duration, length: Duration) -> Self {
        let asked = Instant::now();
        let from = asked + warm_up;
        Self { asked, from, until: from + length }
    }

    /// The same window, counted from `now`, because starting processes took time.
    pub fn moved_to(self, now: Instant) -> Self {
        let late = now.saturating_duration_since(self.asked);
        Self { asked: now, from: self.from + late, until: self.until + late }
    }

    pub fn contains(&self, instant: Instant) -> bool {
        self.from <= instant && instant < self.until
    }
}

/// The calls whose latencies and errors are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Calls that ended in the window.
    Ended,
    /// Calls that were due in the window. Calls that end later count too, so that slow calls are
    /// not lost.
    Due,
}

/// The counts of one slice of one scenario.
pub struct Tally {
    /// Items done in the window.
    pub items: u64,
    pub latencies: Latencies,
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            items: 0,
            latencies: Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)?,
            errors: BTreeMap::new(),
        })
    }

    pub fn add(&mut self, other: &Tally) -> anyhow::Result<()> {
        self.items += other.items;
        self.latencies.add(&other.latencies)?;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        Ok(())
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// A quantile of the latencies in milliseconds; 0 without latencies.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Records the outcomes of many concurrent callers.
pub struct Recorder {
    window: Window,
    counting: Counting,
    shards: Vec<Mutex<Tally>>,
}

impl Recorder {
    pub fn new(window: Window, counting: Counting) -> anyhow::Result<Self> {
        let shards = (0..SHARDS).map(|_| Tally::new().map(Mutex::new)).collect::<anyhow::Result<_>>()?;
        Ok(Self { window, counting, shards })
    }

    /// Counts a call that was due at `due` and has ended now. `caller` selects the shard.
    pub fn record(&self, caller: usize, due: Instant, outcome: Outcome) {
        let now = Instant::now();
        let ended_within = self.window.contains(now);
        let counted = match self.counting {
            Counting::Ended => ended_within,
            Counting::Due => self.window.contains(due),
        };
        if !ended_within && !counted {
            return;
        }
        let mut tally = self.shards[caller % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        if ended_within {
            tally.items += outcome.items;
        }
        if counted {
            if outcome.items > 0 {
                let micros = now.saturating_duration_since(due).as_micros();
                tally.latencies.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
            }
            for error in outcome.errors {
                *tally.errors.entry(error).or_default() += 1;
            }
        }
    }

    /// The sum of everything recorded so far.
    pub fn total(&self) -> anyhow::Result<Tally> {
        let mut total = Tally::new()?;
        for shard in &self.shards {
            total.add(&shard.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(total)
    }
}

/// One round of one scenario.
pub struct Slice {
    pub seconds: f64,
    pub tally: Tally,
    pub usage: Usage,
    /// Calls due, and calls due but not sent because too many were open. Zero in closed loops.
    pub due: u64,
    pub missed: u64,
}

impl Slice {
    pub fn rate(&self) -> f64 {
        self.tally.items as f64 / self.seconds
    }
}

/// The middle of `values`, or the mean of the middle two; 0 without values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => 0.0,
        (middle, 1) => sorted[middle],
        (middle, _) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
