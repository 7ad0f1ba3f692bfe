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
    access::{Reason, UNKNOWN},
    listener::Connection,
    refusal::Refusal,
    request::{is_grpc, undecoded},
};
use crate::{
    biz::{
        limits::lines::Lines,
        values::{
            calendar::Calendar,
            error::{Error, Result},
            invalid::Invalid,
        },
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
    /// The log lines of refusals.
    pub lines: Arc<Lines>,
}

/// Adds the check to the routes of callbacks.
pub fn protect<S: Clone + Send + Sync + 'static>(routes: Router<S>, guard: &CallbackGuard, style: Style) -> Router<S> {
    routes.route_layer(middleware::from_fn_with_state((guard.clone(), style), check))
}

/// Marks a callback as trusted or not, or refuses it.
async fn check(State((guard, style)): State<(CallbackGuard, Style)>, request: Request, next: Next) -> Response {
    let refusal = Refusal::of(&request, style);
    let is_signed = request.headers().contains_key(signature::HEADER);
    let refused = |error: &dyn std::fmt::Display| {
        if let Some(left_out) = guard.lines.admit() {
            tracing::warn!(%error, left_out, "payment callback refused");
        }
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
            if matches!(error, Error::Unauthenticated(_)) {
                let reason = if is_signed { Reason::Invalid } else { Reason::Missing };
                guard.metrics.requests.count_refused(UNKNOWN, reason.name());
                return refusal.paced(&error);
            }
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
                if let Some(connection) = request.extensions().get::<Connection>() {
                    connection.prove();
                }
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
        let message = if grpc { framed(&body) } else { Some(body.clone()) };
        let message = message.ok_or_else(|| Invalid::new("body", "is no gRPC message"))?;
        let secrets = self.secrets.iter().map(Secret::reveal);
        signature.verify(secrets, &message).map_err(unauthenticated)?;
        Ok(Request::from_parts(head, Body::from(body)))
    }
}

/// The one message of a unary call. It was inflated before.
fn framed(body: &Bytes) -> Option<Bytes> {
    let (frame, message) = body.split_at_checked(FRAME_BYTES)?;
    let [0, length @ ..] = frame else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    (usize::try_from(length) == Ok(message.len())).then(|| body.slice(FRAME_BYTES..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_one_complete_message() {
        let message = |frame: &'static [u8]| framed(&Bytes::from_static(frame)).map(|bytes| bytes.to_vec());
        assert_eq!(message(b"\0\0\0\0\x02ab"), Some(b"ab".to_vec()));
        assert_eq!(message(b"\0\0\0\0\0"), Some(Vec::new()));
        let compressed = b"\x01\0\0\0\x02ab";
        let two = b"\0\0\0\0\x01a\0\0\0\0\x01b";
        for bad in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab", compressed, two] {
            assert_eq!(message(bad), None, "{bad:?}");
        }
    }
}
