//! The id of a request, and the trace id of its charge, which its log lines name.

use std::sync::{
    Arc, LazyLock, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header::ACCEPT_LANGUAGE};
use uuid::Uuid;

use crate::{biz::values::ids::TraceId, context, texts::Language};

/// The header, or gRPC metadata, of the request id, in requests and in replies.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header, or gRPC metadata, of the trace id.
pub const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Characters of an id.
const MAX_ID: usize = 128;

/// Names one request in its reply and in the logs: the caller's `x-request-id`, or an id that
/// is unique among all servers. A clone copies no text.
#[derive(Debug, Clone)]
pub struct RequestId {
    id: HeaderValue,
    /// The field and the id by which a retry finds the outcome of the request. All clones share it,
    /// so that an error from outside the handler names it too.
    retry_id: Arc<OnceLock<(&'static str, String)>>,
    /// The language of messages over REST.
    language: Language,
}

impl RequestId {
    /// The id in `headers`, if it has 1 to 128 printable ASCII characters, or else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let id = match headers.get(REQUEST_ID) {
            Some(id) if is_id(id) => Self::new(id.clone()),
            _ => Self::fresh(),
        };
        Self { language: language(headers), ..id }
    }

    /// The language that the request prefers; English if it names none.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The id that the transport has added to the request.
    pub fn beside(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(Self::fresh)
    }

    /// A random part for the process, and a number within it. So a request needs no random numbers.
    fn fresh() -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(|| Uuid::now_v7().as_u64_pair().1);
        static MADE: AtomicU64 = AtomicU64::new(0);
        let id = Uuid::from_u64_pair(*PROCESS, MADE.fetch_add(1, Relaxed));
        let mut text = Uuid::encode_buffer();
        // Digits are always a valid header value.
        let id = HeaderValue::from_str(id.as_simple().encode_lower(&mut text));
        Self::new(id.unwrap_or_else(|_| HeaderValue::from_static("unknown")))
    }

    fn new(id: HeaderValue) -> Self {
        Self { id, retry_id: Arc::default(), language: Language::English }
    }

    pub fn as_str(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// Sets the id by which a retry finds the outcome of the request. A request has one such id.
    /// Returns whether this call set it.
    pub fn note_retry_id(&self, field: &'static str, id: &str) -> bool {
        self.retry_id.get().is_none()
            && (1..=MAX_ID).contains(&id.len())
            && self.retry_id.set((field, id.to_owned())).is_ok()
    }

    /// Sets the trace id of a charge or a reservation. If the caller sent none, the server made the
    /// id, and the log lines of the request name it from now on.
    pub fn note_trace_id(&self, trace: &TraceId) {
        if self.note_retry_id("trace_id", trace.as_str()) {
            context::read(|request| request.note_charge_id(trace.as_str()));
        }
    }

    /// The same request id, without a retry id. An item of a batch sets its own.
    pub fn of_item(&self) -> Self {
        Self { language: self.language, ..Self::new(self.id.clone()) }
    }

    /// The field and the id, if they are set.
    pub fn retry_id(&self) -> Option<(&'static str, &str)> {
        self.retry_id.get().map(|(field, id)| (*field, id.as_str()))
    }
}

/// The language that the header `Accept-Language` prefers.
pub fn language(headers: &HeaderMap) -> Language {
    let accepted = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    accepted.map_or(Language::English, Language::preferred)
}

impl From<RequestId> for HeaderValue {
    fn from(id: RequestId) -> Self {
        id.id
    }
}

/// Whether a header is an id: 1 to 128 printable ASCII characters.
pub fn is_id(value: &HeaderValue) -> bool {
    (1..=MAX_ID).contains(&value.len()) && value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Adds the trace id of a message to the log lines of its request.
pub fn note_trace_id(id: &str) {
    if (1..=MAX_ID).contains(&id.len()) {
        context::read(|request| request.note_charge_id(id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn of(id: &[u8]) -> String {
        let headers = [(REQUEST_ID, HeaderValue::from_bytes(id).unwrap())].into_iter().collect();
        RequestId::of(&headers).as_str().to_owned()
    }

    #[test]
    fn a_valid_id_of_the_caller_is_kept_and_any_other_is_replaced() {
        for valid in ["r", "a b/~!", &"x".repeat(128)] {
            assert_eq!(of(valid.as_bytes()), valid);
        }
        for invalid in [&b""[..], &[b'x'; 129], b"tab\there", "größer".as_bytes()] {
            let made = of(invalid);
            assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        }
    }

    #[test]
    fn ids_that_are_made_differ() {
        let made: HashSet<String> = (0..1_000).map(|_| RequestId::of(&HeaderMap::new()).as_str().to_owned()).collect();
        assert_eq!(made.len(), 1_000);
    }
}
