//! The form of replies: plain, or as the front end of the platform has them.

use serde_json::{Value, json};

use crate::{config::Style, service::rest::lower_camel_case};

/// The form of the replies of a port.
#[derive(Debug, Clone, Copy)]
pub struct Names(pub Style);

impl Names {
    pub fn of_field(self, field: &str) -> String {
        match self.0 {
            Style::Plain => field.to_owned(),
            Style::Devshare => lower_camel_case(field),
        }
    }

    /// The schema of the body around a reply.
    pub fn wrapped(self, reply: Value) -> Value {
        match self.0 {
            Style::Plain => reply,
            Style::Devshare => json!({
                "type": "object",
                "properties": {"success": {"const": true}, "data": reply},
                "required": ["success", "data"],
            }),
        }
    }

    /// The schema of every error.
    pub fn error(self) -> Value {
        match self.0 {
            Style::Plain => json!({
                "type": "object",
                "description": "Every error. metadata has error_code, and as far as they apply: field, fields, \
                    retry_after_ms, request_id, and the id that finds an unknown outcome.",
                "properties": {
                    "code": {"type": "integer", "description": "The HTTP status."},
                    "reason": {"type": "string"},
                    "message": {"type": "string"},
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                },
                "required": ["code", "reason", "message", "metadata"],
            }),
            Style::Devshare => json!({
                "type": "object",
                "description": "Every error.",
                "properties": {
                    "success": {"const": false},
                    "errorCode": {"type": "string", "description": "The error code, or the HTTP status of an error of HTTP."},
                    "errorMessage": {"type": "string"},
                },
                "required": ["success", "errorCode", "errorMessage"],
            }),
        }
    }

    /// The part of an error that tells one from another: its reason, or its code.
    pub fn error_member(self) -> &'static str {
        match self.0 {
            Style::Plain => "reason",
            Style::Devshare => "errorCode",
        }
    }
}
