//! A count that goes along with a stream.
//!
//! It keeps the tokens up to the last place where the text can be cut ([`is_split`]), and
//! the text after it, which is a word or two of most texts. Each byte is counted once when it
//! is settled, and text that can't be cut a few times over while it grows.

use std::{str, sync::Arc};

use super::{Vocabulary, is_split};

/// The longest text that is kept because it can't be cut, such as one letter a million times.
/// What is longer is cut there, wherever the chunks end; each of these cuts may
/// count a token or two too many, and no text up to this length has one.
pub const MAX_RUN_BYTES: usize = 1024 * 1024;

/// What the rest may grow by before it is counted again: this, or a quarter of it.
const RECOUNT_BYTES: usize = 64;

/// Counts a text that comes in chunks, which may end inside a character. Bytes that
/// are no UTF-8 count as what `String::from_utf8_lossy` makes of the whole.
///
/// A push takes time in proportion to its chunk; at the end of a long text that could not be
/// cut, to all of that ([`StreamCounter::unsettled_bytes`]).
pub struct StreamCounter {
    vocabulary: Arc<dyn Vocabulary>,
    /// Tokens before `rest`.
    settled: usize,
    /// Text that nothing is settled of.
    rest: String,
    last: Option<char>,
    /// Bytes since the text could be cut last.
    run: usize,
    /// Tokens of `rest` when it was counted last.
    rest_tokens: usize,
    /// How long `rest` may get before it is counted again.
    recount_at: usize,
    /// The beginning of a character: three bytes at the most.
    partial: Vec<u8>,
}

impl StreamCounter {
    pub fn new(vocabulary: Arc<dyn Vocabulary>) -> Self {
        Self {
            vocabulary,
            settled: 0,
            rest: String::new(),
            last: None,
            run: 0,
            rest_tokens: 0,
            recount_at: RECOUNT_BYTES,
            partial: Vec::with_capacity(4),
        }
    }

    /// Takes the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        let joined;
        let mut bytes = chunk;
        if !self.partial.is_empty() {
            joined = [&self.partial, chunk].concat();
            self.partial.clear();
            bytes = &joined;
        }
        for part in bytes.utf8_chunks() {
            self.push_text(part.valid());
            let invalid = part.invalid();
            let ends_here = invalid.as_ptr_range().end == bytes.as_ptr_range().end;
            if ends_here && is_incomplete(invalid) {
                self.partial.extend_from_slice(invalid);
            } else if !invalid.is_empty() {
                self.push_text("\u{fffd}");
            }
        }
        if self.rest.len() >= self.recount_at {
            self.recount();
        }
    }

    /// Tokens of the text so far, at no cost: what came since the rest was counted last,
    /// 64 bytes or a quarter of it, is left out.
    pub fn running(&self) -> usize {
        self.settled + self.rest_tokens
    }

    /// Tokens of the text so far, but for a character that is not complete. Counts the
    /// rest ([`StreamCounter::unsettled_bytes`]).
    pub fn count(&self) -> usize {
        self.settled + self.vocabulary.count(&self.rest)
    }

    /// Of the text that a cut is still awaited in; at most [`MAX_RUN_BYTES`] beyond a chunk.
    pub fn unsettled_bytes(&self) -> usize {
        self.rest.len()
    }

    /// Tokens of the whole text.
    pub fn finish(mut self) -> usize {
        if !self.partial.is_empty() {
            self.push_text("\u{fffd}");
        }
        self.count()
    }

    fn push_text(&mut self, text: &str) {
        // From where `text` is not in `rest` yet, and up to where it can be cut.
        let (mut start, mut cut) = (0, None);
        for (at, character) in text.char_indices() {
            if self.last.is_some_and(|last| is_split(last, character)) {
                (cut, self.run) = (Some(at), 0);
            } else if self.run + character.len_utf8() > MAX_RUN_BYTES {
                // A cut that is not safe must stay one: it depends on the text alone.
                self.settle(&text[start..at]);
                (start, cut, self.run) = (at, None, 0);
            }
            self.run += character.len_utf8();
            self.last = Some(character);
        }
        if let Some(cut) = cut {
            self.settle(&text[start..cut]);
            start = cut;
        }
        self.rest.push_str(&text[start..]);
    }

    /// Settles the rest and `more` after it.
    fn settle(&mut self, more: &str) {
        self.rest.push_str(more);
        self.settled += self.vocabulary.count(&self.rest);
        self.rest.clear();
        (self.rest_tokens, self.recount_at) = (0, RECOUNT_BYTES);
    }

    fn recount(&mut self) {
        self.rest_tokens = self.vocabulary.count(&self.rest);
        self.recount_at = self.rest.len() + RECOUNT_BYTES.max(self.rest.len() / 4);
    }
}

/// Whether more bytes could make a character of these, which are none.
fn is_incomplete(bytes: &[u8]) -> bool {
    !bytes.is_empty() && str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
