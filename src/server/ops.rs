//! What operators and orchestrators ask: liveness, readiness, metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header::CONTENT_TYPE};
use serde::Serialize;

use crate::{
    biz::limits::rate_limit::RateGuard,
    data::{Store, redis::RedisCache},
    metrics::Metrics,
};

/// What the answers are made of.
#[derive(Clone)]
pub struct Ops {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub rates: Arc<RateGuard>,
    pub redis: Option<Arc<RedisCache>>,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    service: &'static str,
    /// Where there is one; while it is down checks are slower, and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<&'static str>,
}

const SERVICE: &str = "billing-service";

/// A database that takes longer than this to answer is not ready.
const READY_TIMEOUT: Duration = Duration::from_millis(500);

/// `/health`: the process lives. `/ready`: the database answers.
pub fn health(ops: Ops) -> Router {
    Router::new()
        .route("/health", get(async || Json(Health { status: "UP", service: SERVICE, redis: None })))
        .route("/ready", get(ready))
        .with_state(ops)
}

pub fn metrics(ops: Ops) -> Router {
    Router::new().route("/metrics", get(render)).with_state(ops)
}

async fn ready(State(ops): State<Ops>) -> Response {
    let database = match tokio::time::timeout(READY_TIMEOUT, ops.store.ping()).await {
        Ok(Ok(())) => "UP",
        Ok(Err(_)) | Err(_) => "DOWN",
    };
    let status = if database == "UP" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let redis = ops.redis.map(|redis| if redis.is_up() { "UP" } else { "DOWN" });
    let body = Health { status: database, service: SERVICE, redis };
    (status, Json(body)).into_response()
}

async fn render(State(ops): State<Ops>) -> Response {
    ops.metrics.set_rate_limit_local(ops.rates.is_local());
    match ops.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
