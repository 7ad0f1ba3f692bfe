//! The contract over REST: path, query and body become the request message by the
//! proto3 JSON rules, and the reply message becomes the body.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{FromRequest, MatchedPath, Query, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER},
};
use prost_reflect::MessageDescriptor;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    Api,
    errors::{self, ErrorBody},
    idempotency::IdSource,
    json::{self as request_json, UnknownNames, UnknownPolicy, WRONG_VALUE},
    origin::Origin,
};
use crate::{
    biz::values::error::{Error, Invalid, Result},
    config::Style,
};

/// What a handler needs.
#[derive(Clone)]
pub struct Rest {
    pub api: Arc<Api>,
    pub style: Style,
    pub unknown: UnknownPolicy,
}

/// The handler of one rpc, and where it takes an idempotency id from.
macro_rules! rpc {
    ($method:ident) => {
        rpc!($method, IdSource::None)
    };
    ($method:ident, $id:expr) => {
        async |State(rest): State<Rest>, path: PathResult, request: Request| {
            let answer = match message(&rest, path, request, $id).await {
                Ok(message) => rest.api.$method(message).await,
                Err(error) => Err(error),
            };
            respond(rest.style, answer)
        }
    };
}

type PathResult = std::result::Result<RawPathParams, RawPathParamsRejection>;

/// Where payment-service reports.
pub const CALLBACK_PATH: &str = "/internal/v1/billing/callback";
/// Where top-ups start.
pub const RECHARGE_PATH: &str = "/api/v1/billing/recharge";

/// The routes of BillingService.
pub fn public_routes() -> Router<Rest> {
    Router::new()
        .route("/api/v1/billing/account", get(rpc!(get_account)))
        .route("/api/v1/billing/account/{user_id}", get(rpc!(get_account)))
        .route(RECHARGE_PATH, post(recharge))
        .route("/api/v1/billing/recharge/{order_id}", get(rpc!(get_recharge_order)))
        .route("/api/v1/billing/recharges", get(rpc!(list_recharge_orders)))
        .route("/api/v1/billing/records", get(rpc!(list_records)))
        .route("/api/v1/billing/records.csv", get(export_records))
        .route("/api/v1/billing/stats/today", get(rpc!(get_stats_today)))
        .route("/api/v1/billing/stats/month", get(rpc!(get_stats_month)))
        .route("/api/v1/billing/stats/summary", get(rpc!(get_stats_summary)))
        .route("/api/v1/billing/usage", get(rpc!(get_usage)))
}

/// The routes of BillingInternalService, but for [`callback_route`].
pub fn internal_routes() -> Router<Rest> {
    Router::new()
        .route("/internal/v1/billing/check", post(rpc!(check_quota)))
        .route("/internal/v1/billing/deduct", post(rpc!(deduct_quota, IdSource::TraceId)))
        .route("/internal/v1/billing/deduct/batch", post(rpc!(batch_deduct_quota, IdSource::Items)))
        .route("/internal/v1/billing/reserve", post(rpc!(reserve_quota, IdSource::TraceId)))
        .route("/internal/v1/billing/commit", post(rpc!(commit_reservation, IdSource::Reservation)))
        .route("/internal/v1/billing/release", post(rpc!(release_reservation, IdSource::Reservation)))
        .route("/internal/v1/billing/transactions/{user_id}/{trace_id}", get(rpc!(get_transaction)))
        .route("/internal/v1/billing/users", post(rpc!(initialize_user)))
        .route("/internal/v1/billing/users/{user_id}/limits", post(rpc!(set_user_limits)))
        .route(
            "/internal/v1/billing/api-keys/{api_key_id}/quota",
            get(rpc!(get_api_key_quota)).post(rpc!(set_api_key_quota)),
        )
        .route("/internal/v1/billing/adjust", post(rpc!(adjust_balance, IdSource::AdjustmentId)))
        .route("/internal/v1/billing/tokens/count", post(rpc!(count_tokens)))
}

/// The route that payment-service calls.
pub fn callback_route() -> Router<Rest> {
    Router::new().route(CALLBACK_PATH, post(recharge_callback))
}

/// Whatever the style: CSV has no envelope. Errors have the style's.
async fn export_records(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let answer = match message(&rest, path, request, IdSource::None).await {
        Ok(message) => rest.api.export_records(message).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(lines) => {
            let headers = [
                (CONTENT_TYPE, "text/csv; charset=utf-8"),
                (CONTENT_DISPOSITION, "attachment; filename=\"records.csv\""),
            ];
            (headers, Body::from_stream(lines)).into_response()
        }
        Err(error) => failure(rest.style, &error),
    }
}

async fn recharge(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let origin = Origin::of(request.headers(), request.extensions());
    let answer = match message(&rest, path, request, IdSource::None).await {
        Ok(message) => rest.api.recharge(message, origin).await,
        Err(error) => Err(error),
    };
    respond(rest.style, answer)
}

async fn recharge_callback(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let origin = Origin::of(request.headers(), request.extensions());
    let answer = match message(&rest, path, request, IdSource::None).await {
        Ok(message) => rest.api.recharge_callback(message, origin).await,
        Err(error) => {
            rest.api.count_refused_callback(&error);
            Err(error)
        }
    };
    respond(rest.style, answer)
}

/// The request message.
async fn message<M>(rest: &Rest, path: PathResult, request: Request, id: IdSource) -> Result<M>
where
    M: DeserializeOwned + prost::Name,
{
    let path = path.map_err(|rejection| Invalid::new("path", rejection.body_text()))?;
    let message = request_json::descriptor::<M>();
    let message = message.ok_or_else(|| Error::Internal(format!("{} has no descriptor", M::full_name())))?;
    let header_id = id.read(request.headers()).map(|id| id.map(str::to_owned));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut unknown = UnknownNames::default();
    let mut fields = if request.method() == Method::POST {
        // The body is all of the message; the query has nothing to add.
        query_pairs(&request)?.into_iter().for_each(|(name, _)| unknown.add(|| name));
        body_fields(request, &message, &mut unknown).await?
    } else {
        query_fields(&request, &message, &mut unknown)?
    };
    for (name, value) in &path {
        set_once(&mut fields, name, value.into())?;
    }
    if let Some(field) = id.field()
        && fields.get(field).is_none_or(|value| value == "")
        && let Some(header_id) = header_id?
    {
        fields.insert(field.to_owned(), header_id.into());
    }
    rest.unknown.apply(route.as_ref().map_or("", MatchedPath::as_str), &unknown)?;
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        match error.path().to_string() {
            // The message as a whole.
            whole if whole == "." => Invalid::new("body", error.into_inner().to_string()).into(),
            field => Invalid::new(field, WRONG_VALUE).into(),
        }
    })
}

async fn body_fields(
    request: Request,
    message: &MessageDescriptor,
    unknown: &mut UnknownNames,
) -> Result<Map<String, Value>> {
    let body =
        Bytes::from_request(request, &()).await.map_err(|rejection| Invalid::new("body", rejection.body_text()))?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    request_json::object(&body, message, unknown)
}

fn query_fields(
    request: &Request,
    message: &MessageDescriptor,
    unknown: &mut UnknownNames,
) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    for (name, text) in query_pairs(request)? {
        // An empty parameter is an absent one: number fields have no empty text.
        match request_json::parameter(message, &name, &text) {
            Ok(None) => unknown.add(|| name),
            _ if text.is_empty() => {}
            Ok(Some((field, value))) => set_once(&mut fields, &field, value)?,
            Err(error) => return Err(error),
        }
    }
    Ok(fields)
}

fn query_pairs(request: &Request) -> Result<Vec<(String, String)>> {
    let pairs = Query::try_from_uri(request.uri());
    Ok(pairs.map(|Query(pairs)| pairs).map_err(|rejection| Invalid::new("query", rejection.body_text()))?)
}

fn set_once(fields: &mut Map<String, Value>, name: &str, value: Value) -> Result<()> {
    match fields.get(name) {
        Some(other) if *other != value => Err(Invalid::new(name, "is given twice with different values").into()),
        _ => {
            fields.insert(name.to_owned(), value);
            Ok(())
        }
    }
}

/// Dresses an answer as the style asks.
pub fn respond<R: Serialize>(style: Style, answer: Result<R>) -> Response {
    match (answer, style) {
        (Ok(reply), Style::Plain) => Json(reply).into_response(),
        (Ok(reply), Style::Devshare) => match serde_json::to_value(reply) {
            Ok(data) => Json(json!({"success": true, "data": camel_case_names(data)})).into_response(),
            Err(error) => failure(style, &Error::Internal(error.to_string())),
        },
        (Err(error), _) => failure(style, &error),
    }
}

/// The response of an error.
pub fn failure(style: Style, error: &Error) -> Response {
    let mut response = dress_error(style, errors::kind(error).http, ErrorBody::from(error));
    if let Some(after) = errors::retry_after(error) {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An error as the style asks; those without a code of the contract show their HTTP status.
pub fn dress_error(style: Style, status: StatusCode, body: ErrorBody) -> Response {
    match style {
        Style::Plain => (status, Json(body)).into_response(),
        Style::Devshare => {
            let code = body.metadata.get("error_code").cloned().unwrap_or_else(|| body.code.to_string());
            let dressed = json!({"success": false, "errorCode": code, "errorMessage": body.message});
            (status, Json(dressed)).into_response()
        }
    }
}

/// No message of the contract has a map, so every object key is a field name.
fn camel_case_names(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (lower_camel_case(&name), camel_case_names(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(camel_case_names).collect(),
        other => other,
    }
}

fn lower_camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}
