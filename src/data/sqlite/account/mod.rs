//! Accounts on SQLite.

pub mod accounts;
pub mod users;
