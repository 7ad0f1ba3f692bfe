//! A log line as JSON: time, level, message, the facts of the request, and the fields of the event.

use std::fmt::{self, Debug, Display, Formatter};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::facts;
use crate::context;

/// Formats an event as one line of JSON.
pub struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\"", metadata.level())?;
        let mut message = Message(None);
        event.record(&mut message);
        if let Some(message) = message.0 {
            write!(writer, ",\"message\":{}", JsonText(&message))?;
        }
        context::read(|request| facts::each(request, |name, value| write!(writer, ",\"{name}\":{}", JsonText(value))))
            .unwrap_or(Ok(()))?;
        writer.write_str(",\"fields\":{")?;
        let mut fields = Members { writer: writer.by_ref(), is_empty: true, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        writeln!(writer, "}},\"target\":{}}}", JsonText(metadata.target()))
    }
}

/// Finds the message of an event.
struct Message(Option<String>);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

/// Writes fields as the members of an object.
struct Members<'w> {
    writer: Writer<'w>,
    is_empty: bool,
    result: fmt::Result,
}

impl Members<'_> {
    fn add(&mut self, field: &Field, value: impl Display) {
        let comma = if std::mem::take(&mut self.is_empty) { "" } else { "," };
        // The names of fields are identifiers, which need no escapes.
        self.result = self.result.and_then(|()| write!(self.writer, "{comma}\"{}\":{value}", field.name()));
    }
}

impl Visit for Members<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, serde_json::Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, JsonText(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, JsonText(&format!("{value:?}")));
    }
}

/// A text as JSON. Most texts need no escapes.
struct JsonText<'t>(&'t str);

impl Display for JsonText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_plain = self.0.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
        if is_plain {
            return write!(f, "\"{}\"", self.0);
        }
        f.write_str(&serde_json::Value::from(self.0).to_string())
    }
}
