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

/// Rows of one kind and owner that are named. Further ones are only counted.
pub const MAX_NAMED: usize = 100;

/// The rows of one kind and owner that an audit finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<R> {
    first: Vec<R>,
    further: u64,
}

impl<R> Default for Listed<R> {
    fn default() -> Self {
        Self { first: Vec::new(), further: 0 }
    }
}

impl<R> Listed<R> {
    pub fn push(&mut self, row: R) {
        if self.first.len() < MAX_NAMED {
            self.first.push(row);
        } else {
            self.further += 1;
        }
    }

    /// Adds rows that were not read.
    pub fn add_further(&mut self, count: u64) {
        self.further += count;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.further == 0
    }

    /// The named ones.
    pub(super) fn first(&self) -> &[R] {
        &self.first
    }

    /// The line of the further ones, which are `of_kind`.
    pub(super) fn further(&self, owner: &Owner, of_kind: &str) -> Option<Difference> {
        (self.further > 0).then(|| Difference {
            owner: owner.clone(),
            book: format!("number of further {of_kind}"),
            says: self.further.to_string(),
            should_be: "0".into(),
        })
    }
}

impl Listed<String> {
    /// The differences of rows that the service cannot read.
    pub(super) fn unreadable(&self, owner: &Owner) -> Vec<Difference> {
        let named = self.first.iter().map(|row| Difference::unreadable(owner.clone(), row.clone()));
        named.chain(self.further(owner, "rows that the service cannot read")).collect()
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

    /// A read that found as many things as it may, the last one of `owner`. There may be more.
    pub(super) fn cut(owner: Owner, things: &str, most: u32) -> Self {
        Self { owner, book: format!("number of {things}"), says: format!("{most} or more"), should_be: "0".into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} says {}, should be {}", self.owner, self.book, self.says, self.should_be)
    }
}
