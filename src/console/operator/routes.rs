//! The routes of the pages that only operators have.

use axum::{
    Router,
    routing::{get, post},
};

use super::{audit_events, charge, find, webhook, webhook_form::PATH, webhooks};
use crate::console::state::Console;

/// They need the proof of a caller with the role support or admin.
pub fn operator_routes() -> Router<Console> {
    Router::new()
        .route("/console/find", get(find::show))
        .route("/console/charge", get(charge::show))
        .route("/console/audit-events", get(audit_events::list))
        .route(PATH, get(webhooks::list))
        .route("/console/webhooks/{webhook_id}", get(webhook::show))
}

/// The forms that change something. They need the proof of a caller with the role admin.
pub fn change_routes() -> Router<Console> {
    Router::new()
        .route(PATH, post(webhooks::put))
        .route("/console/webhooks/{webhook_id}/test", post(webhook::test))
        .route("/console/webhooks/{webhook_id}/redeliver", post(webhook::redeliver))
        .route("/console/webhooks/{webhook_id}/rotate", post(webhook::rotate))
        .route("/console/webhooks/{webhook_id}/delete", post(webhook::delete))
}
