//! The endpoints for operators and orchestrators: liveness, readiness and metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use tokio::sync::Mutex;

use super::access::{self, Callers, Gate, Refusals, table};
use crate::{
    biz::{limits::rate_limit::RateGuard, settlement::engine::Engine, values::error::StoreError},
    config::{Server, Style},
    data::{Store, redis::RedisCache},
    metrics::Metrics,
};

/// The sources of the answers.
#[derive(Clone)]
pub struct Ops {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub rates: Arc<RateGuard>,
    pub redis: Option<Arc<RedisCache>>,
    pub engine: Arc<Engine>,
    /// The last answer of `/ready`, so that a change is logged once.
    pub was_ready: Arc<AtomicBool>,
    /// The last readiness check of the database. Held while the next one runs.
    pub pinged: Arc<Mutex<Option<Pinged>>>,
    /// The last text of `/metrics`, for all readers. Held while the next one is made.
    pub rendered: Arc<Mutex<Option<Rendered>>>,
    pub metrics_interval: Duration,
}

/// Result of a readiness check of the database, and the start of the check.
pub struct Pinged {
    answer: Result<(), StoreError>,
    asked: Instant,
}

/// The text of `/metrics`, with the time when it was made.
pub struct Rendered {
    text: Bytes,
    at: Instant,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    service: &'static str,
    /// The state of Redis, if it is configured. A lost Redis only makes checks slower, so the service
    /// stays ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<&'static str>,
}

const SERVICE: &str = "billing-service";

/// Deadline of the database's answer. Without an answer the service is not ready.
const READY_TIMEOUT: Duration = Duration::from_millis(500);

/// `/health`: the process is alive. `/ready`: the database answers and takes writes.
pub fn health(ops: Ops) -> Router {
    Router::new()
        .route("/health", get(async || Json(Health { status: "UP", service: SERVICE, redis: None })))
        .route("/ready", get(ready))
        .with_state(ops)
}

pub fn metrics(ops: Ops) -> Router {
    Router::new().route("/metrics", get(render)).with_state(ops)
}

impl Ops {
    /// The result of a readiness check of the database. One check runs at a time, and all probes that came
    /// before its start share its result.
    async fn ping(&self) -> Result<(), StoreError> {
        let came = Instant::now();
        let mut pinged = self.pinged.lock().await;
        if let Some(Pinged { answer, asked }) = &*pinged
            && *asked >= came
        {
            return answer.clone();
        }
        let asked = Instant::now();
        let answer = tokio::time::timeout(READY_TIMEOUT, self.store.ping()).await;
        let answer = answer.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
        *pinged = Some(Pinged { answer: answer.clone(), asked });
        answer
    }
}

async fn ready(State(ops): State<Ops>) -> Response {
    let answer = ops.ping().await;
    let was_ready = ops.was_ready.swap(answer.is_ok(), Relaxed);
    let (database, status) = match answer {
        Ok(()) => ("UP", StatusCode::OK),
        Err(error) => {
            if was_ready {
                tracing::warn!(%error, "not ready");
            }
            ("DOWN", StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    let redis = ops.redis.map(|redis| if redis.is_up() { "UP" } else { "DOWN" });
    let body = Health { status: database, service: SERVICE, redis };
    (status, Json(body)).into_response()
}

/// Many readers cost as much as one.
async fn render(State(ops): State<Ops>) -> Response {
    let mut rendered = ops.rendered.lock().await;
    if let Some(Rendered { text, at }) = &*rendered
        && at.elapsed() < ops.metrics_interval
    {
        return text_response(text.clone());
    }
    ops.metrics.set_rate_limit_local(ops.rates.is_local());
    ops.metrics.set_database_first_host(ops.store.is_on_first_host());
    ops.metrics.requests.set_lane_queues(&ops.engine.waiting());
    ops.metrics.requests.set_parked(ops.engine.parked());
    match text_of(&ops.metrics) {
        Ok(text) => {
            *rendered = Some(Rendered { text: text.clone(), at: Instant::now() });
            text_response(text)
        }
        Err(failed) => failed.into_response(),
    }
}

/// `/metrics` of a process that serves nothing else, with the protection that the server's has.
pub fn metrics_alone(metrics: Arc<Metrics>, config: &Server) -> Router {
    let refusals = Arc::new(Refusals::new(metrics.clone()));
    let render = async move || text_of(&metrics).map_or_else(IntoResponse::into_response, text_response);
    let routes = Router::new().route("/metrics", get(render));
    if !config.grpc.auth.protect_operations {
        return routes;
    }
    let callers = Arc::new(Callers::new(config, refusals));
    access::protect(routes, Gate { callers, style: Style::Plain, roles: Some(table::METRICS) })
}

fn text_response(text: Bytes) -> Response {
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

fn text_of(metrics: &Metrics) -> Result<Bytes, StatusCode> {
    metrics.render().map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "metrics could not be rendered");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
