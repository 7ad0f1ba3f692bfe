//! The positions at which texts are cut.

use billing_service::biz::metering::tokens::{Encoding, Vocabulary, is_split};
use proptest::prelude::*;

use super::{CORPUS, vocabulary};

/// Cuts `text` at every position that the rule allows, and compares the counts.
fn check(vocabulary: &dyn Vocabulary, text: &str) -> Result<usize, String> {
    let whole = vocabulary.count(text);
    let mut cuts = 0;
    for ((_, before), (at, after)) in text.char_indices().zip(text.char_indices().skip(1)) {
        if is_split(before, after) {
            cuts += 1;
            let parts = [vocabulary.count(&text[..at]), vocabulary.count(&text[at..])];
            if parts.iter().sum::<usize>() != whole {
                return Err(format!("{:?}|{:?}: {parts:?} of {whole}", &text[..at], &text[at..]));
            }
        }
    }
    Ok(cuts)
}

/// Calls `each` with every text of up to `length` characters of `alphabet`.
fn all_texts(alphabet: &[char], length: u32, mut each: impl FnMut(&str)) {
    let mut text = String::new();
    for number in 0..alphabet.len().pow(length) {
        text.clear();
        let mut rest = number;
        for _ in 0..length {
            text.push(alphabet[rest % alphabet.len()]);
            rest /= alphabet.len();
        }
        each(&text);
    }
}

#[test]
fn no_short_text_changes_its_count_when_it_is_cut() {
    // One character of each class in the expressions of both encodings, and the letters of contractions.
    let classes = ['a', 'S', '1', ' ', '\n', '.', '\'', '/', '中', '，', '\u{301}', 'é', '\u{3000}'];
    let lines = ['l', 'T', '7', ' ', '\n', '\r', '!', '\''];
    for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
        let vocabulary = vocabulary(encoding);
        let mut cuts = 0;
        all_texts(&classes, 4, |text| cuts += check(&*vocabulary, text).unwrap());
        all_texts(&lines, 5, |text| cuts += check(&*vocabulary, text).unwrap());
        assert!(cuts > 20_000, "{cuts}");
    }
}

#[test]
fn no_text_of_the_corpus_changes_its_count_when_it_is_cut() {
    for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
        let vocabulary = vocabulary(encoding);
        for reference in CORPUS.iter().filter(|reference| reference.text.len() < 1_000) {
            check(&*vocabulary, &reference.text).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn no_text_changes_its_count_when_it_is_cut(
        text in prop_oneof![
            any::<String>(),
            "[a-cA-C0-3 .,'/\n\r\t中文，é\u{301}\u{200d}👩-]{0,40}",
            "(don't|I'LL|x1y2|中文|。\n|!\n/|  |\n\n|foo\\(bar\\);|٣|\u{301}|[!-~]){0,12}",
        ]
    ) {
        for encoding in [Encoding::O200kBase, Encoding::Cl100kBase] {
            prop_assert!(check(&*vocabulary(encoding), &text).is_ok(), "{:?}", check(&*vocabulary(encoding), &text));
        }
    }
}
