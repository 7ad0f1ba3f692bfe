//! The exporter of spans. It logs when the collector stops to take spans, and when it takes them again.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter as Exporter},
};
use tonic::transport::Endpoint;

use super::queue::Waiting;
use crate::biz::values::spans;

/// An exporter over OTLP, with its last outcome.
#[derive(Debug)]
pub struct Watched {
    exporter: SpanExporter,
    waiting: Waiting,
    fails: AtomicBool,
    /// Spans lost since the collector failed.
    lost: AtomicU64,
}

impl Watched {
    /// An exporter that connects with its first spans. Needs the runtime.
    ///
    /// # Errors
    /// The endpoint is no URL.
    pub fn connect(endpoint: &str, timeout: Duration, waiting: Waiting) -> anyhow::Result<Self> {
        // The time limit of the exporter does not hold for the wait for a connection.
        let channel =
            Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(timeout).timeout(timeout).connect_lazy();
        // A retry would keep the spans behind it waiting.
        let never = RetryPolicy::disabled();
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel)
            .with_timeout(timeout)
            .with_retry_policy(never)
            .build()?;
        Ok(Self { exporter, waiting, fails: AtomicBool::new(false), lost: AtomicU64::new(0) })
    }
}

impl Exporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let sent = self.exporter.export(batch).await;
        self.waiting.give_back(count as usize);
        match &sent {
            Ok(()) if self.fails.swap(false, Relaxed) => {
                tracing::info!(lost = self.lost.swap(0, Relaxed), "trace collector takes spans again");
            }
            Ok(()) => {}
            Err(error) => {
                spans::lose(count);
                self.lost.fetch_add(count, Relaxed);
                if !self.fails.swap(true, Relaxed) {
                    tracing::warn!(%error, "trace collector does not take spans; they are lost until it does");
                }
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
