//! The wire contract: requests into domain values, outcomes into replies, errors
//! into codes. One service per feature with one method per rpc; gRPC and REST both call these.

mod account;
mod api;
mod audit_trail;
pub mod body;
pub mod bounds;
mod call;
mod charge;
pub mod check;
mod codec;
mod convert;
mod day_quote;
pub mod error_texts;
pub mod errors;
mod events;
pub mod exports;
mod gen_ai;
pub mod grpc;
pub mod idempotency;
pub mod json;
mod limits;
mod message;
mod metering;
mod operations;
pub mod origin;
mod price_reads;
mod prices;
mod reads;
mod recharge;
mod refund;
pub mod refusals;
pub mod reports;
pub mod request;
mod reservation;
pub mod rest;
pub mod routes;
pub mod signature;
mod statements;
pub mod timestamp;
mod tokens;
mod webhooks;

pub use self::{
    account::AccountService,
    api::Api,
    audit_trail::AuditTrailService,
    call::CallParser,
    charge::ChargeService,
    check::CheckService,
    day_quote::DayQuote,
    events::EventService,
    limits::LimitService,
    metering::StreamService,
    operations::{
        ChargeFacts, Finding, Health, Hour, JobState, OperationTime, OperationsService, Planned, RpcCount, StreamFacts,
        Timetable, Vitals,
    },
    prices::{PriceService, prices_of_tier},
    reads::{ReadBounds, Reads},
    recharge::{Admission, Hints, RechargeService},
    refund::RefundService,
    reports::{ReportService, Uses},
    reservation::ReservationService,
    statements::{StatementService, StatementTerms},
    tokens::TokenService,
    webhooks::WebhookService,
};

/// The generated messages and services of `proto/billing/v1`.
pub mod proto {
    #![allow(clippy::all, missing_docs, reason = "generated code; its lints depend on the generators")]
    tonic::include_proto!("billing.v1");
    include!(concat!(env!("OUT_DIR"), "/billing.v1.serde.rs"));

    /// The encoded descriptors, for reflection and the tests of the routes.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/billing_descriptor.bin"));
}

/// The generated messages and the service of `proto/envoy`.
#[allow(clippy::all, missing_docs, reason = "generated code; its lints depend on the generators")]
mod envoy_packages {
    include!(concat!(env!("OUT_DIR"), "/envoy.rs"));
}

/// The rate limit service of Envoy.
pub mod envoy {
    pub use super::envoy_packages::envoy::{
        config::core::v3::HeaderValue,
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
            rate_limit_service_client, rate_limit_service_server,
        },
    };
}
