//! The contract over REST: path, query and body become the request message by the
//! proto3 JSON rules, and the reply message becomes the body.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{FromRequest, Query, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    Api,
    errors::{self, ErrorBody},
    idempotency::IdSource,
    origin::Origin,
    request::{RequestId, note_trace_id},
    routes::{CALLBACK_PATH, RECHARGE_PATH},
};
use crate::{
    biz::values::{
        error::{Error, Result},
        invalid::Invalid,
    },
    config::Style,
};

/// What a handler needs.
#[derive(Clone)]
pub struct Rest {
    pub api: Arc<Api>,
    pub style: Style,
}

/// The handler of one rpc, and where it takes an idempotency id from.
macro_rules! rpc {
    ($feature:ident.$method:ident) => {
        rpc!($feature.$method, IdSource::None)
    };
    ($feature:ident.$method:ident, $id:expr) => {
        async |State(rest): State<Rest>, path: PathResult, request: Request| {
            let replier = Replier::of(rest.style, &request);
            let answer = match message(path, request, $id).await {
                Ok(message) => rest.api.$feature.$method(message).await,
                Err(error) => Err(error),
            };
            replier.respond(answer)
        }
    };
}

type PathResult = std::result::Result<RawPathParams, RawPathParamsRejection>;

/// The routes of BillingService.
pub fn public_routes() -> Router<Rest> {
    Router::new()
        .route("/api/v1/billing/account", get(rpc!(accounts.get_account)))
        .route("/api/v1/billing/account/{user_id}", get(rpc!(accounts.get_account)))
        .route(RECHARGE_PATH, post(recharge))
        .route("/api/v1/billing/recharge/{order_id}", get(rpc!(recharges.get_recharge_order)))
        .route("/api/v1/billing/recharges", get(rpc!(recharges.list_recharge_orders)))
        .route("/api/v1/billing/records", get(rpc!(reports.list_records)))
        .route("/api/v1/billing/records.csv", get(export_records))
        .route("/api/v1/billing/stats/today", get(rpc!(reports.get_stats_today)))
        .route("/api/v1/billing/stats/month", get(rpc!(reports.get_stats_month)))
        .route("/api/v1/billing/stats/summary", get(rpc!(reports.get_stats_summary)))
        .route("/api/v1/billing/usage", get(rpc!(reports.get_usage)))
}

/// The routes of BillingInternalService, but for [`callback_route`].
pub fn internal_routes() -> Router<Rest> {
    Router::new()
        .route("/internal/v1/billing/check", post(rpc!(checks.check_quota)))
        .route("/internal/v1/billing/deduct", post(rpc!(charges.deduct_quota, IdSource::TraceId)))
        .route("/internal/v1/billing/deduct/batch", post(batch_deduct))
        .route("/internal/v1/billing/reserve", post(rpc!(reservations.reserve_quota, IdSource::TraceId)))
        .route("/internal/v1/billing/commit", post(rpc!(reservations.commit_reservation, IdSource::Reservation)))
        .route("/internal/v1/billing/release", post(rpc!(reservations.release_reservation, IdSource::Reservation)))
        .route("/internal/v1/billing/transactions/{user_id}/{trace_id}", get(rpc!(reservations.get_transaction)))
        .route("/internal/v1/billing/users", post(rpc!(accounts.initialize_user)))
        .route("/internal/v1/billing/users/{user_id}/limits", post(rpc!(limits.set_user_limits)))
        .route(
            "/internal/v1/billing/api-keys/{api_key_id}/quota",
            get(rpc!(limits.get_api_key_quota)).post(rpc!(limits.set_api_key_quota)),
        )
        .route("/internal/v1/billing/adjust", post(rpc!(accounts.adjust_balance, IdSource::AdjustmentId)))
        .route("/internal/v1/billing/tokens/count", post(rpc!(tokens.count_tokens)))
}

/// The route that payment-service calls.
pub fn callback_route() -> Router<Rest> {
    Router::new().route(CALLBACK_PATH, post(recharge_callback))
}

/// CSV has no envelope in any style. Errors have the envelope of the style.
async fn export_records(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let replier = Replier::of(rest.style, &request);
    let answer = match message(path, request, IdSource::None).await {
        Ok(message) => rest.api.reports.export_records(message).await,
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
        Err(error) => replier.fail(&error),
    }
}

async fn batch_deduct(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let replier = Replier::of(rest.style, &request);
    let answer = match message(path, request, IdSource::Items).await {
        Ok(message) => rest.api.charges.batch_deduct_quota(message, &replier.id).await,
        Err(error) => Err(error),
    };
    replier.respond(answer)
}

async fn recharge(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let replier = Replier::of(rest.style, &request);
    let origin = Origin::of(request.headers(), request.extensions());
    let answer = match message(path, request, IdSource::None).await {
        Ok(message) => rest.api.recharges.recharge(message, origin).await,
        Err(error) => Err(error),
    };
    replier.respond(answer)
}

async fn recharge_callback(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let replier = Replier::of(rest.style, &request);
    let origin = Origin::of(request.headers(), request.extensions());
    let answer = match message(path, request, IdSource::None).await {
        Ok(message) => rest.api.recharges.recharge_callback(message, origin).await,
        Err(error) => {
            rest.api.recharges.count_refused_callback(&error);
            Err(error)
        }
    };
    replier.respond(answer)
}

/// The request message.
async fn message<M: DeserializeOwned>(path: PathResult, mut request: Request, id: IdSource) -> Result<M> {
    let path = path.map_err(|rejection| Invalid::new("path", rejection.body_text()))?;
    let headers = std::mem::take(request.headers_mut());
    let mut fields =
        if request.method() == Method::POST { body_fields(request).await? } else { query_fields(&request)? };
    for (name, value) in &path {
        set_once(&mut fields, name, value)?;
    }
    let names = id.field().map(|field| [field.to_owned(), lower_camel_case(field)]).unwrap_or_default();
    let given = names.iter().any(|name| fields.get(name).is_some_and(|value| value != ""));
    if !given && let Some(header_id) = id.read(&headers)? {
        names.iter().for_each(|name| drop(fields.remove(name)));
        let [field, _] = names;
        fields.insert(field, header_id.into());
    }
    if let Some(Value::String(trace_id)) = fields.get("trace_id").or_else(|| fields.get("traceId")) {
        note_trace_id(&headers, trace_id);
    }
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        match error.path().to_string() {
            // The message as a whole: a field under two names.
            whole if whole == "." => Invalid::new("body", error.into_inner().to_string()).into(),
            field => Invalid::new(field, "has the wrong type or is out of range").into(),
        }
    })
}

async fn body_fields(request: Request) -> Result<Map<String, Value>> {
    let body =
        Bytes::from_request(request, &()).await.map_err(|rejection| Invalid::new("body", rejection.body_text()))?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(fields.into_iter().filter_map(proto3_field).collect()),
        Ok(_) => Err(Invalid::new("body", "must be a JSON object").into()),
        Err(error) => Err(Invalid::new("body", format!("is not JSON: {error}")).into()),
    }
}

fn proto3_field((name, value): (String, Value)) -> Option<(String, Value)> {
    Some((name, proto3_value(value)?))
}

/// proto3 JSON takes null for an absent field, and 1.0 or 1e3 for a whole number.
fn proto3_value(value: Value) -> Option<Value> {
    /// Up to here every whole double is one integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Null => None,
        Value::Object(fields) => Some(Value::Object(fields.into_iter().filter_map(proto3_field).collect())),
        // An item is never absent: null stays, and is an error that names its place.
        Value::Array(items) => Some(items.into_iter().map(|item| proto3_value(item).unwrap_or(Value::Null)).collect()),
        Value::Number(number) => match number.as_f64() {
            Some(whole) if number.is_f64() && whole.fract() == 0.0 && whole.abs() <= EXACT => {
                Some(Value::from(whole as i64))
            }
            _ => Some(Value::Number(number)),
        },
        other => Some(other),
    }
}

fn query_fields(request: &Request) -> Result<Map<String, Value>> {
    let pairs: Query<Vec<(String, String)>> =
        Query::try_from_uri(request.uri()).map_err(|rejection| Invalid::new("query", rejection.body_text()))?;
    let mut fields = Map::new();
    for (name, value) in &pairs.0 {
        set_once(&mut fields, name, value)?;
    }
    // An empty parameter is an absent one: number fields have no empty text.
    fields.retain(|_, value| value != "");
    Ok(fields)
}

fn set_once(fields: &mut Map<String, Value>, name: &str, value: &str) -> Result<()> {
    match fields.insert(name.to_owned(), value.into()) {
        Some(other) if other != value => Err(Invalid::new(name, "is given twice with different values").into()),
        _ => Ok(()),
    }
}

/// Writes the reply to one request.
pub struct Replier {
    style: Style,
    /// An internal error names it.
    id: RequestId,
}

impl Replier {
    pub fn new(style: Style, id: RequestId) -> Self {
        Self { style, id }
    }

    fn of(style: Style, request: &Request) -> Self {
        Self::new(style, RequestId::beside(request.extensions()))
    }

    /// Dresses an answer as the style asks.
    fn respond<R: Serialize>(&self, answer: Result<R>) -> Response {
        match (answer, self.style) {
            (Ok(reply), Style::Plain) => Json(reply).into_response(),
            (Ok(reply), Style::Devshare) => match serde_json::to_value(reply) {
                Ok(data) => Json(json!({"success": true, "data": camel_case_names(data)})).into_response(),
                Err(error) => self.fail(&Error::Internal(error.to_string())),
            },
            (Err(error), _) => self.fail(&error),
        }
    }

    /// The response of an error, which is logged where the response does not explain it.
    pub fn fail(&self, error: &Error) -> Response {
        errors::log(error, &self.id);
        let mut response = dress_error(self.style, errors::kind(error).http, ErrorBody::new(error, &self.id));
        if let Some(after) = errors::retry_after(error) {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
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
