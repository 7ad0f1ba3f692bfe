//! A closed loop of charges: each caller sends its next charge after the reply to the last one.

use std::time::Instant;

use anyhow::{Context, ensure};
use billing_service::service::proto::{
    DeductQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use tokio::task::JoinSet;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use uuid::{Builder, Uuid};

use crate::data::{Seeded, user_id};

/// As in the benchmark of load.
pub const CALLERS: u64 = 100;
/// HTTP/2 connections, which callers share.
const CHANNELS: usize = 8;
/// Most attempts of a caller to make one charge.
const ATTEMPTS: u32 = 100;
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
    /// The latency, with refused attempts.
    pub ms: f64,
}

/// The charges of some callers.
#[derive(Default)]
pub struct Charged {
    pub done: Vec<Done>,
    /// The times of refused attempts.
    pub refused: Vec<Instant>,
}

pub struct Callers(JoinSet<anyhow::Result<Charged>>);

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
    /// A charge failed, or was refused again and again.
    pub async fn end(self) -> anyhow::Result<Charged> {
        let mut sum = Charged::default();
        for charged in self.0.join_all().await {
            let Charged { done, refused } = charged.context("charging")?;
            sum.done.extend(done);
            sum.refused.extend(refused);
        }
        Ok(sum)
    }
}

async fn charge(channel: Channel, users: u64, mut seeded: Seeded, until: Until) -> anyhow::Result<Charged> {
    let mut client = BillingInternalServiceClient::new(channel);
    let mut charged = Charged::default();
    loop {
        let begun = Instant::now();
        let is_over = match until {
            Until::Time(end) => begun >= end,
            Until::Charges(charges) => charged.done.len() as u64 >= charges,
        };
        if is_over {
            return Ok(charged);
        }
        let request = DeductQuotaRequest {
            user_id: user_id(seeded.below(users)),
            service_name: SERVICE.into(),
            count: 1,
            trace_id: trace_id().to_string(),
            ..Default::default()
        };
        let mut attempt = 1;
        let reply = loop {
            match client.deduct_quota(request.clone()).await {
                Ok(reply) => break reply.into_inner(),
                // The server did not get to it in time.
                Err(status) if status.code() == Code::Unavailable && attempt < ATTEMPTS => {
                    charged.refused.push(Instant::now());
                    attempt += 1;
                }
                Err(status) => return Err(status.into()),
            }
        };
        ensure!(reply.success && (attempt > 1 || !reply.replayed), "a charge was not made");
        charged.done.push(Done { at: Instant::now(), ms: begun.elapsed().as_secs_f64() * 1_000.0 });
    }
}

/// Random, and never the same in two runs, because the charges of earlier runs stay.
fn trace_id() -> Uuid {
    Builder::from_random_bytes(fastrand::u128(..).to_le_bytes()).into_uuid()
}
