//! The protocol and the rpc of a request, by its header and path, and the replies of tonic to
//! requests that it did not understand.

use axum::{extract::Request, response::Response};
use http::header::CONTENT_TYPE;
use tonic::{Code, Status};

use crate::service::rest::{CALLBACK_PATH, RECHARGE_PATH};

/// The path of RechargeCallback over gRPC.
pub const GRPC_CALLBACK_PATH: &str = "/billing.v1.BillingInternalService/RechargeCallback";
/// The path of Recharge over gRPC.
const GRPC_RECHARGE_PATH: &str = "/billing.v1.BillingService/Recharge";

pub fn is_grpc(request: &Request) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether this is a callback, on either protocol.
pub fn is_callback(request: &Request) -> bool {
    matches!(request.uri().path(), CALLBACK_PATH | GRPC_CALLBACK_PATH)
}

/// Whether this starts a top-up, on either protocol.
pub fn starts_recharge(request: &Request) -> bool {
    matches!(request.uri().path(), RECHARGE_PATH | GRPC_RECHARGE_PATH)
}

/// The answer of tonic to a message that it could not decode.
pub fn undecoded(response: &Response) -> Option<Status> {
    Status::from_header_map(response.headers())
        .filter(|status| matches!(status.code(), Code::Internal | Code::OutOfRange) && status.details().is_empty())
}
