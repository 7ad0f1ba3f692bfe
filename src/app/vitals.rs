//! The health of this server for operators, and the samples of its last hour.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use crate::{
    biz::{check::cache::ReadModel, settlement::engine::Engine},
    data::{Store, redis::RedisCache},
    metrics::{Metrics, SAMPLE_INTERVAL, Samples},
    service::{Health, Hour, OperationTime, RpcCount, Vitals},
};

/// Deadline of the answer of the database.
const TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct ServerVitals {
    store: Arc<dyn Store>,
    redis: Option<Arc<RedisCache>>,
    engine: Arc<Engine>,
    model: Arc<ReadModel>,
    metrics: Arc<Metrics>,
    samples: Arc<Samples>,
}

impl ServerVitals {
    /// Starts to sample until the server stops, if somebody looks at the samples.
    pub fn start(core: &Core, has_readers: bool) -> Self {
        let samples = Arc::new(Samples::default());
        if has_readers {
            tokio::spawn(sample(core.metrics.clone(), samples.clone(), core.stop.clone()));
        }
        Self {
            store: core.store.clone(),
            redis: core.redis.clone(),
            engine: core.engine.clone(),
            model: core.model.clone(),
            metrics: core.metrics.clone(),
            samples,
        }
    }
}

async fn sample(metrics: Arc<Metrics>, samples: Arc<Samples>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => samples.add(metrics.sample(Instant::now())),
            () = stop.cancelled() => return,
        }
    }
}

#[async_trait]
impl Vitals for ServerVitals {
    async fn health(&self) -> Health {
        let asked = Instant::now();
        let answer = tokio::time::timeout(TIMEOUT, self.store.ping()).await;
        let database = matches!(answer, Ok(Ok(()))).then(|| asked.elapsed());
        let parked = self.engine.parked();
        let window = self.samples.until(&self.metrics.sample(Instant::now()));
        let rpcs = window.requests.into_iter();
        let times = window.times.into_iter();
        Health {
            version: env!("CARGO_PKG_VERSION"),
            database,
            is_on_first_host: self.store.is_on_first_host(),
            redis: self.redis.as_ref().map(|redis| redis.is_up()),
            clock_skew_seconds: self.metrics.clock_skew_seconds.get(),
            lanes: self.engine.waiting(),
            parked_accounts: parked.accounts,
            parked_postings: parked.postings,
            reads: self.model.sources().counts(),
            hour: Hour {
                covers: window.covers,
                rpcs: rpcs.map(|(rpc, requests, faults)| RpcCount { rpc, requests, faults }).collect(),
                times: times
                    .map(|(operation, count, p50_ms, p99_ms)| OperationTime { operation, count, p50_ms, p99_ms })
                    .collect(),
            },
        }
    }
}
