//! Counts of whole texts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use billing_service::biz::metering::tokens::Encoding;

use super::{CORPUS, vocabulary};

#[test]
fn every_text_of_the_corpus_has_the_count_of_tiktoken() {
    for encoding in Encoding::ALL {
        let vocabulary = vocabulary(encoding);
        for reference in CORPUS.iter() {
            let tokens = vocabulary.count(&reference.text);
            assert_eq!(tokens, reference.tokens(encoding), "{} {:?}", encoding.name(), reference.text);
        }
    }
}

#[test]
fn the_corpus_has_many_kinds_and_distinguishes_the_encodings() {
    let kinds: BTreeSet<_> = CORPUS.iter().map(|reference| &reference.kind).collect();
    let differing = CORPUS.iter().filter(|reference| reference.o200k_base != reference.cl100k_base).count();
    let special = CORPUS.iter().filter(|reference| reference.text.contains("<|endoftext|>")).count();
    assert!(CORPUS.len() >= 300 && kinds.len() >= 20 && differing >= 100 && special >= 4, "{differing} {kinds:?}");
}

/// The worst CPU time is linear: a text of sixteen times the length may not take much more than sixteen times
/// as long. Quadratic code would take 256 times as long.
#[test]
fn a_text_that_cannot_be_cut_takes_linear_time() {
    for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
        let vocabulary = vocabulary(encoding);
        for run in ["a", " ", "\n", "-", "=", "中", "\u{301}", "xQ", "aé", "A中", "'s"] {
            let text = run.repeat(1024 * 1024 / run.len());
            let (small, _) = text.split_at(text.len() / 16 / 12 * 12);
            let best = |text: &str| (0..3).map(|_| time(|| vocabulary.count(text))).min().unwrap();
            // The time of the shorter text is near the precision of the clock.
            let (few, many) = (best(small).max(Duration::from_millis(4)), best(&text));
            assert!(many < few * 80, "{run:?}: {few:?} and {many:?} in {}", encoding.name());
        }
    }
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let (wall, cpu) = (Instant::now(), cpu_time());
    std::hint::black_box(work());
    cpu_time().zip(cpu).map_or(wall.elapsed(), |(now, before)| now.saturating_sub(before))
}

/// The CPU time of this thread, if Linux reports it.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
