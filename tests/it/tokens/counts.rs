//! Counts of whole texts.

use std::collections::BTreeSet;

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
