//! The entries of the routes for operators, orchestrators and readers of this document.

use serde_json::{Map, Value, json};

use super::{access::Access, answers::answer, port::Port};
use crate::server::access::table;

/// The paths that no rpc and no export has.
pub fn entries(port: &Port) -> Vec<(&'static str, Value)> {
    let health = || json!({"$ref": "#/components/schemas/Health"});
    let json_answer = |text: &str| answer(text, "application/json", health(), Map::new());
    let text = |text: &str, kind: &str| answer(text, kind, json!({"type": "string"}), Map::new());
    let file = |text: &str, kind: &str, schema: Value| answer(text, kind, schema, Map::new());
    let overloaded = || {
        let schema = json!({"$ref": "#/components/schemas/Error"});
        answer("OVERLOADED (10014)", "application/json", schema, Map::new())
    };
    let of_readers = || Access::of_callers(port, table::REFLECTION);
    let mut entries = vec![
        get("/health", "Health", "The process is alive", json!({"200": json_answer("It is alive.")}), None),
        get(
            "/ready",
            "Ready",
            "The database answers and takes writes",
            json!({"200": json_answer("The server is ready."), "503": json_answer("The database does not answer.")}),
            None,
        ),
        get(
            "/openapi.json",
            "OpenApi",
            "This document",
            json!({
                "200": file("The document of the port.", "application/json", json!({"type": "object"})),
                "503": overloaded(),
            }),
            port.protects_operations().then(of_readers),
        ),
        get(
            "/docs",
            "Docs",
            "This document as a page",
            json!({"200": text("The page.", "text/html"), "503": overloaded()}),
            port.protects_operations().then(of_readers),
        ),
    ];
    if !port.is_public {
        let access = port.protects_operations().then(|| Access::of_callers(port, table::METRICS));
        let answers = json!({"200": text("The metrics, in the text format of Prometheus.", "text/plain")});
        entries.push(get("/metrics", "Metrics", "The metrics of the server", answers, access));
    }
    entries
}

fn get(
    path: &'static str,
    id: &str,
    summary: &str,
    mut answers: Value,
    access: Option<Access>,
) -> (&'static str, Value) {
    let Access { security, roles, refusals } = access.unwrap_or_default();
    if !refusals.is_empty() {
        for (status, reason) in [("401", "UNAUTHENTICATED (10012)"), ("403", "PERMISSION_DENIED (10013)")] {
            let schema = json!({"$ref": "#/components/schemas/Error"});
            answers[status] = answer(reason, "application/json", schema, Map::new());
        }
    }
    let mut entry = json!({
        "operationId": id, "summary": summary, "tags": ["Operations"], "responses": answers, "security": security,
    });
    if !roles.is_empty() {
        entry["x-roles"] = roles.into();
    }
    (path, json!({"get": entry}))
}

/// The schema of `/health` and `/ready`.
pub fn health() -> Value {
    json!({
        "type": "object",
        "properties": {
            "status": {"type": "string", "enum": ["UP", "DOWN"]},
            "service": {"type": "string"},
            "redis": {"type": "string", "enum": ["UP", "DOWN"], "description": "Absent without Redis, and of /health."},
        },
        "required": ["status", "service"],
    })
}
