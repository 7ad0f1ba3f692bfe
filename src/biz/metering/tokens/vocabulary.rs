//! The tokens of an encoding, which the binary or a test provides.

use std::sync::Arc;

use super::Encoding;
use crate::biz::values::error::StoreError;

/// The tokens of one encoding.
pub trait Vocabulary: Send + Sync {
    /// How many tokens tiktoken makes of `text`, strings of special tokens taken as
    /// ordinary text. Takes time in proportion to the text, hence not on threads that others wait for.
    fn count(&self, text: &str) -> usize;
}

/// Where vocabularies come from. They are large, and built when they are first needed.
pub trait Vocabularies: Send + Sync + 'static {
    /// What [`Vocabularies::load`] has built, at once.
    fn loaded(&self, encoding: Encoding) -> Option<Arc<dyn Vocabulary>>;

    /// Builds it unless that was done; takes a part of a second.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: this build does not have it.
    fn load(&self, encoding: Encoding) -> Result<Arc<dyn Vocabulary>, StoreError>;
}
