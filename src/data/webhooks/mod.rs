//! Webhooks outside of the database: the vault of their secrets, and the way to their receivers.

pub mod resolver;
pub mod sender;
pub mod vault;
