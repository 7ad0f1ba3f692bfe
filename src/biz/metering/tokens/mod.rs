//! Tokens of language models: the encoding of each model, the count of a text or a chat, and the
//! running count of a stream. [`Vocabularies`] provides the vocabularies.

mod chat;
mod counter;
mod encoding;
mod split;
mod stream;

use std::sync::Arc;

pub use self::{
    chat::{ChatMessage, Input, MAX_BYTES, MAX_MESSAGES},
    counter::{IN_PLACE_BYTES, MAX_ADMITTED, TokenCounter},
    encoding::Encoding,
    split::is_split,
    stream::{MAX_RUN_BYTES, StreamCounter},
};
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
