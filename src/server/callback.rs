//! Who reports of a top-up: proven by a signature over the message as it was sent, before
//! any of it is parsed.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};

use super::{
    auth,
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
        origin::Believed,
        signature::{self, Signature},
    },
};

/// Many times as large as a callback ever is.
const MAX_BYTES: usize = 64 * 1024;
/// A byte of flags and four of length before a message of gRPC.
const FRAME_BYTES: usize = 5;

/// How callbacks are believed.
#[derive(Clone)]
pub struct CallbackGuard {
    pub auth: CallbackAuth,
    pub secrets: Arc<[Secret]>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

/// Puts the check before the routes of callbacks. payment-service has secrets of its own:
/// only where it proves nothing it needs a token as other callers do.
pub fn protect<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    guard: &CallbackGuard,
    tokens: &[Secret],
    style: Style,
) -> Router<S> {
    let routes = routes.route_layer(middleware::from_fn_with_state((guard.clone(), style), check));
    match guard.auth {
        CallbackAuth::None => auth::protect(routes, tokens, style),
        CallbackAuth::Signed | CallbackAuth::Confirm => routes,
    }
}

/// Marks a callback with whether it is believed, or refuses it.
async fn check(State((guard, style)): State<(CallbackGuard, Style)>, request: Request, next: Next) -> Response {
    let refusal = Refusal::of(&request, style);
    let refused = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "a callback was refused");
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
    async fn admit(&self, mut request: Request) -> Result<Request> {
        let believed = match self.auth {
            CallbackAuth::None => true,
            CallbackAuth::Confirm => false,
            CallbackAuth::Signed => {
                request = self.verified(request).await?;
                true
            }
        };
        request.extensions_mut().insert(Believed(believed));
        Ok(request)
    }

    async fn verified(&self, request: Request) -> Result<Request> {
        let unauthenticated = |why: &str| Error::Unauthenticated(format!("{}: {why}", signature::HEADER));
        let grpc = is_grpc(&request);
        let (head, body) = request.into_parts();
        let header = head.headers.get(signature::HEADER).and_then(|value| value.to_str().ok());
        let header = header.ok_or_else(|| unauthenticated("sign the callback"))?;
        // What is no signature, or an old one, is refused before its body is read.
        let signature = Signature::parse(header, self.calendar.now().utc).map_err(unauthenticated)?;
        let body = to_bytes(body, MAX_BYTES).await;
        let body = body.map_err(|error| Error::from(Invalid::new("body", error.to_string())))?;
        let message =
            if grpc { framed(&body).ok_or_else(|| Invalid::new("body", "is no gRPC message"))? } else { &body };
        let secrets = self.secrets.iter().map(Secret::reveal);
        signature.verify(secrets, message).map_err(unauthenticated)?;
        Ok(Request::from_parts(head, Body::from(body)))
    }
}

/// The one message of a unary call, not compressed.
fn framed(body: &Bytes) -> Option<&[u8]> {
    let (frame, message) = body.split_at_checked(FRAME_BYTES)?;
    let [0, length @ ..] = frame else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    (usize::try_from(length) == Ok(message.len())).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_one_whole_message_and_not_compressed() {
        let message = |frame: &'static [u8]| framed(&Bytes::from_static(frame)).map(<[u8]>::to_vec);
        assert_eq!(message(b"\0\0\0\0\x02ab"), Some(b"ab".to_vec()));
        assert_eq!(message(b"\0\0\0\0\0"), Some(Vec::new()));
        let compressed = b"\x01\0\0\0\x02ab";
        let two = b"\0\0\0\0\x01a\0\0\0\0\x01b";
        for bad in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab", compressed, two] {
            assert_eq!(message(bad), None, "{bad:?}");
        }
    }
}
