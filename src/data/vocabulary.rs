//! The vocabularies of tiktoken. They are part of the binary, so nothing is downloaded.

use std::sync::{Arc, OnceLock};

use tiktoken::CoreBpe;

use crate::biz::{
    metering::tokens::{Encoding, Vocabularies, Vocabulary},
    values::error::StoreError,
};

/// Vocabularies that are unpacked at first use and kept: 27 MiB for o200k_base, and 8 MiB for
/// cl100k_base.
#[derive(Default)]
pub struct EmbeddedVocabularies {
    o200k: OnceLock<Arc<Embedded>>,
    cl100k: OnceLock<Arc<Embedded>>,
}

struct Embedded(&'static CoreBpe);

impl Vocabulary for Embedded {
    fn count(&self, text: &str) -> usize {
        self.0.count(text)
    }
}

impl EmbeddedVocabularies {
    /// The cell of an encoding, and the library's name of the vocabulary.
    fn cell(&self, encoding: Encoding) -> (&OnceLock<Arc<Embedded>>, &'static str) {
        match encoding {
            // They differ only in special tokens, which are not used here.
            Encoding::O200kBase | Encoding::O200kHarmony => (&self.o200k, "o200k_base"),
            Encoding::Cl100kBase => (&self.cl100k, "cl100k_base"),
        }
    }
}

impl Vocabularies for EmbeddedVocabularies {
    fn loaded(&self, encoding: Encoding) -> Option<Arc<dyn Vocabulary>> {
        self.cell(encoding).0.get().map(|vocabulary| vocabulary.clone() as Arc<dyn Vocabulary>)
    }

    fn load(&self, encoding: Encoding) -> Result<Arc<dyn Vocabulary>, StoreError> {
        let (cell, name) = self.cell(encoding);
        let Some(tokenizer) = tiktoken::get_encoding(name) else {
            return Err(StoreError::Failed(format!("vocabulary {name} is not part of this build")));
        };
        Ok(cell.get_or_init(|| Arc::new(Embedded(tokenizer))).clone())
    }
}
