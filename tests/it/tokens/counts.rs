//! Whole texts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use billing_service::biz::metering::tokens::Encoding;

use super::{CORPUS, vocabulary};

#[test]
fn every_text_of_the_corpus_counts_as_tiktoken_counts_it() {
    for encoding in Encoding::ALL {
        let vocabulary = vocabulary(encoding);
        for reference in CORPUS.iter() {
            let tokens = vocabulary.count(&reference.text);
            assert_eq!(tokens, reference.tokens(encoding), "{} {:?}", encoding.name(), reference.text);
        }
    }
}

#[test]
fn the_corpus_is_of_many_kinds_and_tells_the_encodings_apart() {
    let kinds: BTreeSet<_> = CORPUS.iter().map(|reference| &reference.kind).collect();
    let differing = CORPUS.iter().filter(|reference| reference.o200k_base != reference.cl100k_base).count();
    let special = CORPUS.iter().filter(|reference| reference.text.contains("<|endoftext|>")).count();
    assert!(CORPUS.len() >= 300 && kinds.len() >= 20 && differing >= 100 && special >= 4, "{differing} {kinds:?}");
}

/// The CPU time a megabyte takes at the worst is bounded: sixteen times the text may not take
/// much more than sixteen times as long. Were it quadratic, it would be 256 times.
#[test]
fn a_text_that_can_not_be_cut_takes_time_in_proportion() {
    for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
        let vocabulary = vocabulary(encoding);
        for run in ["a", " ", "\n", "-", "=", "中", "\u{301}", "xQ", "aé", "A中", "'s"] {
            let text = run.repeat(1024 * 1024 / run.len());
            let (small, _) = text.split_at(text.len() / 16 / 12 * 12);
            let best = |text: &str| (0..3).map(|_| time(|| vocabulary.count(text))).min().unwrap();
            // The shorter is hardly longer than the clock is exact.
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

/// What this thread has used, whatever else the machine does; where Linux tells.
fn cpu_time() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
