//! A closed loop of charges: each caller sends its next charge after the reply to the last one.

use std::time::Instant;

use anyhow::{Context, ensure};
use billing_service::service::proto::{
    DeductQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use uuid::{Builder, Uuid};

use crate::data::{Seeded, user_id};

/// As in the benchmark of load.
pub const CALLERS: u64 = 100;
/// HTTP/2 connections, which callers share.
const CHANNELS: usize = 8;
const SERVICE: &str = "passport";

/// The end of the loop.
#[derive(Clone, Copy)]
pub enum Until {
    Time(Instant),
    /// Charges of each caller.
    Charges(u64),
}

/// A finished charge.
pub struct Done {
    pub at: Instant,
    pub ms: f64,
}

pub struct Callers(JoinSet<anyhow::Result<Vec<Done>>>);

impl Callers {
    /// Starts the callers. They charge the first `users` users at random, in an order that follows from `seed`.
    ///
    /// # Errors
    /// The server refuses connections.
    pub async fn start(url: &str, users: u64, seed: u64, until: Until) -> anyhow::Result<Self> {
        let mut channels = Vec::new();
        for _ in 0..CHANNELS {
            channels.push(Endpoint::from_shared(url.to_owned())?.connect().await?);
        }
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let channel = channels[caller as usize % CHANNELS].clone();
            callers.spawn(charge(channel, users, Seeded::of(seed, caller), until));
        }
        Ok(Self(callers))
    }

    /// Waits for the end of the loop, and returns all charges.
    ///
    /// # Errors
    /// A charge failed, or was answered as a repeat.
    pub async fn end(self) -> anyhow::Result<Vec<Done>> {
        let done: anyhow::Result<Vec<Vec<Done>>> = self.0.join_all().await.into_iter().collect();
        Ok(done.context("charging")?.into_iter().flatten().collect())
    }
}

async fn charge(channel: Channel, users: u64, mut seeded: Seeded, until: Until) -> anyhow::Result<Vec<Done>> {
    let mut client = BillingInternalServiceClient::new(channel);
    let mut done = Vec::new();
    loop {
        let begun = Instant::now();
        let is_over = match until {
            Until::Time(end) => begun >= end,
            Until::Charges(charges) => done.len() as u64 >= charges,
        };
        if is_over {
            return Ok(done);
        }
        let request = DeductQuotaRequest {
            user_id: user_id(seeded.below(users)),
            service_name: SERVICE.into(),
            count: 1,
            trace_id: trace_id().to_string(),
            ..Default::default()
        };
        let reply = client.deduct_quota(request).await?.into_inner();
        ensure!(reply.success && !reply.replayed, "a charge was not made");
        done.push(Done { at: Instant::now(), ms: begun.elapsed().as_secs_f64() * 1_000.0 });
    }
}

/// Random, and never the same in two runs, because the charges of earlier runs stay.
fn trace_id() -> Uuid {
    Builder::from_random_bytes(fastrand::u128(..).to_le_bytes()).into_uuid()
}
