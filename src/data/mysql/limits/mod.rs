//! Caps of users and quotas of API keys on MySQL and MariaDB.

pub mod caps;
pub mod key_quotas;
