//! Logs: their level and their form.

use std::{
    fmt::{Debug, Display, Formatter},
    io::IsTerminal,
};

use anyhow::Context;
use tracing::{
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::Record,
};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{self, FormatFields, FormattedFields, MakeWriter, format::Writer},
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

/// The fields of spans as JSON, for every request. tracing's own form sorts them in a map of
/// copies, and reads and writes all of them again if one is recorded later.
struct AppendedJson;

impl<'w> FormatFields<'w> for AppendedJson {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> std::fmt::Result {
        JsonObject { writer, is_empty: true, result: Ok(()) }.fill(fields)
    }

    /// For a field of both, readers take the second value.
    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &Record<'_>) -> std::fmt::Result {
        if current.fields.ends_with('}') {
            current.fields.pop();
        }
        let is_empty = current.fields.len() <= 1;
        if is_empty {
            current.fields.clear();
        }
        JsonObject { writer: current.as_writer(), is_empty, result: Ok(()) }.fill(fields)
    }
}

/// Writes the members of a JSON object.
struct JsonObject<'w> {
    writer: Writer<'w>,
    is_empty: bool,
    result: std::fmt::Result,
}

impl JsonObject<'_> {
    /// Adds the fields, and ends the object.
    fn fill(mut self, fields: impl RecordFields) -> std::fmt::Result {
        fields.record(&mut self);
        self.result?;
        self.writer.write_str(if self.is_empty { "{}" } else { "}" })
    }

    fn add(&mut self, field: &Field, value: impl Display) {
        let opens = if std::mem::take(&mut self.is_empty) { '{' } else { ',' };
        // The names of fields are identifiers, which need no escapes.
        self.result = self.result.and_then(|()| write!(self.writer, "{opens}\"{}\":{value}", field.name()));
    }
}

impl Visit for JsonObject<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, JsonText(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, JsonText(&format!("{value:?}")));
    }
}

/// A text as JSON. Ids rarely need escapes.
struct JsonText<'t>(&'t str);

impl Display for JsonText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let is_plain = self.0.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
        if is_plain {
            return write!(f, "\"{}\"", self.0);
        }
        f.write_str(&serde_json::Value::from(self.0).to_string())
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
