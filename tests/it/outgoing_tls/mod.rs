//! TLS to Redis, to payment-service and to the database: real servers with certificates of a
//! private authority.

mod certificates;
mod database;
mod payment;
mod redis;
