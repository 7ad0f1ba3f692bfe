//! Logs: their level and their form.

use std::io::IsTerminal;

use anyhow::Context;
use tracing::{level_filters::LevelFilter, span::Record};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{
        self, FormatFields, FormattedFields, MakeWriter,
        format::{JsonFields, Writer},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// Starts the logs on `stderr`. `RUST_LOG` overrides the configured level.
pub(crate) fn init(log: &Log, stderr: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) -> anyhow::Result<()> {
    // A level alone costs less than a filter, which looks at every span that is entered.
    let (level, filter) = match std::env::var("RUST_LOG") {
        Ok(filter) => (LevelFilter::TRACE, Some(EnvFilter::try_new(filter).context("RUST_LOG")?)),
        Err(_) => (log.level.into(), None),
    };
    let registry = tracing_subscriber::registry().with(level).with(filter);
    match log.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_ansi(colours).with_writer(stderr)).init();
        }
        LogFormat::Json => {
            registry.with(fmt::layer().json().fmt_fields(AppendedJson).with_writer(stderr)).init();
        }
    }
    Ok(())
}

/// The fields of spans as JSON. A field that is recorded later is appended: [`JsonFields`] reads
/// and writes all of them again, and the trace id is recorded once per charge.
struct AppendedJson;

impl<'w> FormatFields<'w> for AppendedJson {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> std::fmt::Result {
        JsonFields::new().format_fields(writer, fields)
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &Record<'_>) -> std::fmt::Result {
        let mut added = FormattedFields::<JsonFields>::new(String::new());
        JsonFields::new().format_fields(added.as_writer(), fields)?;
        current.fields = appended(&current.fields, &added.fields);
        Ok(())
    }
}

/// Merges two JSON objects. For a field of both, readers take the second value.
fn appended(object: &str, added: &str) -> String {
    let fields = |object: &str| {
        let inner = object.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        inner.unwrap_or_default().to_owned()
    };
    match (fields(object), fields(added)) {
        (first, second) if first.is_empty() || second.is_empty() => format!("{{{first}{second}}}"),
        (first, second) => format!("{{{first},{second}}}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_field_that_is_recorded_later_is_added_to_the_others() {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = fmt::layer().json().fmt_fields(AppendedJson).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("request", rpc = "r", trace_id = tracing::field::Empty).entered();
            span.record("trace_id", "t \"quoted\"");
            tracing::info!("below");
            let empty = tracing::info_span!("empty", rpc = tracing::field::Empty).entered();
            empty.record("rpc", "later");
            tracing::info!("below both");
        });
        let lines = captured.0.lock().unwrap().clone();
        let lines: Vec<Value> = serde_json::Deserializer::from_slice(&lines).into_iter().map(Result::unwrap).collect();
        assert_eq!(lines[0]["span"], json!({"name": "request", "rpc": "r", "trace_id": "t \"quoted\""}));
        assert_eq!(lines[1]["span"], json!({"name": "empty", "rpc": "later"}));
    }
}
