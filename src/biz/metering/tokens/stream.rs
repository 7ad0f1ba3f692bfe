//! The running count of a stream.
//!
//! The counter keeps the number of tokens up to the last position at which the text can be cut
//! ([`is_split`]), and the text after it, which is a word or two in most texts. Each byte is
//! counted once when it is settled. Text without a cut is counted again a few times while it
//! grows.

use std::{str, sync::Arc};

use super::{Vocabulary, is_split};

/// The longest text that is kept without a cut, such as one letter a million times. A longer text
/// is cut at this length, independent of its chunks. Each such cut may count a token or two too
/// many; shorter texts are counted exactly.
pub const MAX_RUN_BYTES: usize = 1024 * 1024;

/// The rest is counted again after it has grown by this many bytes, or by a quarter if that is
/// more.
const RECOUNT_BYTES: usize = 64;

/// Counts a text that comes in chunks, which may end inside a character. Invalid UTF-8 counts as
/// `String::from_utf8_lossy` of the whole text.
///
/// A push takes time in proportion to its chunk, and at times to the text without a cut
/// ([`StreamCounter::unsettled_bytes`]).
pub struct StreamCounter {
    vocabulary: Arc<dyn Vocabulary>,
    /// Tokens before `rest`.
    settled: usize,
    /// Text that is not settled yet.
    rest: String,
    last: Option<char>,
    /// Bytes since the last cut.
    run: usize,
    /// Tokens of `rest` at its last count.
    rest_tokens: usize,
    /// Length of `rest` in bytes at which it is counted again.
    recount_at: usize,
    /// The start of an incomplete character, at most three bytes.
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

    /// Adds the next chunk.
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

    /// Tokens of the text so far, in constant time. Leaves out the text since the last count of
    /// the rest: 64 bytes, or a quarter of the rest.
    pub fn running(&self) -> usize {
        self.settled + self.rest_tokens
    }

    /// Tokens of the text so far, without an incomplete character. Counts the rest
    /// ([`StreamCounter::unsettled_bytes`]).
    pub fn count(&self) -> usize {
        self.settled + self.vocabulary.count(&self.rest)
    }

    /// Bytes of the rest, which has no cut yet; at most [`MAX_RUN_BYTES`] plus a chunk.
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
        // `start`: the part of `text` that is not in `rest` yet. `cut`: the last cut.
        let (mut start, mut cut) = (0, None);
        for (at, character) in text.char_indices() {
            if self.last.is_some_and(|last| is_split(last, character)) {
                (cut, self.run) = (Some(at), 0);
            } else if self.run + character.len_utf8() > MAX_RUN_BYTES {
                // An unsafe cut is settled at once, so that it depends on the text alone.
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

    /// Settles the rest followed by `more`.
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

/// Whether these invalid bytes are the start of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    !bytes.is_empty() && str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
