//! TLS to Redis, to payment-service and to the database: real servers with certificates of an
//! authority of the test's own.

mod certificates;
mod database;
mod payment;
mod redis;
