//! Pages of lists that show the newest first.

use chrono::{DateTime, Utc};

/// A place in a list: right behind this entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub created_at: DateTime<Utc>,
    pub id: String,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageStart {
    /// Behind this many entries.
    Offset(u32),
    /// Behind this entry, at a cost that does not grow with the depth.
    After(Cursor),
}
