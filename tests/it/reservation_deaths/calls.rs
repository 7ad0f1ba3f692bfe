//! The calls of the steps. A user has a balance of 10, 1,000 free units of `asset` at 0.05, and 100 free tokens of `chat`
//! at one yuan.

use std::fmt::Debug;

use billing_service::service::proto::{
    BatchDeductQuotaReply, BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest,
    SetApiKeyQuotaRequest, SetUserLimitsRequest, StreamFinish, StreamState, meter_stream_reply::Event as Reply,
};
use tonic::{Code, Response, Status};

use super::Answer;
use crate::{
    harness::{caller::Client, charge, load::credit, traced},
    metering::{self, Gateway, usage, words},
};

/// Output tokens that the stream delivers before it finishes. With its input it uses up the free tokens.
const STREAMED: i32 = 20;
/// The amount that the stream holds then: a quarter of the output in advance.
const HELD: f64 = 7.0;

/// The reply. `None` if the outcome is unknown.
pub fn answer<R>(replied: Result<Response<R>, Status>) -> Option<R> {
    match replied {
        Ok(reply) => Some(reply.into_inner()),
        Err(status) => {
            let refusals = [Code::FailedPrecondition, Code::InvalidArgument, Code::NotFound, Code::AlreadyExists];
            assert!(!refusals.contains(&status.code()), "{status:?}");
            None
        }
    }
}

/// An answer without `replayed`, which `take` takes from it.
pub fn outcome<R: Debug>(mut reply: R, take: impl FnOnce(&mut R) -> bool) -> Answer {
    let replayed = Some(take(&mut reply));
    Answer { replayed, reply: format!("{reply:?}") }
}

fn key(user: &str) -> String {
    format!("key-{user}")
}

/// Sets a cap for the user and quotas of each type for the API key.
pub async fn limit(client: &mut Client, user: &str) {
    let caps = SetUserLimitsRequest { user_id: user.into(), daily_limit: Some(100), monthly_limit: None };
    client.set_user_limits(caps).await.unwrap();
    for quota_type in ["requests", "tokens", "amount"] {
        let quota = SetApiKeyQuotaRequest {
            api_key_id: key(user),
            quota_type: quota_type.into(),
            period: "total".into(),
            limit: Some(10_000.0),
        };
        client.set_api_key_quota(quota).await.unwrap();
    }
}

/// Holds 1,000 free units, and 50 that cost 2.5.
pub fn call(user: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: user.into(),
        trace_id: "call".into(),
        service_name: "asset".into(),
        count: 1_050,
        api_key_id: key(user),
        ..Default::default()
    }
}

pub fn committed(user: &str, count: Option<i32>) -> CommitReservationRequest {
    CommitReservationRequest { user_id: user.into(), trace_id: "call".into(), count, ..Default::default() }
}

/// Holds 90 of the 100 free tokens.
pub fn stream(user: &str) -> ReserveQuotaRequest {
    let open = metering::stream("call", "chat", "dear", (80, 10));
    ReserveQuotaRequest { user_id: user.into(), api_key_id: key(user), ..open }
}

/// Delivers the output from its start, and waits until it is durable and the hold has grown. `None` if the stream breaks.
pub async fn until_durable(gateway: &mut Gateway) -> Option<StreamState> {
    gateway.output(words(STREAMED as usize)).await;
    loop {
        match gateway.next().await.ok()? {
            Reply::State(state) if state.durable_output_tokens == STREAMED && state.held == HELD => return Some(state),
            Reply::State(_) => {}
            other => panic!("not a state: {other:?}"),
        }
    }
}

/// Ten tokens more than are free.
pub fn finish() -> StreamFinish {
    StreamFinish { usage: usage(80, 0, 30), ..Default::default() }
}

/// The same by a commit.
pub fn finished(user: &str) -> CommitReservationRequest {
    CommitReservationRequest { usage: usage(80, 0, 30), ..committed(user, None) }
}

fn one_before(user: &str) -> DeductQuotaRequest {
    of_key(user, "before", 10)
}

fn of_key(user: &str, trace: &str, count: i32) -> DeductQuotaRequest {
    DeductQuotaRequest { api_key_id: key(user), ..traced(trace, charge(user, "asset", count)) }
}

fn other(user: &str) -> String {
    format!("{user}-other")
}

/// A charge before the batch, and money for one of the other users.
pub async fn before(client: &mut Client, user: &str) {
    client.deduct_quota(one_before(user)).await.unwrap();
    client.adjust_balance(credit(&other(user), 1.0)).await.unwrap();
}

/// Charges of three users, one of them new. The first is a replay: while it is looked up, the others gather.
pub fn items(user: &str) -> BatchDeductQuotaRequest {
    let items = vec![
        one_before(user),
        of_key(user, "one", 1_040),
        of_key(user, "two", 20),
        traced("one", charge(&other(user), "asset", 1_010)),
        traced("dear", charge(&other(user), "asset", 1_000)),
        traced("one", charge(&format!("{user}-new"), "asset", 10)),
    ];
    BatchDeductQuotaRequest { items }
}

fn third(user: &str) -> String {
    format!("{user}-third")
}

/// A charge of each of three users, after which the server knows their accounts, and that the API key has no quota.
pub async fn before_known(client: &mut Client, user: &str) {
    client.adjust_balance(credit(&other(user), 1.0)).await.unwrap();
    for known in [user, &other(user), &third(user)] {
        client.deduct_quota(DeductQuotaRequest { user_id: known.into(), ..one_before(user) }).await.unwrap();
    }
}

/// Charges of these three users, none of which is refused.
pub fn items_of_known(user: &str) -> BatchDeductQuotaRequest {
    let items = vec![
        of_key(user, "one", 1_040),
        of_key(user, "two", 20),
        traced("one", charge(&other(user), "asset", 1_000)),
        traced("one", charge(&third(user), "asset", 10)),
    ];
    BatchDeductQuotaRequest { items }
}

/// Whether each charged item was replayed, and the rest of the answer. `None` if an item has no definite answer.
pub fn outcome_of_items(mut reply: BatchDeductQuotaReply) -> Option<(Vec<bool>, String)> {
    let is_unknown = |code: &str| code != "10001";
    if reply.results.iter().any(|result| result.error.as_ref().is_some_and(|error| is_unknown(&error.error_code))) {
        return None;
    }
    let replayed: Vec<bool> = reply
        .results
        .iter_mut()
        .filter_map(|result| Some(std::mem::take(&mut result.reply.as_mut()?.replayed)))
        .collect();
    Some((replayed, format!("{reply:?}")))
}
