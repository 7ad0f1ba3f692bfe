//! Benchmark of token counting, in megabytes per second: usual texts, random texts and worst cases,
//! as a whole and as a stream; and a check that the time of a count is linear. Run it with `make bench-tokens`.

mod linear;
mod texts;

use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::anyhow;
use billing_service::{
    biz::metering::tokens::{Encoding, StreamCounter, Vocabularies, Vocabulary},
    data::vocabulary::EmbeddedVocabularies,
};

const ROUNDS: usize = 9;
/// Chunk size of a stream, close to that of a gateway.
const CHUNK_BYTES: usize = 24;

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` runs every benchmark without --bench.
        println!("nothing measured: run `make bench-tokens`");
        return Ok(());
    }
    let vocabularies = EmbeddedVocabularies::default();
    println!("| MB/s, medians of {ROUNDS} | o200k_base | cl100k_base | streamed, o200k_base |");
    println!("| --- | --- | --- | --- |");
    let load = |encoding| vocabularies.load(encoding).map_err(|error| anyhow!("{error}"));
    let (o200k, cl100k) = (load(Encoding::O200kBase)?, load(Encoding::Cl100kBase)?);
    for (name, text) in texts::all() {
        let whole = |vocabulary: &dyn Vocabulary| megabytes_per_second(&text, || vocabulary.count(&text));
        let streamed = megabytes_per_second(&text, || stream(o200k.clone(), &text));
        println!("| {name} | {:.1} | {:.1} | {streamed:.1} |", whole(&*o200k), whole(&*cl100k));
    }
    let (short, rounds) = (texts::english(1_000), 10_000);
    let start = Instant::now();
    for _ in 0..rounds {
        black_box(o200k.count(black_box(&short)));
    }
    println!("\na text of {} bytes: {:.1} µs", short.len(), start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    linear::check(Encoding::O200kBase, &*o200k)?;
    linear::check(Encoding::Cl100kBase, &*cl100k)
}

fn stream(vocabulary: Arc<dyn Vocabulary>, text: &str) -> usize {
    let mut counter = StreamCounter::new(vocabulary);
    text.as_bytes().chunks(CHUNK_BYTES).for_each(|chunk| counter.push(chunk));
    counter.finish()
}

fn megabytes_per_second(text: &str, count: impl Fn() -> usize) -> f64 {
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            black_box(count());
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    text.len() as f64 / 1e6 / seconds[ROUNDS / 2]
}
