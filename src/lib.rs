//! Balances, free quotas and charges of a developer platform.
//!
//! Three layers: [`service`] implements the wire contract, [`biz`] the rules, and [`data`] the
//! storage. [`server`] is the transport, and [`app`] wires the layers together. [`sandbox`]
//! simulates payment-service for development and tests.

pub mod app;
pub mod biz;
pub mod command;
pub mod config;
pub mod console;
mod context;
pub mod data;
mod logs;
pub mod metrics;
pub mod sandbox;
pub mod server;
pub mod service;
pub mod telemetry;
mod texts;
