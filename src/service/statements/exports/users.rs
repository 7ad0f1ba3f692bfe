//! The users of an export, some at a time.

use std::sync::Arc;

use crate::biz::{
    statements::exports::BookStore,
    values::{error::Result, ids::UserId},
};

/// Users whose rows are read at once. A reader waits for the first lines, so the first users are few.
const USERS: u32 = 200;
const FIRST_USERS: u32 = 10;

/// The users of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// Those with an account.
    All,
    /// Those with top-ups.
    Payers,
}

/// The users of an export, some at a time.
pub struct UserPages {
    books: Arc<dyn BookStore>,
    users: Users,
    /// The number of the next users.
    size: u32,
    after: Option<UserId>,
    is_done: bool,
}

impl UserPages {
    pub fn new(books: Arc<dyn BookStore>, users: Users) -> Self {
        Self { books, users, size: FIRST_USERS, after: None, is_done: false }
    }

    /// The next users; none at the end. Twice as many each time, up to [`USERS`].
    pub async fn next(&mut self) -> Result<Vec<UserId>> {
        if self.is_done {
            return Ok(Vec::new());
        }
        let (after, size) = (self.after.as_ref(), self.size);
        let users = match self.users {
            Users::All => self.books.users(after, size).await?,
            Users::Payers => self.books.payers(after, size).await?,
        };
        self.is_done = users.len() < size as usize;
        self.size = (size * 2).min(USERS);
        self.after = users.last().cloned();
        Ok(users)
    }
}
