//! The table of errors: code, reason, gRPC status and HTTP status of each.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use prost::Message;
use prost_types::Any;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::pb;

use super::{error_texts::message_in, request::RequestId};
use crate::{
    biz::values::{error::Error, limit::Limit},
    context,
    metrics::Failure,
};

/// The `domain` of google.rpc.ErrorInfo.
pub const DOMAIN: &str = "billing-service";

/// The form of an error on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub error_code: &'static str,
    pub reason: &'static str,
    pub grpc: Code,
    pub http: StatusCode,
}

/// The table. Every error has one of these forms.
pub mod kinds {
    use http::StatusCode;
    use tonic::Code;

    use super::Kind;

    const fn kind(error_code: &'static str, reason: &'static str, grpc: Code, http: StatusCode) -> Kind {
        Kind { error_code, reason, grpc, http }
    }

    pub const INSUFFICIENT_BALANCE: Kind =
        kind("10001", "INSUFFICIENT_BALANCE", Code::FailedPrecondition, StatusCode::BAD_REQUEST);
    pub const INSUFFICIENT_QUOTA: Kind =
        kind("10002", "INSUFFICIENT_QUOTA", Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS);
    pub const ORDER_NOT_FOUND: Kind = kind("10003", "ORDER_NOT_FOUND", Code::NotFound, StatusCode::NOT_FOUND);
    pub const DUPLICATE_RECHARGE: Kind = kind("10004", "DUPLICATE_RECHARGE", Code::AlreadyExists, StatusCode::CONFLICT);
    pub const AMOUNT_MISMATCH: Kind = kind("10005", "AMOUNT_MISMATCH", Code::InvalidArgument, StatusCode::BAD_REQUEST);
    pub const PAYMENT_UNAVAILABLE: Kind =
        kind("10006", "PAYMENT_UNAVAILABLE", Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE);
    pub const IDEMPOTENCY_CONFLICT: Kind =
        kind("10007", "IDEMPOTENCY_CONFLICT", Code::AlreadyExists, StatusCode::CONFLICT);
    pub const UNKNOWN_SERVICE: Kind = kind("10008", "UNKNOWN_SERVICE", Code::InvalidArgument, StatusCode::BAD_REQUEST);
    pub const INVALID_ARGUMENT: Kind =
        kind("10009", "INVALID_ARGUMENT", Code::InvalidArgument, StatusCode::BAD_REQUEST);
    pub const TRANSACTION_NOT_FOUND: Kind =
        kind("10010", "TRANSACTION_NOT_FOUND", Code::NotFound, StatusCode::NOT_FOUND);
    pub const TRANSACTION_STATE: Kind =
        kind("10011", "TRANSACTION_STATE", Code::FailedPrecondition, StatusCode::CONFLICT);
    pub const UNAUTHENTICATED: Kind = kind("10012", "UNAUTHENTICATED", Code::Unauthenticated, StatusCode::UNAUTHORIZED);
    pub const PERMISSION_DENIED: Kind =
        kind("10013", "PERMISSION_DENIED", Code::PermissionDenied, StatusCode::FORBIDDEN);
    pub const OVERLOADED: Kind = kind("10014", "OVERLOADED", Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE);
    pub const ACCOUNT_NOT_ACTIVE: Kind =
        kind("10015", "ACCOUNT_NOT_ACTIVE", Code::FailedPrecondition, StatusCode::FORBIDDEN);
    pub const INTERNAL: Kind = kind("10099", "INTERNAL", Code::Internal, StatusCode::INTERNAL_SERVER_ERROR);
}

/// The form of an error.
pub fn kind(error: &Error) -> Kind {
    match error {
        Error::InsufficientBalance { .. } => kinds::INSUFFICIENT_BALANCE,
        Error::InsufficientQuota(_) => kinds::INSUFFICIENT_QUOTA,
        Error::OrderNotFound(_) | Error::PaymentNotFound(_) => kinds::ORDER_NOT_FOUND,
        Error::DuplicateRecharge(_) => kinds::DUPLICATE_RECHARGE,
        Error::AmountMismatch(_) => kinds::AMOUNT_MISMATCH,
        Error::PaymentUnavailable(_) => kinds::PAYMENT_UNAVAILABLE,
        Error::IdempotencyConflict { .. } => kinds::IDEMPOTENCY_CONFLICT,
        Error::UnknownService(_) => kinds::UNKNOWN_SERVICE,
        Error::Invalid(_) => kinds::INVALID_ARGUMENT,
        Error::TransactionNotFound(_) => kinds::TRANSACTION_NOT_FOUND,
        Error::TransactionState(_) | Error::NotMade(_) => kinds::TRANSACTION_STATE,
        Error::Unauthenticated(_) => kinds::UNAUTHENTICATED,
        Error::PermissionDenied(_) => kinds::PERMISSION_DENIED,
        Error::Overloaded(_) => kinds::OVERLOADED,
        Error::AccountNotActive(_) => kinds::ACCOUNT_NOT_ACTIVE,
        Error::Internal(_) => kinds::INTERNAL,
    }
}

/// The text for the caller, in English. Internal errors have no detail; [`log`] has their text.
pub fn message(error: &Error) -> String {
    match error {
        Error::Internal(_) => "internal error".into(),
        other => other.to_string(),
    }
}

/// The error, in the form that metrics count.
pub fn failure(error: &Error) -> Failure<'_> {
    Failure { error, reason: kind(error).reason }
}

/// Logs an error that its reply does not explain. The code that turns an outcome into a reply calls
/// this once.
pub fn log(error: &Error, request: &RequestId) {
    context::read(|facts| facts.note_reason(kind(error).reason));
    match error {
        Error::Internal(why) => tracing::error!(%why, request_id = request.as_str(), "internal error"),
        other => {
            if let Some(cause) = other.cause() {
                tracing::warn!(error = %cause, request_id = request.as_str(), "storage did not answer");
            }
        }
    }
}

/// Time after which a retry of an overloaded request is worth while.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The time until a retry may succeed: after a refusal by a rate limit, or by an overloaded
/// server.
pub fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::InsufficientQuota(Limit::Rate { retry_after }) => Some(*retry_after),
        Error::Overloaded(_) => Some(OVERLOADED_RETRY_AFTER),
        _ => None,
    }
}

/// As [`retry_after`], in milliseconds, rounded up.
pub fn retry_after_ms(error: &Error) -> Option<i32> {
    retry_after(error).map(|after| i32::try_from(after.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX))
}

/// The mark of a response to a call that was refused at once: for want of a proof, or for a bound of its peer or
/// its caller. On a connection with many of them the response waits. A refusal for one user has no mark, because
/// other users share the connection of a gateway.
#[derive(Debug, Clone, Copy)]
pub struct Paced;

/// The code, and as far as they apply: the field at fault, the time until a retry, the request id
/// of an internal error, and the id that finds an unknown outcome.
fn metadata(error: &Error, request: &RequestId) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([("error_code".to_owned(), kind(error).error_code.to_owned())]);
    match error {
        Error::Invalid(invalid) => {
            metadata.insert("field".into(), invalid.field.clone());
        }
        Error::UnknownService(_) => {
            metadata.insert("field".into(), "service_name".into());
        }
        Error::IdempotencyConflict { fields, .. } => {
            metadata.insert("fields".into(), fields.join(","));
        }
        Error::Internal(_) => {
            metadata.insert("request_id".into(), request.as_str().to_owned());
        }
        _ => {}
    }
    if may_be_settled(error)
        && let Some((field, id)) = request.retry_id()
    {
        metadata.insert(field.into(), id.into());
    }
    if let Some(retry_after_ms) = retry_after_ms(error) {
        metadata.insert("retry_after_ms".into(), retry_after_ms.to_string());
    }
    metadata
}

/// Whether the request may have been settled in spite of the error.
pub fn may_be_settled(error: &Error) -> bool {
    matches!(error, Error::Overloaded(_) | Error::Internal(_))
}

/// google.rpc.ErrorInfo with sorted metadata, so that the same error is the same bytes. The one of tonic-types has a
/// HashMap.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// The gRPC status of an error.
pub fn status(error: &Error, request: &RequestId) -> Status {
    let (kind, message) = (kind(error), message(error));
    let metadata = metadata(error, request);
    let info = ErrorInfo { reason: kind.reason.into(), domain: DOMAIN.into(), metadata };
    let mut details = vec![detail("ErrorInfo", &info)];
    if let Some(retry_after) = retry_after(error) {
        let retry_delay = prost_types::Duration::try_from(retry_after).ok();
        details.push(detail("RetryInfo", &pb::RetryInfo { retry_delay }));
    }
    let details = pb::Status { code: kind.grpc as i32, message: message.clone(), details };
    Status::with_details(kind.grpc, message, details.encode_to_vec().into())
}

fn detail(name: &str, detail: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: detail.encode_to_vec() }
}

/// The JSON body of an error.
#[derive(Debug, Serialize)]
pub struct ErrorBody {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Sorted, so that the same error is the same text.
    pub metadata: BTreeMap<String, String>,
}

impl ErrorBody {
    pub fn new(error: &Error, request: &RequestId) -> Self {
        let kind = kind(error);
        Self {
            code: kind.http.as_u16(),
            reason: kind.reason,
            message: message_in(error, request.language()),
            metadata: metadata(error, request),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tonic_types::StatusExt;

    use super::*;
    use crate::{
        biz::values::{
            error::Duplicate,
            ids::{OrderId, PaymentId},
            invalid::Invalid,
        },
        service::request::REQUEST_ID,
    };

    fn request() -> RequestId {
        RequestId::of(&[(REQUEST_ID, HeaderValue::from_static("r-1"))].into_iter().collect())
    }

    /// The table of the contract, row by row.
    #[test]
    fn every_error_has_the_code_and_statuses_of_the_contract() {
        let text = || "x".to_owned();
        let money = crate::biz::values::money::Money::ZERO;
        let all = [
            (Error::InsufficientBalance { needed: money, available: money }, "10001 INSUFFICIENT_BALANCE 9 400"),
            (Error::InsufficientQuota(crate::biz::values::limit::Limit::Daily), "10002 INSUFFICIENT_QUOTA 8 429"),
            (Error::OrderNotFound(text()), "10003 ORDER_NOT_FOUND 5 404"),
            (Error::PaymentNotFound(PaymentId::from_stored("p")), "10003 ORDER_NOT_FOUND 5 404"),
            (
                Error::DuplicateRecharge(Duplicate::SecondPayment(OrderId::from_stored("o"))),
                "10004 DUPLICATE_RECHARGE 6 409",
            ),
            (Error::AmountMismatch(text()), "10005 AMOUNT_MISMATCH 3 400"),
            (Error::PaymentUnavailable(text()), "10006 PAYMENT_UNAVAILABLE 14 503"),
            (
                Error::IdempotencyConflict { id_field: "trace_id", fields: vec!["cost"] },
                "10007 IDEMPOTENCY_CONFLICT 6 409",
            ),
            (Error::UnknownService(text()), "10008 UNKNOWN_SERVICE 3 400"),
            (Error::Invalid(Invalid::new("count", "x")), "10009 INVALID_ARGUMENT 3 400"),
            (Error::TransactionNotFound(text()), "10010 TRANSACTION_NOT_FOUND 5 404"),
            (Error::TransactionState(text()), "10011 TRANSACTION_STATE 9 409"),
            (Error::Unauthenticated(text()), "10012 UNAUTHENTICATED 16 401"),
            (Error::PermissionDenied(text()), "10013 PERMISSION_DENIED 7 403"),
            (Error::Overloaded(text().into()), "10014 OVERLOADED 14 503"),
            (
                Error::AccountNotActive(crate::biz::values::account_status::AccountStatus::Frozen),
                "10015 ACCOUNT_NOT_ACTIVE 9 403",
            ),
            (Error::Internal(text()), "10099 INTERNAL 13 500"),
        ];
        for (error, row) in all {
            let kind = kind(&error);
            let shown = format!("{} {} {} {}", kind.error_code, kind.reason, kind.grpc as i32, kind.http.as_u16());
            assert_eq!(shown, row);
            let status = status(&error, &request());
            let info = status.get_error_details();
            let info = info.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.metadata["error_code"].as_str()), (kind.reason, kind.error_code));
        }
    }

    #[test]
    fn an_internal_error_leaks_no_detail_and_names_its_request() {
        let error = Error::Internal("table billing_record is gone".into());
        let (status, body) = (status(&error, &request()), ErrorBody::new(&error, &request()));
        assert!(!format!("{status:?} {body:?}").contains("billing_record"));
        assert_eq!(status.get_error_details().error_info().unwrap().metadata["request_id"], "r-1");
        assert_eq!(body.metadata["request_id"], "r-1");
    }

    #[test]
    fn an_error_with_a_text_of_its_own_does_not_name_its_request() {
        let error = Error::OrderNotFound("x".into());
        assert_eq!(ErrorBody::new(&error, &request()).metadata.get("request_id"), None);
    }

    #[test]
    fn the_same_error_is_the_same_text_with_sorted_metadata() {
        let error = Error::Internal("lost".into());
        let sorted = r#""metadata":{"error_code":"10099","request_id":"r-1"}}"#;
        let details = status(&error, &request()).details().to_vec();
        // A HashMap has an order of its own each time.
        for _ in 0..32 {
            let body = serde_json::to_string(&ErrorBody::new(&error, &request())).unwrap();
            assert!(body.ends_with(sorted), "{body}");
            assert_eq!(status(&error, &request()).details(), details, "over gRPC");
        }
    }
}
