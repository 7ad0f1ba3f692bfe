//! The worst CPU time of a count is linear in the length of the text. The benchmark fails if it is not.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::ensure;
use billing_service::biz::metering::tokens::{Encoding, Vocabulary};

/// Texts of one long word, or of none, which no rule cuts into pieces.
const RUNS: [&str; 11] = ["a", " ", "\n", "-", "=", "中", "\u{301}", "xQ", "aé", "A中", "'s"];
const BYTES: usize = 1024 * 1024;
/// The short text has this part of the bytes of the long one.
const SHARE: usize = 16;
/// A count of the long text may take this multiple of the time of the short one. A quadratic count takes 256.
const MOST: u32 = 80;
/// The time of a short text is near the precision of the clock.
const LEAST: Duration = Duration::from_millis(4);

pub fn check(encoding: Encoding, vocabulary: &dyn Vocabulary) -> anyhow::Result<()> {
    let mut worst = 0.0_f64;
    for run in RUNS {
        let text = run.repeat(BYTES / run.len());
        let (short, _) = text.split_at(text.len() / SHARE / 12 * 12);
        let best = |text: &str| (0..3).map(|_| time(|| vocabulary.count(text))).min().unwrap_or_default();
        let (few, many) = (best(short).max(LEAST), best(&text));
        ensure!(many < few * MOST, "{run:?}: {few:?} and {many:?} in {}", encoding.name());
        worst = worst.max(many.as_secs_f64() / few.as_secs_f64());
    }
    println!("{}: {SHARE} times the text took at most {worst:.1} times as long", encoding.name());
    Ok(())
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let (wall, cpu) = (Instant::now(), cpu_time());
    black_box(work());
    cpu_time().zip(cpu).map_or(wall.elapsed(), |(now, before)| now.saturating_sub(before))
}

/// The CPU time of this thread, if Linux reports it.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
