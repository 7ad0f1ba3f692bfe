//! Token counts, compared with a reference by other implementations (`tests/corpus`).

mod counts;
mod requests;
mod splits;
mod streams;

use std::sync::{Arc, LazyLock};

use billing_service::{
    biz::metering::tokens::{Encoding, Vocabularies, Vocabulary},
    data::vocabulary::EmbeddedVocabularies,
};
use serde::Deserialize;

/// A text of the corpus, with its numbers of tokens.
#[derive(Deserialize)]
struct Reference {
    kind: String,
    text: String,
    o200k_base: usize,
    cl100k_base: usize,
}

impl Reference {
    fn tokens(&self, encoding: Encoding) -> usize {
        match encoding {
            Encoding::O200kBase | Encoding::O200kHarmony => self.o200k_base,
            Encoding::Cl100kBase => self.cl100k_base,
        }
    }
}

static CORPUS: LazyLock<Vec<Reference>> = LazyLock::new(|| {
    let lines = include_str!("../../corpus/tokens.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
});

static VOCABULARIES: LazyLock<EmbeddedVocabularies> = LazyLock::new(EmbeddedVocabularies::default);

fn vocabulary(encoding: Encoding) -> Arc<dyn Vocabulary> {
    VOCABULARIES.load(encoding).unwrap()
}
