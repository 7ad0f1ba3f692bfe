//! The answers of a route, by HTTP status.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    contract::{Operation, Reply},
    examples::{Example, media_type},
    names::Names,
    schema::Schemas,
};
use crate::service::errors::Kind;

/// One error of a route: its reason, and its code in the style of the front end.
struct Refusal {
    reason: &'static str,
    code: String,
}

/// The answers of an rpc or an export, with the errors that it may have.
pub fn answers(
    operation: &Operation,
    kinds: impl Iterator<Item = Kind>,
    schemas: &mut Schemas<'_>,
    names: Names,
    examples: &[&Example],
) -> Map<String, Value> {
    let (schema, text) = match &operation.reply {
        Reply::Json(message) => (names.wrapped(schemas.reply(message)), "The reply."),
        Reply::Csv => (json!({"type": "string"}), "The file. An answer that breaks off is not complete."),
    };
    let kind = media_type(operation);
    let mut answers = errors(kinds, &operation.method, schemas, names, examples);
    answers.insert("200".into(), answer(text, kind, schema, examples_of(examples, StatusCode::OK)));
    answers
}

/// The answers with errors.
pub fn errors(
    kinds: impl Iterator<Item = Kind>,
    method: &Method,
    schemas: &mut Schemas<'_>,
    names: Names,
    examples: &[&Example],
) -> Map<String, Value> {
    let by_status = by_status(kinds, method).into_iter();
    let answer = |(status, refusals): (StatusCode, Vec<Refusal>)| {
        let found = examples_of(examples, status);
        (status.as_str().to_owned(), error(status, &refusals, (schemas, names), found))
    };
    by_status.map(answer).collect()
}

/// An answer without a shared header.
pub fn answer(text: &str, media_type: &str, schema: Value, examples: Map<String, Value>) -> Value {
    let mut content = json!({"schema": schema});
    if !examples.is_empty() {
        content["examples"] = examples.into();
    }
    json!({
        "description": text,
        "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
        "content": {media_type: content},
    })
}

fn by_status(kinds: impl Iterator<Item = Kind>, method: &Method) -> BTreeMap<StatusCode, Vec<Refusal>> {
    let mut by_status: BTreeMap<StatusCode, Vec<Refusal>> = BTreeMap::new();
    for kind in kinds {
        let refusals = by_status.entry(kind.http).or_default();
        if refusals.iter().all(|refusal| refusal.reason != kind.reason) {
            refusals.push(Refusal { reason: kind.reason, code: kind.error_code.to_owned() });
        }
    }
    by_status.values_mut().for_each(|refusals| refusals.sort_by(|one, other| one.code.cmp(&other.code)));
    if method == Method::POST {
        // Errors of HTTP itself have no code of the contract.
        for (status, reason) in [
            (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE"),
        ] {
            by_status.insert(status, vec![Refusal { reason, code: status.as_str().to_owned() }]);
        }
    }
    by_status
}

fn error(
    status: StatusCode,
    refusals: &[Refusal],
    (schemas, names): (&mut Schemas<'_>, Names),
    examples: Map<String, Value>,
) -> Value {
    let marks: Vec<&str> = match names.error_member() {
        "reason" => refusals.iter().map(|refusal| refusal.reason).collect(),
        _ => refusals.iter().map(|refusal| refusal.code.as_str()).collect(),
    };
    let schema = json!({
        "allOf": [
            {"$ref": "#/components/schemas/Error"},
            {"type": "object", "properties": {names.error_member(): {"type": "string", "enum": marks}}},
        ],
    });
    // Routes with the same errors of a status share a schema, so that a client has one type for them.
    let reasons: String = refusals.iter().map(|refusal| title_case(refusal.reason)).collect();
    let schema = schemas.share(&format!("{reasons}Error"), schema);
    let text: Vec<_> = refusals.iter().map(|refusal| format!("{} ({})", refusal.reason, refusal.code)).collect();
    let mut answer = answer(&text.join(", "), "application/json", schema, examples);
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            answer["headers"]["retry-after"] = json!({"$ref": "#/components/headers/RetryAfter"});
        }
        StatusCode::UNAUTHORIZED => {
            answer["headers"]["www-authenticate"] = json!({"$ref": "#/components/headers/Authenticate"});
        }
        _ => {}
    }
    answer
}

/// `UnknownService` of `UNKNOWN_SERVICE`.
fn title_case(reason: &str) -> String {
    let word = |word: &str| format!("{}{}", &word[..1], word[1..].to_ascii_lowercase());
    reason.split('_').filter(|word| word.is_ascii() && !word.is_empty()).map(word).collect()
}

fn examples_of(examples: &[&Example], status: StatusCode) -> Map<String, Value> {
    let found = examples.iter().filter(|example| example.status == status.as_u16());
    found.map(|example| (example.name.clone(), json!({"summary": example.summary, "value": example.reply}))).collect()
}

/// The headers that answers refer to.
pub fn headers() -> Value {
    let text = |text: &str| json!({"description": text, "schema": {"type": "string"}});
    json!({
        "RequestId": text("The id of the request: that of the request, or a new one."),
        "RetryAfter": {
            "description": "Seconds after which a retry may succeed.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "Authenticate": text("The kind of proof that is missing."),
        "RateLimitPolicy": text("The limits that bind the user, by the draft ratelimit-headers of the IETF."),
        "RateLimit": text("What is left of each limit."),
        "ErrorCode": text("The error code of a refusal. Absent if the call was not decided on."),
    })
}
