//! The differences that an audit names.

use std::fmt;

use crate::biz::values::ids::{ApiKeyId, UserId};

/// The owner of a book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    User(UserId),
    ApiKey(ApiKeyId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user {user}"),
            Self::ApiKey(key) => write!(f, "API key {key}"),
        }
    }
}

/// A book that does not balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub owner: Owner,
    pub book: String,
    pub says: String,
    pub should_be: String,
}

impl Difference {
    /// A row that the service cannot read; `row` has its values.
    pub(super) fn unreadable(owner: Owner, row: String) -> Self {
        Self { owner, book: "stored row".into(), says: row, should_be: "one that the service can read".into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} says {}, should be {}", self.owner, self.book, self.says, self.should_be)
    }
}
