//! Traces: the layer that turns spans into those of OpenTelemetry, and their way to a collector.
//!
//! Spans wait in a bounded queue, which a thread of its own empties. A collector that is slow or down costs the
//! spans that find the queue full, and nothing else. They are counted.

mod exporter;
mod filter;
mod queue;

use std::time::Duration;

use anyhow::Context;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tracing::Subscriber;
use tracing_subscriber::{Layer, registry::LookupSpan};
use uuid::Uuid;

use self::{
    exporter::Watched,
    filter::Traced,
    queue::{Bounded, Waiting},
};
use crate::{
    biz::values::spans::MAX_LINKS,
    config::{Environment, TelemetryConfig},
};

/// Most spans that wait for the collector or are on their way to it. Further ones are lost.
const QUEUE: usize = 4_096;
/// Most spans of one message to the collector.
const BATCH: usize = 512;
/// Longest time that a span waits before it is sent.
const DELAY: Duration = Duration::from_secs(1);
/// Time limit of one message to the collector.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time that the stop waits for the spans in the queue.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// The traces of a process.
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Connects to the collector in the background. `None` without a collector.
    ///
    /// # Errors
    /// The endpoint is no URL.
    pub fn start(config: &TelemetryConfig, environment: Option<Environment>) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let waiting = Waiting::default();
        let exporter = Watched::connect(endpoint, SEND_TIMEOUT, waiting.clone());
        let exporter = exporter.context("config key telemetry.otlp_endpoint")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded { processor, waiting, places: QUEUE })
            // The transport decides at the begin of a request, so that the others make no span at all.
            .with_sampler(Sampler::AlwaysOn)
            .with_max_links_per_span(MAX_LINKS as u32)
            .with_resource(resource(config, environment))
            .build();
        Ok(Some(Self { provider }))
    }

    /// The layer that makes spans, and sees nothing else.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'s> LookupSpan<'s>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("billing-service"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(Traced)
    }

    /// Sends the spans that wait, as far as the collector takes them in time.
    pub async fn stop(self) {
        // The wait would block a worker, which may be the one that sends.
        let stopped = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(STOP_TIMEOUT)).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("trace collector did not take the last spans");
        }
    }
}

/// The attributes of every span of this process.
fn resource(config: &TelemetryConfig, environment: Option<Environment>) -> Resource {
    let environment = environment.map(|environment| KeyValue::new("deployment.environment.name", environment.name()));
    Resource::builder()
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        // Several processes may run on one host, and a restart is another instance.
        .with_attribute(KeyValue::new("service.instance.id", Uuid::now_v7().to_string()))
        .with_attributes(environment)
        .build()
}
