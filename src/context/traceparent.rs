//! The W3C trace context: the headers `traceparent` and `tracestate`.

use std::fmt::{self, Display, Formatter};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a traceparent of version 00. Later versions may append to it.
const LENGTH: usize = 55;
/// The flag of a trace that its begin has sampled.
const SAMPLED: u8 = 1;

/// A position in a trace: the span that calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: u128,
    pub span_id: u64,
    pub is_sampled: bool,
}

impl TraceParent {
    /// The one header `traceparent`, if it is valid. Several, or a malformed one, count as none.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { Self::parse(value) }
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let (version, rest) = (bytes.get(..2)?, bytes.get(LENGTH..)?);
        let is_known = version == b"00" && rest.is_empty();
        let is_later = version != b"00" && version != b"ff" && rest.first().is_none_or(|first| *first == b'-');
        let has_dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        if !(is_known || is_later) || !has_dashes {
            return None;
        }
        hex(version)?;
        let trace_id = hex(bytes.get(3..35)?).filter(|id| *id != 0)?;
        let span_id = hex(bytes.get(36..52)?).filter(|id| *id != 0)?;
        let flags = hex(bytes.get(53..LENGTH)?)?;
        Some(Self { trace_id, span_id: span_id as u64, is_sampled: flags as u8 & SAMPLED != 0 })
    }
}

/// The trace headers of a call to another service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub parent: TraceParent,
    /// The state of the caller, unchanged.
    pub state: Option<String>,
}

impl Outgoing {
    /// Those below a span; `None` if it is disabled.
    pub fn below(span: &Span) -> Option<Self> {
        if span.is_disabled() {
            return None;
        }
        let context = span.context();
        let span = context.span();
        let at = span.span_context();
        let parent = TraceParent {
            trace_id: u128::from_be_bytes(at.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(at.span_id().to_bytes()),
            is_sampled: at.is_sampled(),
        };
        Some(Self { parent, state: Some(at.trace_state().header()).filter(|state| !state.is_empty()) })
            .filter(|_| at.is_valid())
    }
}

/// The number in lower-case hexadecimal digits, as the standard demands.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

impl Display for TraceParent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<TraceParent> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        TraceParent::of(&headers)
    }

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_traceparent_is_read_and_written() {
        let parent = of(&[VALID]).unwrap();
        assert_eq!(parent.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.span_id, parent.is_sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(parent.to_string(), VALID);
        assert!(!of(&[&VALID.replace("-01", "-00")]).unwrap().is_sampled);
        // Other flags are for later versions of the standard.
        assert!(!of(&[&VALID.replace("-01", "-02")]).unwrap().is_sampled);
        assert!(of(&[&VALID.replace("00-4", "01-4")]).is_some());
        assert!(of(&[&format!("{}-more", VALID.replace("00-4", "01-4"))]).is_some());
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        for malformed in [
            "",
            "00",
            &VALID.replace("4bf", "4Bf"),
            &VALID.replace("00-4", "ff-4"),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &VALID.replace("-00f", "_00f"),
            &format!("{VALID}-more"),
            &format!("{}more", VALID.replace("00-4", "01-4")),
            &VALID[..54],
        ] {
            assert_eq!(of(&[malformed]), None, "{malformed}");
        }
        assert_eq!(of(&[VALID, VALID]), None, "two callers can't both be the parent");
    }
}
