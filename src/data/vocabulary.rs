//! The vocabularies of tiktoken, which are part of the binary: nothing is downloaded.

use std::sync::{Arc, OnceLock};

use tiktoken::CoreBpe;

use crate::biz::{
    metering::tokens::{Encoding, Vocabularies, Vocabulary},
    values::error::StoreError,
};

/// Each is unpacked when it is first needed, 27 MiB for o200k_base and 8 for cl100k_base,
/// and kept.
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
    /// The place of an encoding, and what the library calls it.
    fn place(&self, encoding: Encoding) -> (&OnceLock<Arc<Embedded>>, &'static str) {
        match encoding {
            // The same tokens but for special ones, which nobody asks for here.
            Encoding::O200kBase | Encoding::O200kHarmony => (&self.o200k, "o200k_base"),
            Encoding::Cl100kBase => (&self.cl100k, "cl100k_base"),
        }
    }
}

impl Vocabularies for EmbeddedVocabularies {
    fn loaded(&self, encoding: Encoding) -> Option<Arc<dyn Vocabulary>> {
        self.place(encoding).0.get().map(|vocabulary| vocabulary.clone() as Arc<dyn Vocabulary>)
    }

    fn load(&self, encoding: Encoding) -> Result<Arc<dyn Vocabulary>, StoreError> {
        let (place, name) = self.place(encoding);
        let Some(tokenizer) = tiktoken::get_encoding(name) else {
            return Err(StoreError::Failed(format!("there is no vocabulary {name}")));
        };
        Ok(place.get_or_init(|| Arc::new(Embedded(tokenizer))).clone())
    }
}
