//! The comparison of Redis with the database, and the warming of caches.
