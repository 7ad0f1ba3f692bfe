//! The entry of one rpc or export.

use http::{HeaderName, Method};
use serde_json::{Map, Value, json};

use super::{
    access::{Access, names_account},
    answers::answers,
    contract::Operation,
    examples::Example,
    port::Port,
    schema::{Given, Schemas},
};
use crate::service::{
    idempotency::{IDEMPOTENCY_KEY, IdSource},
    refusals::refusals,
    request::{REQUEST_ID, TRACE_ID},
    routes::INTERNAL_PREFIX,
};

/// The entry, with the schemas that it refers to.
pub fn entry(port: &Port, operation: &Operation, schemas: &mut Schemas<'_>, examples: &[&Example]) -> Value {
    let in_path = variables(&operation.path);
    let given = Given { in_path: &in_path, account: names_account(port, &operation.path) };
    let access = Access::of_rpc(port, &operation.rpc, &operation.path);
    let (summary, text) = heading(&operation.text);
    let mut description = text;
    if !access.roles.is_empty() {
        let roles = access.roles.join(", ");
        add_paragraph(&mut description, &format!("Roles that may call it: {roles}."));
    }
    let kinds = access.refusals.into_iter().chain(refusals(&operation.rpc));
    let mut entry = json!({
        "operationId": operation_id(operation),
        "summary": summary,
        "description": description,
        "tags": [tag(&operation.path)],
        "parameters": parameters(operation, given, schemas, examples),
        "responses": answers(operation, kinds, schemas, port.names(), examples),
        "security": access.security,
    });
    if !access.roles.is_empty() {
        entry["x-roles"] = access.roles.into();
    }
    if operation.method == Method::POST {
        entry["requestBody"] = body(operation, given, schemas, examples);
    }
    entry
}

/// Two routes of one rpc differ by the variables of their paths.
fn operation_id(operation: &Operation) -> String {
    match operation.path.ends_with("/account/{user_id}") {
        true => format!("{}ByPath", operation.rpc),
        false => operation.rpc.clone(),
    }
}

fn tag(path: &str) -> &'static str {
    match (path.starts_with(INTERNAL_PREFIX), path.ends_with(".csv")) {
        (_, true) => "Exports",
        (true, false) => "BillingInternalService",
        (false, false) => "BillingService",
    }
}

/// The first sentence of a comment, and the whole.
fn heading(text: &str) -> (String, String) {
    let end = text.match_indices(". ").map(|(at, _)| at + 1).next().unwrap_or(text.len());
    let summary = text[..end].lines().next().unwrap_or_default().trim_end_matches('.');
    (summary.to_owned(), text.to_owned())
}

fn add_paragraph(text: &mut String, paragraph: &str) {
    text.push_str("\n\n");
    text.push_str(paragraph);
}

/// The variables of a path.
fn variables(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
}

fn parameters(operation: &Operation, given: Given<'_>, schemas: &mut Schemas<'_>, examples: &[&Example]) -> Vec<Value> {
    let mut parameters: Vec<Value> = Vec::new();
    for field in schemas.request_fields(&operation.request, given) {
        if operation.absent.contains(&field.name.as_str()) {
            continue;
        }
        let place = match given.in_path.contains(&field.name.as_str()) {
            true => "path",
            false if operation.method == Method::POST => continue,
            false => "query",
        };
        let (mut schema, is_required) = (field.schema, field.is_required || place == "path");
        let text = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({"name": field.name, "in": place, "required": is_required, "schema": schema});
        if place == "path" && parameter["schema"]["maxLength"].is_number() {
            parameter["schema"]["minLength"] = 1.into();
        }
        parameter["description"] = text.unwrap_or_default();
        if parameter["description"].is_null() {
            parameter["description"] = "".into();
        }
        let values = examples.iter().filter_map(|example| {
            let value = example.parameters.get(&field.name)?;
            Some((example.name.clone(), json!({"value": value})))
        });
        let values: Map<String, Value> = values.collect();
        if !values.is_empty() {
            parameter["examples"] = values.into();
        }
        parameters.push(parameter);
    }
    parameters.extend(
        headers(&operation.rpc).into_iter().map(|name| json!({"$ref": format!("#/components/parameters/{name}")})),
    );
    parameters
}

/// The headers that an rpc reads.
fn headers(rpc: &str) -> Vec<&'static str> {
    let ids: &[&str] = match id_source(rpc) {
        IdSource::None | IdSource::Items => &[],
        IdSource::TraceId => &["TraceId", "IdempotencyKey"],
        IdSource::Reservation => &["TraceId"],
        IdSource::AdjustmentId | IdSource::RefundId | IdSource::RechargeKey => &["IdempotencyKey"],
    };
    ids.iter().copied().chain(["RequestId"]).collect()
}

/// The source of the id of an rpc over REST, as its route has it.
fn id_source(rpc: &str) -> IdSource {
    match rpc {
        "DeductQuota" | "ReserveQuota" => IdSource::TraceId,
        "CommitReservation" | "ReleaseReservation" => IdSource::Reservation,
        "AdjustBalance" => IdSource::AdjustmentId,
        "RefundCharge" | "RefundRecharge" => IdSource::RefundId,
        "Recharge" => IdSource::RechargeKey,
        "BatchDeductQuota" => IdSource::Items,
        _ => IdSource::None,
    }
}

/// The headers that parameters refer to.
pub fn header_parameters() -> Value {
    let header = |name: &HeaderName, text: &str, schema: Value| json!({"name": name.as_str(), "in": "header", "required": false, "description": text, "schema": schema});
    let id = || json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!#-~][ -~]*$"});
    let key = "The idempotency id of the call, if the message has none.";
    let request =
        "Names the request in its reply and in the logs: 1 to 128 printable ASCII characters. Another one is replaced.";
    json!({
        "TraceId": header(&TRACE_ID, "trace_id, if the message has none.", id()),
        "IdempotencyKey": header(&IDEMPOTENCY_KEY, key, id()),
        "RequestId": header(&REQUEST_ID, request, json!({"type": "string"})),
    })
}

fn body(operation: &Operation, given: Given<'_>, schemas: &mut Schemas<'_>, examples: &[&Example]) -> Value {
    let schema = schemas.request(&operation.request, given);
    let mut content = json!({"schema": schema});
    let values = examples.iter().filter_map(|example| {
        Some((example.name.clone(), json!({"summary": example.summary, "value": example.body.as_ref()?})))
    });
    let values: Map<String, Value> = values.collect();
    if !values.is_empty() {
        content["examples"] = values.into();
    }
    json!({"required": true, "content": {"application/json": content}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_first_sentence() {
        assert_eq!(heading("One two. Three.").0, "One two");
        assert_eq!(heading("One (billing.x).").0, "One (billing.x)");
        assert_eq!(heading("One.\n\nTwo.").0, "One");
    }
}
