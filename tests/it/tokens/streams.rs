//! Counts of texts in chunks.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use billing_service::biz::metering::tokens::{Encoding, MAX_RUN_BYTES, StreamCounter, Vocabulary};
use proptest::{collection, prelude::*, sample};

use super::{CORPUS, vocabulary};

/// Counts `bytes` in chunks. The chunks have these lengths, repeatedly.
fn stream(encoding: Encoding, bytes: &[u8], lengths: &[usize]) -> usize {
    let mut counter = StreamCounter::new(vocabulary(encoding));
    let (mut rest, mut lengths) = (bytes, lengths.iter().cycle());
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
        counter.push(chunk);
        rest = later;
    }
    counter.finish()
}

fn whole(encoding: Encoding, bytes: &[u8]) -> usize {
    vocabulary(encoding).count(&String::from_utf8_lossy(bytes))
}

/// Some texts of the corpus, and bytes between them that may be invalid text.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let text = (0..CORPUS.len()).prop_map(|index| CORPUS[index].text.clone().into_bytes());
    let some = prop_oneof![
        8 => text,
        2 => any::<String>().prop_map(String::into_bytes),
        2 => "[a-c0-2 \n'.中é\u{301}👩]{0,20}".prop_map(String::into_bytes),
        1 => collection::vec(any::<u8>(), 0..12),
        1 => sample::select(vec![&b"\xe4\xbd"[..], b"\xf0\x9f\x98", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"])
            .prop_map(<[u8]>::to_vec),
    ];
    collection::vec(some, 0..5).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn a_stream_has_the_count_of_its_text_with_any_chunks(
        bytes in bytes(),
        lengths in collection::vec(prop_oneof![3 => 1_usize..8, 1 => 1_usize..200], 1..20),
    ) {
        for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
            prop_assert_eq!(stream(encoding, &bytes, &lengths), whole(encoding, &bytes), "{}", encoding.name());
        }
    }
}

#[test]
fn every_text_of_the_corpus_streams_byte_by_byte_and_is_exact_at_any_time() {
    for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
        let vocabulary = vocabulary(encoding);
        for reference in CORPUS.iter() {
            let mut counter = StreamCounter::new(vocabulary.clone());
            for (at, byte) in reference.text.bytes().enumerate() {
                counter.push(&[byte]);
                if reference.text.is_char_boundary(at + 1) && at < 400 {
                    let so_far = vocabulary.count(&reference.text[..=at]);
                    assert_eq!(counter.count(), so_far, "{:?}", &reference.text[..=at]);
                    assert!(counter.running() <= so_far + 1, "{} of {so_far}", counter.running());
                }
            }
            assert_eq!(counter.finish(), reference.tokens(encoding), "{:?}", reference.text);
        }
    }
}

#[test]
fn an_incomplete_character_counts_as_one_replacement() {
    let vocabulary = vocabulary(Encoding::O200kBase);
    let mut counter = StreamCounter::new(vocabulary.clone());
    counter.push("ende 中".as_bytes());
    counter.push(&"中".as_bytes()[..2]);
    assert_eq!(counter.count(), vocabulary.count("ende 中"));
    assert_eq!(counter.finish(), vocabulary.count("ende 中\u{fffd}"));
}

#[test]
fn the_running_count_keeps_up_with_words_and_runs() {
    let vocabulary = vocabulary(Encoding::O200kBase);
    for (text, lag) in [("one word after the other, ".repeat(400), 0.02), ("xyzzy".repeat(2_000), 0.25)] {
        let mut counter = StreamCounter::new(vocabulary.clone());
        for (index, chunk) in text.as_bytes().chunks(7).enumerate() {
            counter.push(chunk);
            let so_far = vocabulary.count(&text[..(index * 7 + chunk.len())]) as f64;
            let running = counter.running() as f64;
            assert!(running >= so_far * (1.0 - lag) - 64.0, "{running} of {so_far}");
        }
    }
}

/// A vocabulary that also adds up the bytes it counts.
struct Metered(Arc<dyn Vocabulary>, AtomicUsize);

impl Vocabulary for Metered {
    fn count(&self, text: &str) -> usize {
        self.1.fetch_add(text.len(), Ordering::Relaxed);
        self.0.count(text)
    }
}

#[test]
fn each_byte_is_counted_only_a_few_times() {
    let texts = [
        ("words", "the quick brown fox; it's 12 o'clock.\n".repeat(300), 2),
        ("chinese", "服务先锁定账户，再检查余额。".repeat(300), 2),
        ("code", "    if (a[i] == 0) {\n        return;\n    }\n".repeat(300), 2),
        ("one run", "x".repeat(100_000), 8),
        ("blanks", " ".repeat(100_000), 8),
    ];
    for (name, text, times) in texts {
        let metered = Arc::new(Metered(vocabulary(Encoding::O200kBase), AtomicUsize::new(0)));
        let mut counter = StreamCounter::new(metered.clone());
        text.as_bytes().chunks(3).for_each(|chunk| counter.push(chunk));
        counter.finish();
        let counted = metered.1.load(Ordering::Relaxed);
        assert!(counted <= text.len() * times, "{name}: {counted} bytes of {}", text.len());
    }
}

#[test]
fn the_longest_run_is_exact() {
    for (encoding, run) in [(Encoding::O200kBase, "x"), (Encoding::Cl100kBase, " "), (Encoding::O200kBase, "ไทย")]
    {
        let text = run.repeat(MAX_RUN_BYTES / run.len());
        let text = format!("{text} and more");
        assert_eq!(stream(encoding, text.as_bytes(), &[60_000, 1]), whole(encoding, text.as_bytes()), "{run:?}");
    }
}

#[test]
fn a_run_beyond_the_longest_one_is_cut_at_the_same_positions_with_any_chunks() {
    let text = "xQzj".repeat(MAX_RUN_BYTES * 5 / 8);
    let mut counter = StreamCounter::new(vocabulary(Encoding::O200kBase));
    for chunk in text.as_bytes().chunks(50_000) {
        counter.push(chunk);
        assert!(counter.unsettled_bytes() <= MAX_RUN_BYTES, "{}", counter.unsettled_bytes());
    }
    let (streamed, exact) = (counter.finish(), whole(Encoding::O200kBase, text.as_bytes()));
    assert_eq!(stream(Encoding::O200kBase, text.as_bytes(), &[text.len()]), streamed);
    assert_eq!(stream(Encoding::O200kBase, text.as_bytes(), &[300_007, 1, 999_983]), streamed);
    assert!(streamed.abs_diff(exact) <= 6, "{streamed}, the exact count is {exact}");
}
