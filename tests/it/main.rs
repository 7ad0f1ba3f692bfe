//! Tests the service through its ports, on real databases. Every test has its own
//! database and ports.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod access;
mod account_status;
mod accounts;
mod alerts;
mod archive;
mod audit;
mod audit_trail;
mod bad_input;
mod bounds;
mod cache;
mod charges;
mod concurrency;
mod configuration;
mod connections;
mod crash;
mod cron;
mod documents;
mod events;
mod export;
mod fuzz_targets;
mod galera;
mod harness;
mod hosts;
mod idempotency;
mod identity;
mod key_quotas;
mod known_accounts;
mod layers;
mod limits;
mod listener;
mod low_balance;
mod malformed;
mod metering;
mod notices;
mod ops_stats;
mod outgoing_tls;
mod overload;
mod ports;
mod prices;
mod processes;
mod rate_limits;
mod ready;
mod recharge;
mod records;
mod redis_servers;
mod refunds;
mod refused_calls;
mod request_ids;
mod reservations;
mod rest;
mod rollover;
mod rollup;
mod sandbox;
mod schema;
mod scrape;
mod stalls;
mod state_machine;
mod statements;
mod statistics;
mod tokens;
mod unknown_outcomes;
mod upgrade;
mod use_by;
mod values;
mod wire;

// `state_machine` includes files of the library, which import `crate::biz`.
use billing_service::biz;
