//! The interface of the vocabularies, which the binary or a test provides.

use std::sync::Arc;

use super::Encoding;
use crate::biz::values::error::StoreError;

/// The tokens of one encoding.
pub trait Vocabulary: Send + Sync {
    /// The number of tokens of `text` by tiktoken; names of special tokens count as ordinary
    /// text. Takes time in proportion to the text, so long texts belong on a blocking thread.
    fn count(&self, text: &str) -> usize;
}

/// The source of vocabularies. They are large, and built at first use.
pub trait Vocabularies: Send + Sync + 'static {
    /// The vocabulary, if [`Vocabularies::load`] has built it. Does not block.
    fn loaded(&self, encoding: Encoding) -> Option<Arc<dyn Vocabulary>>;

    /// The vocabulary, built at the first call. Building blocks for a part of a second.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: this build does not include the vocabulary.
    fn load(&self, encoding: Encoding) -> Result<Arc<dyn Vocabulary>, StoreError>;
}
