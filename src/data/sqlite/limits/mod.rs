//! Caps of users and quotas of API keys on SQLite.

pub mod caps;
pub mod key_quotas;
