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

/// All of them at once: what the body does not name is off. The content type does not
/// matter, so that `curl -X PUT -d` will do.
async fn change(State(till): State<Arc<Till>>, body: String) -> Response {
    match body.parse() {
        Ok(switches) => {
            till.set_switches(switches);
            Json(switches).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("switches: {error}\n")).into_response(),
    }
}
