//! The protocol of a request, by its header, and the replies of tonic to requests that it did not
//! understand.

use axum::{extract::Request, response::Response};
use http::header::CONTENT_TYPE;
use tonic::{Code, Status};

pub fn is_grpc(request: &Request) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The answer of tonic to a message that it could not decode.
pub fn undecoded(response: &Response) -> Option<Status> {
    Status::from_header_map(response.headers()).filter(|status| {
        let codes = [Code::Internal, Code::OutOfRange, Code::ResourceExhausted];
        codes.contains(&status.code()) && status.details().is_empty()
    })
}
