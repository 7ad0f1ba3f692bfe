//! Ids that stand beside the message instead of in it: headers and gRPC metadata.

use http::{HeaderMap, HeaderName};

use super::request::TRACE_ID;
use crate::biz::values::{error::Result, invalid::Invalid};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What an rpc does with such an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdSource {
    /// The rpc needs none.
    None,
    /// `trace_id`, from x-trace-id or Idempotency-Key.
    TraceId,
    /// `trace_id` of a reservation that is to end, from x-trace-id alone: an
    /// Idempotency-Key would be the call's own.
    Reservation,
    /// `adjustment_id`, from Idempotency-Key alone: a tracing id is new with each try.
    AdjustmentId,
    /// Each item has its own: one Idempotency-Key for all of them would be ignored,
    /// and a retry would charge twice.
    Items,
}

impl IdSource {
    /// The request field that the id belongs in.
    pub fn field(self) -> Option<&'static str> {
        match self {
            Self::None | Self::Items => None,
            Self::TraceId | Self::Reservation => Some("trace_id"),
            Self::AdjustmentId => Some("adjustment_id"),
        }
    }

    /// The id that `headers` carry.
    ///
    /// # Errors
    /// Two ids that differ, an id that is not text, or one where none can be taken.
    pub fn read(self, headers: &HeaderMap) -> Result<Option<&str>> {
        match self {
            Self::None => Ok(None),
            Self::Items => match value(headers, &IDEMPOTENCY_KEY, "items")? {
                Some(_) => {
                    Err(Invalid::new("items", "need a trace_id each; an Idempotency-Key can't stand for all").into())
                }
                None => Ok(None),
            },
            Self::AdjustmentId => value(headers, &IDEMPOTENCY_KEY, "adjustment_id"),
            Self::Reservation => value(headers, &TRACE_ID, "trace_id"),
            Self::TraceId => {
                let field = "trace_id";
                match (value(headers, &TRACE_ID, field)?, value(headers, &IDEMPOTENCY_KEY, field)?) {
                    (Some(trace), Some(key)) if trace != key => {
                        Err(Invalid::new(field, "x-trace-id and Idempotency-Key differ; send one of them").into())
                    }
                    (trace, key) => Ok(trace.or(key)),
                }
            }
        }
    }
}

/// The one value of a header; nothing when it is absent or empty.
fn value<'h>(headers: &'h HeaderMap, name: &HeaderName, field: &str) -> Result<Option<&'h str>> {
    let mut found = None;
    for value in headers.get_all(name) {
        let value =
            value.to_str().map_err(|_| Invalid::new(field, format!("{name} must be printable ASCII characters")))?;
        match found {
            _ if value.is_empty() => {}
            Some(other) if other != value => {
                return Err(Invalid::new(field, format!("{name} is given twice with different values")).into());
            }
            _ => found = Some(value),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: IdSource, headers: &[(&'static str, &'static str)]) -> std::result::Result<Option<String>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        source.read(&map).map(|id| id.map(str::to_owned)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_id_is_taken_only_where_it_is_unambiguous() {
        let (trace, key) = ("x-trace-id", "idempotency-key");
        assert_eq!(read(IdSource::TraceId, &[]), Ok(None));
        assert_eq!(read(IdSource::TraceId, &[(trace, ""), (key, "k")]), Ok(Some("k".into())));
        assert_eq!(read(IdSource::TraceId, &[(trace, "k"), (key, "k")]), Ok(Some("k".into())));
        assert!(read(IdSource::TraceId, &[(trace, "t"), (key, "k")]).unwrap_err().starts_with("trace_id:"));
        assert!(read(IdSource::TraceId, &[(trace, "t"), (trace, "u")]).unwrap_err().starts_with("trace_id:"));
        assert_eq!(read(IdSource::AdjustmentId, &[(trace, "t"), (key, "k")]), Ok(Some("k".into())));
        assert_eq!(read(IdSource::AdjustmentId, &[(trace, "t")]), Ok(None));
        assert_eq!(read(IdSource::Items, &[(trace, "t")]), Ok(None));
        assert!(read(IdSource::Items, &[(key, "k")]).unwrap_err().starts_with("items:"));
    }
}
