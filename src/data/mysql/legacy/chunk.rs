//! A chunk of legacy users, which one transaction converts.

/// A range of users in key order, including both ends.
pub(super) struct Chunk {
    pub(super) first: String,
    pub(super) last: String,
}
