//! Ids outside the message: in headers and gRPC metadata.
//!
//! By its draft, `Idempotency-Key` is a structured header (RFC 9651): a quoted value is the string
//! that it quotes. A value without quotes is taken as it is.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use super::request::TRACE_ID;
use crate::biz::values::{error::Result, invalid::Invalid};

/// The header, or gRPC metadata, of an idempotency key.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The field of an rpc that such an id fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdSource {
    /// The rpc has no id.
    None,
    /// `trace_id`, from x-trace-id or Idempotency-Key.
    TraceId,
    /// `trace_id` of a reservation that ends, from x-trace-id only. An Idempotency-Key would be the
    /// id of this call and not of the reservation.
    Reservation,
    /// `adjustment_id`, from Idempotency-Key only, because a tracing id changes with each attempt.
    AdjustmentId,
    /// `refund_id`, from Idempotency-Key only, for the same reason.
    RefundId,
    /// `idempotency_key` of a top-up, from Idempotency-Key alone.
    RechargeKey,
    /// Each item has an id of its own. One Idempotency-Key for all items would be ignored, and a
    /// retry would charge twice.
    Items,
}

impl IdSource {
    /// The request field of the id.
    pub fn field(self) -> Option<&'static str> {
        match self {
            Self::None | Self::Items => None,
            Self::TraceId | Self::Reservation => Some("trace_id"),
            Self::AdjustmentId => Some("adjustment_id"),
            Self::RefundId => Some("refund_id"),
            Self::RechargeKey => Some("idempotency_key"),
        }
    }

    /// The id in `headers`.
    ///
    /// # Errors
    /// Two ids that differ, an id that is not text, or an id for an rpc that takes none.
    pub fn read(self, headers: &HeaderMap) -> Result<Option<Cow<'_, str>>> {
        match self {
            Self::None => Ok(None),
            Self::Items => match key(headers, "items")? {
                Some(_) => {
                    Err(Invalid::new("items", "need a trace_id each; an Idempotency-Key can't stand for all").into())
                }
                None => Ok(None),
            },
            Self::AdjustmentId => key(headers, "adjustment_id"),
            Self::RefundId => key(headers, "refund_id"),
            Self::RechargeKey => key(headers, "idempotency_key"),
            Self::Reservation => Ok(value(headers, &TRACE_ID, "trace_id")?.map(Cow::Borrowed)),
            Self::TraceId => {
                let field = "trace_id";
                match (value(headers, &TRACE_ID, field)?.map(Cow::Borrowed), key(headers, field)?) {
                    (Some(trace), Some(key)) if trace != key => {
                        Err(Invalid::new(field, "x-trace-id and Idempotency-Key differ; send one of them").into())
                    }
                    (trace, key) => Ok(trace.or(key)),
                }
            }
        }
    }
}

/// The key in Idempotency-Key; `None` if it is absent or empty.
fn key<'h>(headers: &'h HeaderMap, field: &str) -> Result<Option<Cow<'h, str>>> {
    let Some(value) = value(headers, &IDEMPOTENCY_KEY, field)? else { return Ok(None) };
    if !value.starts_with('"') {
        return Ok(Some(Cow::Borrowed(value)));
    }
    let why = "Idempotency-Key begins with a quotation mark and is no quoted string; \" and \\ in it need a \\ before";
    let quoted = unquoted(value).ok_or_else(|| Invalid::new(field, why))?;
    if quoted.is_empty() {
        return Err(Invalid::new(field, "Idempotency-Key is an empty string; send a key, or no such header").into());
    }
    Ok(Some(Cow::Owned(quoted)))
}

/// The string of a quoted value (`sf-string` of RFC 9651). Its parameters are ignored.
fn unquoted(value: &str) -> Option<String> {
    let (mut string, mut letters) = (String::new(), value.strip_prefix('"')?.chars());
    loop {
        match letters.next()? {
            '"' => break,
            '\\' => string.push(letters.next().filter(|letter| matches!(letter, '"' | '\\'))?),
            letter => string.push(letter),
        }
    }
    let rest = letters.as_str().trim_start_matches(' ');
    (rest.is_empty() || rest.starts_with(';')).then_some(string)
}

/// The one value of a header; `None` if it is absent or empty.
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
        source.read(&map).map(|id| id.map(Cow::into_owned)).map_err(|error| error.to_string())
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
        assert_eq!(read(IdSource::RechargeKey, &[(trace, "t"), (key, "k")]), Ok(Some("k".into())));
        assert_eq!(read(IdSource::RechargeKey, &[(trace, "t")]), Ok(None));
        assert_eq!(read(IdSource::Items, &[(trace, "t")]), Ok(None));
        assert!(read(IdSource::Items, &[(key, "k")]).unwrap_err().starts_with("items:"));
    }
    #[test]
    fn a_quoted_key_is_the_string_that_it_quotes() {
        let key = "idempotency-key";
        for source in [IdSource::TraceId, IdSource::AdjustmentId, IdSource::RechargeKey] {
            for (quoted, string) in [
                (r#""abc""#, "abc"),
                (r#""a b""#, "a b"),
                (r#""a\"b\\c""#, r#"a"b\c"#),
                (r#""abc";version=1"#, "abc"),
                (r#""abc" ; version"#, "abc"),
                // Without quotes it is no structured string, and stays as it is.
                (r#"a"b"#, r#"a"b"#),
                ("abc;version=1", "abc;version=1"),
            ] {
                assert_eq!(read(source, &[(key, quoted)]), Ok(Some(string.to_owned())), "{quoted}");
            }
            for bad in [r#""""#, r#"""#, r#""abc"#, r#""abc\""#, r#""a\bc""#, r#""abc"d"#, r#""abc" "d""#] {
                let error = read(source, &[(key, bad)]).unwrap_err();
                assert!(error.starts_with(source.field().unwrap()), "{bad}: {error}");
            }
        }
        // A tracing id is none of these strings.
        assert_eq!(read(IdSource::TraceId, &[("x-trace-id", r#""t""#)]), Ok(Some(r#""t""#.into())));
        assert_eq!(read(IdSource::TraceId, &[("x-trace-id", "k"), (key, r#""k""#)]), Ok(Some("k".into())));
        assert!(read(IdSource::Items, &[(key, r#""k""#)]).unwrap_err().starts_with("items:"));
    }
}
