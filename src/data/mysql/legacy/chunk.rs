//! A part of the users of the legacy service.

/// The users from one to another in key order, both included.
pub(super) struct Chunk {
    pub(super) first: String,
    pub(super) last: String,
}
