//! Logs: their level and their form. Spans are for traces, and no log line shows them.

mod facts;
mod json;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;

use anyhow::Context;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt::{self, MakeWriter, format::DefaultFields},
    layer::{self, SubscriberExt},
    util::SubscriberInitExt,
};

use self::{facts::WithFacts, json::JsonLine};
use crate::{
    config::{Log, LogFormat},
    telemetry::Traces,
};

/// Writes events somewhere.
type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts the logs on `stderr`, and beside them the traces. `RUST_LOG` overrides the configured level.
pub(crate) fn init(
    log: &Log,
    stderr: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
    traces: Option<&Traces>,
) -> anyhow::Result<()> {
    let (level, filter) = match std::env::var("RUST_LOG") {
        Ok(filter) => (LevelFilter::TRACE, Some(EnvFilter::try_new(filter).context("RUST_LOG")?)),
        Err(_) => (log.level.into(), None),
    };
    match traces {
        // Filters of all layers cost less than filters of each.
        None => tracing_subscriber::registry()
            .with(lines(log.format, stderr))
            .with(EventsAlone)
            .with(level)
            .with(filter)
            .init(),
        Some(traces) => {
            let events =
                FilterExt::<Registry>::and(filter_fn(|metadata| !metadata.is_span()).with_max_level_hint(level), level);
            let lines = match filter {
                None => lines(log.format, stderr).with_filter(events).boxed(),
                Some(filter) => lines(log.format, stderr).with_filter(events.and(filter)).boxed(),
            };
            tracing_subscriber::registry().with(lines).with(traces.layer()).init();
        }
    }
    Ok(())
}

fn lines(format: LogFormat, stderr: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) -> Lines {
    let layer = fmt::layer().with_writer(stderr);
    match format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            layer.fmt_fields(WithFacts(DefaultFields::new())).with_ansi(colours).boxed()
        }
        LogFormat::Json => layer.event_format(JsonLine).boxed(),
    }
}

/// Turns all spans off, for good: without traces nobody looks at them.
struct EventsAlone;

impl<S: Subscriber> Layer<S> for EventsAlone {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_span() { Interest::never() } else { Interest::always() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: layer::Context<'_, S>) -> bool {
        !metadata.is_span()
    }
}
