//! Balances, free quotas and charges of a developer platform.
//!
//! Three layers: [`service`] speaks the wire contract, [`biz`] holds the rules and
//! [`data`] the databases; [`server`] is the transport around them and [`app`]
//! wires one to the other. [`sandbox`] plays payment-service for development and tests.

pub mod app;
pub mod biz;
pub mod command;
pub mod config;
pub mod data;
mod logs;
pub mod metrics;
pub mod sandbox;
pub mod server;
pub mod service;
