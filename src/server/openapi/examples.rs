//! The examples of the document. `examples.json` is one session, in the order of its calls; a test replays it
//! against a server.

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::contract::{Operation, Reply};

/// One call with its answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The key in the document.
    pub name: String,
    /// A sentence about the call.
    pub summary: String,
    pub method: String,
    /// The path with its variables.
    pub route: String,
    /// The variables of the path, and the query.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// The body of a POST.
    #[serde(default)]
    pub body: Option<Value>,
    pub status: u16,
    /// JSON, or the text of a file.
    pub reply: Value,
}

impl Example {
    pub fn is_of(&self, operation: &Operation) -> bool {
        self.method == operation.method.as_str() && self.route == operation.path
    }
}

/// The calls of the session.
///
/// # Errors
/// The file is not readable, which is a defect.
pub fn examples() -> anyhow::Result<Vec<Example>> {
    serde_json::from_str(include_str!("examples.json")).context("examples.json")
}

/// The type of a good answer.
pub fn media_type(operation: &Operation) -> &'static str {
    match operation.reply {
        Reply::Json(_) => "application/json",
        Reply::Csv => "text/csv",
    }
}
