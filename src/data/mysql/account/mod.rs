//! Accounts on MySQL and MariaDB.

pub mod accounts;
pub mod users;
