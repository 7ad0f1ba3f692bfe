//! Paging of lists that are ordered from newest to oldest.

use chrono::{DateTime, Utc};

/// The position after an entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub created_at: DateTime<Utc>,
    pub id: String,
}

/// The begin of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageStart {
    /// After this number of entries.
    Offset(u32),
    /// After this entry. The cost of the read does not grow with the depth.
    After(Cursor),
}
