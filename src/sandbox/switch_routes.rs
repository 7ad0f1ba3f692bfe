//! The route that reads and changes the switches at run time.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;

use super::{switches::Switches, till::Till};

pub(super) fn routes() -> Router<Arc<Till>> {
    Router::new().route("/switches", get(read).put(change))
}

async fn read(State(till): State<Arc<Till>>) -> Json<Switches> {
    Json(till.switches())
}

/// Sets all switches; those that the body does not name are off. The content type is ignored,
/// so that plain `curl -X PUT -d` works.
async fn change(State(till): State<Arc<Till>>, body: String) -> Response {
    match body.parse() {
        Ok(switches) => {
            till.set_switches(switches);
            Json(switches).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("switches: {error}\n")).into_response(),
    }
}
