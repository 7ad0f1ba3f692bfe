//! Balances, free quotas and charges of a developer platform.
//!
//! Three layers: [`service`] speaks the wire contract, [`biz`] holds the rules and
//! [`data`] the databases; [`server`] is the transport around them and [`app`]
//! wires one to the other.

pub mod app;
pub mod biz;
pub mod command;
pub mod config;
pub mod data;
pub mod server;
pub mod service;
