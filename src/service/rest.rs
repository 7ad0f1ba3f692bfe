//! The contract over REST. Path, query and body become the request message by the proto3 JSON rules,
//! and the reply message becomes the body.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    response::{IntoResponse, Response},
    routing::{any, delete, get, post},
};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Api,
    check::Authorization,
    errors::{self, ErrorBody},
    idempotency::IdSource,
    json::UnknownPolicy,
    message::{PathResult, message},
    origin::{self, Origin},
    request::RequestId,
    routes::{AUTHORIZE_PATH, CALLBACK_PATH, RECHARGE_PATH},
};
use crate::{
    biz::values::error::{Error, Result},
    config::Style,
};

/// The state of the handlers.
#[derive(Clone)]
pub struct Rest {
    pub api: Arc<Api>,
    pub style: Style,
    pub unknown: UnknownPolicy,
}

/// The handler of one rpc, with the source of its idempotency id. `id` stands for a method that also
/// takes the id of the request; `audited` for one that takes the actor, and `forwarding` for one that also
/// takes the headers for payment-service and receivers of webhooks.
macro_rules! rpc {
    (forwarding $feature:ident.$method:ident, $id:expr) => {
        async |State(rest): State<Rest>, path: PathResult, request: Request| {
            let (replier, actor) = (Replier::of(rest.style, &request), origin::actor(request.extensions()));
            let origin = Origin::of(request.headers(), request.extensions());
            let answer = match message(&rest.unknown, path, request, $id).await {
                Ok(message) => rest.api.$feature.$method(message, origin, actor).await,
                Err(error) => Err(error),
            };
            replier.respond(answer)
        }
    };
    ($feature:ident.$method:ident) => {
        rpc!($feature.$method, IdSource::None)
    };
    (audited $feature:ident.$method:ident, $id:expr) => {
        async |State(rest): State<Rest>, path: PathResult, request: Request| {
            let (replier, actor) = (Replier::of(rest.style, &request), origin::actor(request.extensions()));
            let answer = match message(&rest.unknown, path, request, $id).await {
                Ok(message) => rest.api.$feature.$method(message, actor).await,
                Err(error) => Err(error),
            };
            replier.respond(answer)
        }
    };
    ($feature:ident.$method:ident, $id:expr $(, $request_id:ident)?) => {
        async |State(rest): State<Rest>, path: PathResult, request: Request| {
            let replier = Replier::of(rest.style, &request);
            let answer = match message(&rest.unknown, path, request, $id).await {
                Ok(message) => rest.api.$feature.$method(message $(, &replier.$request_id)?).await,
                Err(error) => Err(error),
            };
            replier.respond(answer)
        }
    };
}

/// The handler of an export to the file of that name. CSV has no envelope in any style. Errors have the
/// envelope of the style.
macro_rules! csv {
    ($feature:ident.$method:ident, $file:literal) => {
        async |State(rest): State<Rest>, path: PathResult, request: Request| {
            let replier = Replier::of(rest.style, &request);
            let answer = match message(&rest.unknown, path, request, IdSource::None).await {
                Ok(message) => rest.api.$feature.$method(message).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(lines) => (csv_headers(concat!("attachment; filename=\"", $file, "\"")), Body::from_stream(lines))
                    .into_response(),
                Err(error) => replier.fail(&error),
            }
        }
    };
}

/// The headers of an export.
pub fn csv_headers(disposition: &'static str) -> [(HeaderName, &'static str); 2] {
    [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CONTENT_DISPOSITION, disposition)]
}

/// Most bytes of a body that has few fields.
const MAX_BODY: usize = 64 * 1024;
/// Most bytes of a top-up, and of a callback.
pub const MAX_RECHARGE_BODY: usize = 16 * 1024;

/// The routes of BillingService. `limit` is the most bytes of any body.
pub fn public_routes(limit: usize) -> Router<Rest> {
    Router::new()
        .route("/api/v1/billing/account", get(rpc!(accounts.get_account)))
        .route("/api/v1/billing/account/{user_id}", get(rpc!(accounts.get_account)))
        .route(RECHARGE_PATH, post(recharge))
        .route("/api/v1/billing/recharge/{order_id}", get(rpc!(recharges.get_recharge_order)))
        .route("/api/v1/billing/recharges", get(rpc!(recharges.list_recharge_orders)))
        .route("/api/v1/billing/adjustments", get(rpc!(accounts.list_adjustments)))
        .route("/api/v1/billing/statement", get(rpc!(statements.get_statement)))
        .route("/api/v1/billing/statement.csv", get(csv!(statements.export_statement, "statement.csv")))
        .route("/api/v1/billing/records", get(rpc!(reports.list_records)))
        .route("/api/v1/billing/records.csv", get(csv!(reports.export_records, "records.csv")))
        .route("/api/v1/billing/stats/today", get(rpc!(reports.get_stats_today)))
        .route("/api/v1/billing/stats/month", get(rpc!(reports.get_stats_month)))
        .route("/api/v1/billing/stats/summary", get(rpc!(reports.get_stats_summary)))
        .route("/api/v1/billing/usage", get(rpc!(reports.get_usage)))
        // The top-up is the only route with a body.
        .layer(DefaultBodyLimit::max(MAX_RECHARGE_BODY.min(limit)))
}

/// The routes of BillingInternalService, except [`callback_route`]. `limit` is the most bytes of any
/// body, and holds for batches and texts.
pub fn internal_routes(limit: usize) -> Router<Rest> {
    let large = Router::new()
        .route("/internal/v1/billing/deduct/batch", post(rpc!(charges.batch_deduct_quota, IdSource::Items, id)))
        .route("/internal/v1/billing/tokens/count", post(rpc!(tokens.count_tokens)))
        // It may bring the text of the output.
        .route("/internal/v1/billing/commit", post(rpc!(reservations.commit_reservation, IdSource::Reservation)));
    Router::new()
        .route("/internal/v1/billing/check", post(rpc!(checks.check_quota)))
        .route("/internal/v1/billing/deduct", post(rpc!(charges.deduct_quota, IdSource::TraceId, id)))
        .route("/internal/v1/billing/reserve", post(rpc!(reservations.reserve_quota, IdSource::TraceId, id)))
        .route("/internal/v1/billing/release", post(rpc!(reservations.release_reservation, IdSource::Reservation)))
        .route("/internal/v1/billing/transactions/{user_id}/{trace_id}", get(rpc!(reservations.get_transaction)))
        .route(
            "/internal/v1/billing/recharge/{order_id}/refund",
            post(rpc!(forwarding recharges.refund_recharge, IdSource::RefundId)),
        )
        .route("/internal/v1/billing/unapplied-payments", get(rpc!(recharges.list_unapplied_payments)))
        .route(
            "/internal/v1/billing/unapplied-payments/{payment_order_id}",
            post(rpc!(forwarding recharges.resolve_payment, IdSource::None)),
        )
        .route("/internal/v1/billing/users", post(rpc!(audited accounts.initialize_user, IdSource::None)))
        .route(
            "/internal/v1/billing/users/{user_id}/status",
            post(rpc!(audited accounts.set_account_status, IdSource::None)),
        )
        .route("/internal/v1/billing/users/{user_id}/alerts", post(rpc!(audited accounts.set_alerts, IdSource::None)))
        .route("/internal/v1/billing/users/{user_id}/plan", post(rpc!(audited accounts.set_user_plan, IdSource::None)))
        .route(
            "/internal/v1/billing/users/{user_id}/limits",
            post(rpc!(audited limits.set_user_limits, IdSource::None)),
        )
        .route(
            "/internal/v1/billing/api-keys/{api_key_id}/quota",
            get(rpc!(limits.get_api_key_quota)).post(rpc!(audited limits.set_api_key_quota, IdSource::None)),
        )
        .route("/internal/v1/billing/adjust", post(rpc!(audited accounts.adjust_balance, IdSource::AdjustmentId)))
        .route("/internal/v1/billing/refund", post(rpc!(audited refunds.refund_charge, IdSource::RefundId)))
        .route("/internal/v1/billing/statements.csv", get(csv!(statements.export_statements, "statements.csv")))
        .route("/internal/v1/billing/records.csv", get(csv!(statements.export_all_records, "records.csv")))
        .route("/internal/v1/billing/recharges.csv", get(csv!(statements.export_recharges, "recharges.csv")))
        .route(
            "/internal/v1/billing/recharge-refunds.csv",
            get(csv!(statements.export_recharge_refunds, "recharge-refunds.csv")),
        )
        .route("/internal/v1/billing/adjustments.csv", get(csv!(statements.export_adjustments, "adjustments.csv")))
        .route("/internal/v1/billing/quote", post(rpc!(prices.quote_price)))
        .route(
            "/internal/v1/billing/prices",
            get(rpc!(prices.list_price_versions))
                .post(rpc!(audited prices.put_price_version, IdSource::None))
                .delete(rpc!(audited prices.delete_price_version, IdSource::None)),
        )
        .route("/internal/v1/billing/events", get(rpc!(events.list_events)))
        .route(
            "/internal/v1/billing/webhooks",
            get(rpc!(audited webhooks.list_webhooks, IdSource::None))
                .post(rpc!(audited webhooks.put_webhook, IdSource::None)),
        )
        .route(
            "/internal/v1/billing/webhooks/{webhook_id}",
            delete(rpc!(audited webhooks.delete_webhook, IdSource::None)),
        )
        .route("/internal/v1/billing/webhooks/{webhook_id}/deliveries", get(rpc!(webhooks.list_webhook_deliveries)))
        .route(
            "/internal/v1/billing/webhooks/{webhook_id}/redeliver",
            post(rpc!(forwarding webhooks.redeliver_webhook, IdSource::None)),
        )
        .route(
            "/internal/v1/billing/webhooks/{webhook_id}/test",
            post(rpc!(forwarding webhooks.test_webhook, IdSource::None)),
        )
        .route("/internal/v1/billing/audit-events", get(rpc!(audit_trail.list_audit_events)))
        .layer(DefaultBodyLimit::max(MAX_BODY.min(limit)))
        .merge(large)
}

/// The routes that a proxy asks, with the method and perhaps the path of its client.
pub fn authorize_routes() -> Router<Rest> {
    Router::new()
        .route(AUTHORIZE_PATH, any(authorize))
        .route("/internal/v1/billing/authorize/", any(authorize))
        .route("/internal/v1/billing/authorize/{*path}", any(authorize))
}

/// The route that payment-service calls.
pub fn callback_route(limit: usize) -> Router<Rest> {
    let route = Router::new().route(CALLBACK_PATH, post(recharge_callback));
    route.layer(DefaultBodyLimit::max(MAX_RECHARGE_BODY.min(limit)))
}

async fn recharge(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let replier = Replier::of(rest.style, &request);
    let origin = Origin::of(request.headers(), request.extensions());
    let answer = match message(&rest.unknown, path, request, IdSource::RechargeKey).await {
        Ok(message) => rest.api.recharges.recharge(message, origin, &replier.id).await,
        Err(error) => Err(error),
    };
    replier.respond(answer)
}

async fn recharge_callback(State(rest): State<Rest>, path: PathResult, request: Request) -> Response {
    let replier = Replier::of(rest.style, &request);
    let origin = Origin::of(request.headers(), request.extensions());
    let answer = match message(&rest.unknown, path, request, IdSource::None).await {
        Ok(message) => rest.api.recharges.recharge_callback(message, origin).await,
        Err(error) => {
            rest.api.recharges.count_refused_callback(&error);
            Err(error)
        }
    };
    replier.respond(answer)
}

async fn authorize(State(rest): State<Rest>, request: Request) -> Response {
    let replier = Replier::of(rest.style, &request);
    match rest.api.checks.authorize(request.headers()).await {
        Ok(authorization) => replier.authorize(authorization),
        Err(error) => replier.fail(&error),
    }
}

/// Marks the response to a request that names the account of another user.
#[derive(Debug, Clone, Copy)]
pub struct Denied;

/// Writes the reply to one request.
pub struct Replier {
    style: Style,
    /// The id, which an internal error names.
    id: RequestId,
}

impl Replier {
    pub fn new(style: Style, id: RequestId) -> Self {
        Self { style, id }
    }

    fn of(style: Style, request: &Request) -> Self {
        Self::new(style, RequestId::beside(request.extensions()))
    }

    /// Builds the response to an answer in the configured style.
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

    /// The response to a proxy: 200 without a body, or the refusal.
    fn authorize(&self, Authorization { refusal, headers }: Authorization) -> Response {
        let mut response = refusal.map_or_else(Response::default, |(refusal, status)| {
            let body = ErrorBody { code: status.as_u16(), ..ErrorBody::new(&refusal, &self.id) };
            error_response(self.style, status, body)
        });
        // A cache in the proxy would show the answer for one user to another.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// The response to an error. Logs the error if the response does not explain it.
    pub fn fail(&self, error: &Error) -> Response {
        errors::log(error, &self.id);
        let mut response = error_response(self.style, errors::kind(error).http, ErrorBody::new(error, &self.id));
        if matches!(error, Error::PermissionDenied(_)) {
            response.extensions_mut().insert(Denied);
        }
        if let Some(after) = errors::retry_after(error) {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The response with an error body, in the given style. The code of an error without a contract
/// code is its HTTP status.
pub fn error_response(style: Style, status: StatusCode, body: ErrorBody) -> Response {
    match style {
        Style::Plain => (status, Json(body)).into_response(),
        Style::Devshare => {
            let code = body.metadata.get("error_code").cloned().unwrap_or_else(|| body.code.to_string());
            let dressed = json!({"success": false, "errorCode": code, "errorMessage": body.message});
            (status, Json(dressed)).into_response()
        }
    }
}

/// Converts all object keys to lowerCamelCase. The messages of the public contract have no maps, so every
/// key is a field name.
fn camel_case_names(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (lower_camel_case(&name), camel_case_names(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(camel_case_names).collect(),
        other => other,
    }
}

pub fn lower_camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}
