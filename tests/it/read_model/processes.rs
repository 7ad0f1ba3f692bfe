//! Servers that share a database and a Redis.
