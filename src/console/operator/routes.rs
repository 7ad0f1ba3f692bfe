//! The routes of the pages that only operators have.

use axum::{Router, extract::DefaultBodyLimit, routing::get};

use super::{actions, audit_events, charge, event, find};
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
}

/// The actions. They need the proof of a caller whose role may call their rpcs.
pub fn action_routes() -> Router<Console> {
    Router::new()
        .route("/console/actions/{action}", get(actions::form).post(actions::send))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}
