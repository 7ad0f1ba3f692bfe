//! The routes of the pages that only operators have.

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};

use super::{actions, api_key, audit_events, charge, event, find, health, jobs, prices, unapplied, webhook, webhooks};
use crate::console::state::Console;

/// Most bytes of the form of an action. That of a price version is the largest.
const MAX_FORM: usize = 32 * 1024;

/// They need the proof of a caller with the role support or admin.
pub fn operator_routes() -> Router<Console> {
    Router::new()
        .route("/console/find", get(find::show))
        .route("/console/charge", get(charge::show))
        .route("/console/audit-events", get(audit_events::list))
        .route("/console/audit-events/{id}", get(event::show))
        .route("/console/unapplied-payments", get(unapplied::list))
        .route("/console/jobs", get(jobs::list))
        .route("/console/health", get(health::show))
        .route("/console/webhooks", get(webhooks::list))
        .route("/console/webhooks/{webhook_id}", get(webhook::show))
}

/// The actions, and the pages of what only the role admin may read. They need the proof of a caller with that role.
pub fn admin_routes() -> Router<Console> {
    Router::new()
        .route("/console/actions/{action}", get(actions::form).post(actions::send))
        .route("/console/prices", get(prices::list))
        .route("/console/api-key", get(api_key::show))
        .route("/console/webhooks", post(webhooks::put))
        .route("/console/webhooks/{webhook_id}/test", post(webhook::test))
        .route("/console/webhooks/{webhook_id}/redeliver", post(webhook::redeliver))
        .route("/console/webhooks/{webhook_id}/rotate", post(webhook::rotate))
        .route("/console/webhooks/{webhook_id}/delete", post(webhook::delete))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}
