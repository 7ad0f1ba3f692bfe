//! The wire contract: requests into domain values, outcomes into replies, errors
//! into codes. One method of [`Api`] per rpc; gRPC and REST both call these.

mod account;
mod charge;
mod convert;
pub mod errors;
pub mod grpc;
mod idempotency;
pub mod json;
mod limits;
mod metering;
pub mod origin;
mod recharge;
mod reports;
mod reservation;
pub mod rest;
pub mod signature;
pub mod timestamp;
mod tokens;

use std::sync::Arc;

use chrono::TimeDelta;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    biz::{
        account::{Accounts, catalog::Catalog},
        charge::quote::Quoter,
        check::Quotas,
        limits::{caps::LimitStore, key_quota::KeyQuotaStore, rate_limit::RateGuard},
        metering::{Meter, tokens::TokenCounter},
        recharge::{Recharges, order::OrderStore},
        reports::{record::RecordStore, statistics::Statistics},
        settlement::{engine::Engine, transaction::TransactionStore},
        values::calendar::Calendar,
    },
    metrics::Metrics,
};

pub use self::reports::export::MAX_EXPORTS;

/// The generated messages and services of `proto/billing/v1`.
pub mod proto {
    #![allow(clippy::all, missing_docs, reason = "generated code; what it trips over depends on the generators")]
    tonic::include_proto!("billing.v1");
    include!(concat!(env!("OUT_DIR"), "/billing.v1.serde.rs"));

    /// The encoded descriptors, for reflection and for tests of the routes.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/billing_descriptor.bin"));
}

/// Every rpc of the contract, whatever the transport.
pub struct Api {
    pub accounts: Arc<Accounts>,
    pub quotas: Quotas,
    pub quoter: Arc<Quoter>,
    pub rates: Arc<RateGuard>,
    pub engine: Arc<Engine>,
    pub recharges: Arc<Recharges>,
    pub orders: Arc<dyn OrderStore>,
    pub limits: Arc<dyn LimitStore>,
    pub key_quotas: Arc<dyn KeyQuotaStore>,
    pub records: Arc<dyn RecordStore>,
    pub transactions: Arc<dyn TransactionStore>,
    pub statistics: Arc<dyn Statistics>,
    pub tokens: Arc<TokenCounter>,
    pub meter: Meter,
    pub catalog: Arc<Catalog>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
    /// ISO 4217 code of every amount.
    pub currency: String,
    /// A permit for each export of records.
    pub exports: Arc<Semaphore>,
    /// What goes on when its caller goes away.
    pub tasks: TaskTracker,
    /// How long a reservation holds what it took.
    pub reservation_ttl: TimeDelta,
}
