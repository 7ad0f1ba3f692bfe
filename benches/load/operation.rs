//! The measured calls. To add one, add a variant and an arm in [`Operation::call`].

use std::time::Duration;

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CheckQuotaRequest, CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest,
    Usage, billing_internal_service_client::BillingInternalServiceClient,
};
use tonic::{Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{secured::AUTHORIZATION, stream::meter};

/// Longer than the server's deadline, so that the server answers first.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(40);

const SERVICE: &str = "passport";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An rpc that does nothing: the upper bound of transport and machine.
    Empty,
    Deduct,
    /// A charge of a model: one with three prices, or one with ten and three tiers.
    Model {
        is_tiered: bool,
    },
    /// Several charges in one call.
    Batch {
        items: u32,
    },
    /// A check of `count` units.
    Check {
        count: i32,
    },
    /// A reserve and its commit, one after the other. One pair is one call.
    Pair,
    /// A metered stream of `chunks` chunks with a pause between them. One chunk is one item.
    Stream {
        chunks: u32,
        pause_ms: u64,
    },
}

/// The outcome of a call.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Items done: one, or the items of a batch.
    pub items: u64,
    /// A description of each failure.
    pub errors: Vec<String>,
}

impl Operation {
    /// Items of one call.
    pub fn items(self) -> u32 {
        match self {
            Operation::Batch { items } => items,
            Operation::Stream { chunks, .. } => chunks,
            _ => 1,
        }
    }

    /// Makes one call for users from `users`.
    pub async fn call(self, channel: &Channel, users: &mut Users) -> Outcome {
        let result = match self {
            Operation::Empty => empty(channel).await,
            Operation::Deduct => deduct(channel, users).await,
            Operation::Model { is_tiered } => model(channel, users, is_tiered).await,
            Operation::Batch { items } => batch(channel, users, items).await,
            Operation::Check { count } => check(channel, users, count).await,
            Operation::Pair => pair(channel, users).await,
            Operation::Stream { chunks, pause_ms } => stream(channel, users, chunks, pause_ms).await,
        };
        result.unwrap_or_else(|status| Outcome { items: 0, errors: vec![describe(&status)] })
    }
}

/// One item done, if the server reports success.
fn one(success: bool) -> Outcome {
    if success {
        Outcome { items: 1, errors: Vec::new() }
    } else {
        Outcome { items: 0, errors: vec!["no success".into()] }
    }
}

async fn empty(channel: &Channel) -> Result<Outcome, Status> {
    HealthClient::new(channel.clone()).check(timed(HealthCheckRequest::default())).await?;
    Ok(one(true))
}

async fn deduct(channel: &Channel, users: &mut Users) -> Result<Outcome, Status> {
    let request = timed(charge(users.next()));
    let reply = BillingInternalServiceClient::new(channel.clone()).deduct_quota(request).await?.into_inner();
    Ok(one(reply.success && !reply.replayed))
}

/// A call with a part in every class, above the first two tiers of `tiered`.
async fn model(channel: &Channel, users: &mut Users, is_tiered: bool) -> Result<Outcome, Status> {
    let usage = Usage {
        input_tokens: 250_000,
        output_tokens: 4_000,
        cached_input_tokens: 100_000,
        cache_write_tokens: 50_000,
        cache_write_1h_tokens: 20_000,
        reasoning_tokens: 2_000,
        audio_input_tokens: 1_000,
        audio_output_tokens: 500,
        images: 2,
        input_excludes_cached: false,
    };
    let charge = DeductQuotaRequest {
        service_name: "rag".into(),
        model: if is_tiered { "tiered" } else { "flat" }.into(),
        usage: Some(usage),
        ..charge(users.next())
    };
    let reply = BillingInternalServiceClient::new(channel.clone()).deduct_quota(timed(charge)).await?.into_inner();
    Ok(one(reply.success && !reply.replayed))
}

async fn batch(channel: &Channel, users: &mut Users, items: u32) -> Result<Outcome, Status> {
    let items = (0..items).map(|_| charge(users.next())).collect();
    let request = timed(BatchDeductQuotaRequest { items });
    let reply = BillingInternalServiceClient::new(channel.clone()).batch_deduct_quota(request).await?.into_inner();
    let errors: Vec<String> = reply
        .results
        .iter()
        .filter_map(|result| result.error.as_ref())
        .map(|error| format!("{} {}", error.error_code, error.reason))
        .collect();
    let items = reply.results.len().saturating_sub(errors.len());
    Ok(Outcome { items: items as u64, errors })
}

async fn check(channel: &Channel, users: &mut Users, count: i32) -> Result<Outcome, Status> {
    let message =
        CheckQuotaRequest { user_id: users.pick(), service_name: SERVICE.into(), count, ..Default::default() };
    let request = timed(message);
    let reply = BillingInternalServiceClient::new(channel.clone()).check_quota(request).await?.into_inner();
    Ok(one(reply.allowed))
}

async fn pair(channel: &Channel, users: &mut Users) -> Result<Outcome, Status> {
    let mut client = BillingInternalServiceClient::new(channel.clone());
    let DeductQuotaRequest { user_id, service_name, count, trace_id, .. } = charge(users.next());
    let commit =
        CommitReservationRequest { user_id: user_id.clone(), trace_id: trace_id.clone(), ..Default::default() };
    let reserve = ReserveQuotaRequest { user_id, service_name, count, trace_id, ..Default::default() };
    let held = client.reserve_quota(timed(reserve)).await?.into_inner();
    let committed = client.commit_reservation(timed(commit)).await?.into_inner();
    Ok(one(held.success && committed.success && !committed.replayed))
}

async fn stream(channel: &Channel, users: &mut Users, chunks: u32, pause_ms: u64) -> Result<Outcome, Status> {
    let items = meter(channel, users.pick(), chunks, Duration::from_millis(pause_ms)).await?;
    Ok(Outcome { items, errors: Vec::new() })
}

/// A charge of a user, with an id of its own.
pub fn charge(number: u32) -> DeductQuotaRequest {
    DeductQuotaRequest {
        user_id: user(number),
        service_name: SERVICE.into(),
        count: 1,
        trace_id: Uuid::now_v7().to_string(),
        ..Default::default()
    }
}

/// A request with a deadline, and with the token of [`crate::secured`]. Servers without callers ignore it.
pub fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request.metadata_mut().insert("authorization", MetadataValue::from_static(AUTHORIZATION));
    request
}

/// Code and reason of an error, or the start of its message.
pub fn describe(status: &Status) -> String {
    match status.get_error_details().error_info() {
        Some(info) => {
            let code = info.metadata.get("error_code").map_or("", String::as_str);
            format!("{:?} {code} {}", status.code(), info.reason)
        }
        None => format!("{:?} {}", status.code(), status.message().chars().take(80).collect::<String>()),
    }
}

/// Picks users in a random order that is the same in every run.
#[derive(Debug, Clone, Copy)]
pub struct Users {
    first: u64,
    count: u64,
    state: u64,
}

impl Users {
    /// Picks from the first `count` users. Each `stream` of a `seed` has its own order.
    pub fn new(count: u32, seed: u64, stream: u64) -> Self {
        Self {
            first: 0,
            count: u64::from(count.max(1)),
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream << 32),
        }
    }

    /// One user again and again.
    pub fn only(number: u32) -> Self {
        Self { first: number.into(), count: 1, state: 0 }
    }

    fn pick(&mut self) -> String {
        user(self.next())
    }

    /// The number of the next user.
    pub fn next(&mut self) -> u32 {
        (self.first + self.random() % self.count) as u32
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// The id of a user.
pub fn user(number: u32) -> String {
    format!("u{number:05}")
}
