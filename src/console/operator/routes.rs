//! The routes of the pages that only operators have.

use axum::{Router, routing::get};

use super::{audit_events, charge, find};
use crate::console::state::Console;

/// They need the proof of a caller with the role support or admin.
pub fn operator_routes() -> Router<Console> {
    Router::new()
        .route("/console/find", get(find::show))
        .route("/console/charge", get(charge::show))
        .route("/console/audit-events", get(audit_events::list))
}
