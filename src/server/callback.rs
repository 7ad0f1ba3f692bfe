//! Checks the sender of a callback, by a signature over the bytes of the message. The check comes
//! before the message is parsed.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};

use super::{
    content::gunzip,
    request::{is_grpc, undecoded},
    span::Refusal,
};
use crate::{
    biz::values::{
        calendar::Calendar,
        error::{Error, Result},
        invalid::Invalid,
    },
    config::{CallbackAuth, Secret, Style},
    metrics::Metrics,
    service::{
        origin::TrustedCallback,
        signature::{self, Signature},
    },
};

/// Largest callback in bytes, far above any valid one.
const MAX_BYTES: usize = 16 * 1024;
/// Bytes before a gRPC message: one of flags and four of length.
const FRAME_BYTES: usize = 5;

/// The check of callbacks.
#[derive(Clone)]
pub struct CallbackGuard {
    pub auth: CallbackAuth,
    pub secrets: Arc<[Secret]>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

/// Adds the check to the routes of callbacks.
pub fn protect<S: Clone + Send + Sync + 'static>(routes: Router<S>, guard: &CallbackGuard, style: Style) -> Router<S> {
    routes.route_layer(middleware::from_fn_with_state((guard.clone(), style), check))
}

/// Marks a callback as trusted or not, or refuses it.
async fn check(State((guard, style)): State<(CallbackGuard, Style)>, request: Request, next: Next) -> Response {
    let refusal = Refusal::of(&request, style);
    let refused = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "callback refused");
        guard.metrics.recharge.count_refused();
    };
    match guard.admit(request).await {
        Ok(request) => {
            let response = next.run(request).await;
            if let Some(status) = undecoded(&response) {
                refused(&status.message());
            }
            response
        }
        Err(error) => {
            refused(&error);
            refusal.answer(&error)
        }
    }
}

impl CallbackGuard {
    /// Whether a callback proves itself. If not, its sender must be a known caller.
    pub fn proves_itself(&self) -> bool {
        match self.auth {
            CallbackAuth::None => false,
            CallbackAuth::Signed | CallbackAuth::Confirm => true,
        }
    }

    async fn admit(&self, mut request: Request) -> Result<Request> {
        let is_trusted = match self.auth {
            CallbackAuth::None => true,
            CallbackAuth::Confirm => false,
            CallbackAuth::Signed => {
                request = self.verified(request).await?;
                true
            }
        };
        request.extensions_mut().insert(TrustedCallback(is_trusted));
        Ok(request)
    }

    async fn verified(&self, request: Request) -> Result<Request> {
        let unauthenticated = |why: &str| Error::Unauthenticated(format!("{}: {why}", signature::HEADER));
        let grpc = is_grpc(&request);
        let (head, body) = request.into_parts();
        let header = head.headers.get(signature::HEADER).and_then(|value| value.to_str().ok());
        let header = header.ok_or_else(|| unauthenticated("sign the callback"))?;
        // A malformed or old signature is refused before the body is read.
        let signature = Signature::parse(header, self.calendar.now().utc).map_err(unauthenticated)?;
        let body = to_bytes(body, MAX_BYTES).await;
        let body = body.map_err(|error| Error::from(Invalid::new("body", error.to_string())))?;
        let is_gzip = head.headers.get("grpc-encoding").is_some_and(|coding| coding == "gzip");
        let message = if grpc { framed(&body, is_gzip) } else { Some(body.clone()) };
        let message = message.ok_or_else(|| Invalid::new("body", "is no gRPC message"))?;
        let secrets = self.secrets.iter().map(Secret::reveal);
        signature.verify(secrets, &message).map_err(unauthenticated)?;
        Ok(Request::from_parts(head, Body::from(body)))
    }
}

/// The one message of a unary call, decompressed.
fn framed(body: &Bytes, is_gzip: bool) -> Option<Bytes> {
    let (frame, message) = body.split_at_checked(FRAME_BYTES)?;
    let [flag, length @ ..] = frame else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if usize::try_from(length) != Ok(message.len()) {
        return None;
    }
    match flag {
        0 => Some(body.slice(FRAME_BYTES..)),
        1 if is_gzip => gunzip(message, MAX_BYTES).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_one_complete_message() {
        let message = |frame: &'static [u8]| framed(&Bytes::from_static(frame), false).map(|bytes| bytes.to_vec());
        assert_eq!(message(b"\0\0\0\0\x02ab"), Some(b"ab".to_vec()));
        assert_eq!(message(b"\0\0\0\0\0"), Some(Vec::new()));
        let compressed = b"\x01\0\0\0\x02ab";
        let two = b"\0\0\0\0\x01a\0\0\0\0\x01b";
        for bad in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab", compressed, two] {
            assert_eq!(message(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_compressed_callback_is_read_in_the_coding_that_it_names_and_no_further_than_its_bound() {
        let framed_gzip = |content: &[u8], is_gzip| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, content).unwrap();
            let message = encoder.finish().unwrap();
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            framed(&[&[1][..], &length, &message].concat().into(), is_gzip)
        };
        assert_eq!(framed_gzip(b"ab", true), Some(Bytes::from_static(b"ab")));
        assert_eq!(framed_gzip(b"ab", false), None);
        assert_eq!(framed_gzip(&[0; MAX_BYTES + 1], true), None);
    }
}
