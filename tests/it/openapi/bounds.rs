//! The bounds in the documents are those that the service checks: a value beyond a bound is refused and its field
//! named, and a value at the bound is not.

use billing_service::server::openapi::{Example, examples};
use serde_json::{Value, json};

use super::{
    documents, operations,
    replay::{Renamed, send, server},
};
use crate::harness::{Service, Sqlite};

/// Longer texts would be beyond the largest body.
const LONGEST_TEXT: u64 = 10_000;

/// Values at a bound that another rule refuses: the end of the path, and the begin of the field.
const REFUSED_AT_THE_BOUND: [(&str, &str); 21] = [
    // Parts of a usage are not above their whole.
    ("", "usage."),
    // The sum of the balance and all pending top-ups has a bound, and the currency has two decimal places.
    ("", "amount"),
    // A day of the year 9999 has no day before in reach, and a month that has not begun is an error.
    ("", "from"),
    ("", "month"),
    // Only names of the configuration, or of this list.
    ("", "plan"),
    ("", "currency"),
    ("", "page_token"),
    ("/events", "after"),
    ("/events", "types"),
    ("/quote", "model"),
    ("/quote", "service_tier"),
    // Without tokens there is no estimate, which a model needs.
    ("/quote", "estimated_"),
    // Of other actions than credit.
    ("/unapplied-payments/{payment_order_id}", "user_id"),
    ("/unapplied-payments/{payment_order_id}", "action"),
    // A text is no URL, and the hours are for rotate_secret.
    ("/webhooks", "url"),
    ("/webhooks", "overlap_hours"),
    // Only webhooks and events that exist.
    ("/webhooks/{webhook_id}/redeliver", "webhook_id"),
    ("/webhooks/{webhook_id}/redeliver", "event_id"),
    ("/webhooks/{webhook_id}/test", "webhook_id"),
    ("/webhooks/{webhook_id}/deliveries", "webhook_id"),
    // A tier needs its neighbours.
    ("", "above_input_tokens"),
];

/// Fields that are read with other values of another field alone.
const READ_LATER: [(&str, &str); 2] =
    [("/callback", "refund_id"), ("/unapplied-payments/{payment_order_id}", "user_id")];

/// A field of an operation.
struct Field {
    /// With the names of the messages around it, such as `usage.images`.
    name: String,
    schema: Value,
    is_required: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Parameter,
    Body,
}

fn fields(document: &Value, entry: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    for parameter in entry["parameters"].as_array().into_iter().flatten() {
        if let Some(name) = parameter["name"].as_str() {
            fields.push(Field {
                name: name.to_owned(),
                schema: parameter["schema"].clone(),
                is_required: parameter["required"] == true && parameter["in"] == "query",
                place: Place::Parameter,
            });
        }
    }
    let body = &entry["requestBody"]["content"]["application/json"]["schema"];
    members(document, body, "", &mut fields);
    fields
}

/// The members of a message, and of the messages in it. Lists have an error for each of their items instead.
fn members(document: &Value, schema: &Value, before: &str, fields: &mut Vec<Field>) {
    let Some(target) = schema["$ref"].as_str() else { return };
    let message = document.pointer(&target[1..]).unwrap();
    let required = message["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in message["properties"].as_object().unwrap() {
        let path = format!("{before}{name}");
        members(document, schema, &format!("{path}."), fields);
        let is_required = before.is_empty() && required.contains(&json!(name));
        fields.push(Field { name: path, schema: schema.clone(), is_required, place: Place::Body });
    }
}

/// Values outside of a bound.
fn outside(schema: &Value, example: &Value) -> Vec<Value> {
    let mut values = Vec::new();
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| *most < LONGEST_TEXT) {
        values.push(json!("x".repeat(most as usize + 1)));
    }
    if schema["pattern"].is_string() {
        values.extend([json!("\u{7}"), json!("\u{2028}")]);
    }
    if schema["minLength"] == 1 {
        values.push(json!(""));
    }
    if schema["enum"].is_array() {
        values.push(json!("unheard of"));
    }
    if let (Some(least), "integer") = (schema["minimum"].as_i64(), kind(schema)) {
        values.extend([json!(least - 1), json!(schema["maximum"].as_i64().unwrap() + 1)]);
    }
    if let (Some(most), "number") = (schema["maximum"].as_f64(), kind(schema)) {
        let least = schema["minimum"].as_f64().map(|least| least - 1.0);
        values.extend([json!(most + 1.0), json!(least.or(schema["exclusiveMinimum"].as_f64()).unwrap())]);
    }
    if let Some(most) = schema["maxItems"].as_u64() {
        let item = example.get(0).cloned().unwrap_or_else(|| item_of(schema));
        values.push(vec![item; most as usize + 1].into());
    }
    if schema["minItems"] == 1 {
        values.push(json!([]));
    }
    if let Some(most) = schema["maxProperties"].as_u64() {
        let entry = |number: u64| (format!("tier-{number}"), json!(1));
        values.push((0..=most).map(entry).collect::<serde_json::Map<_, _>>().into());
        values.extend([json!({"a tier": 1}), json!({"tier": 1001})]);
    }
    values
}

fn kind(schema: &Value) -> &str {
    schema["type"].as_str().unwrap_or_default()
}

/// An item of a list that no example has.
fn item_of(schema: &Value) -> Value {
    match schema["items"]["$ref"].as_str() {
        Some("#/components/schemas/ChatMessageInput") => json!({"role": "user"}),
        Some("#/components/schemas/PriceTierInput") => json!({"above_input_tokens": 1}),
        _ => json!("x"),
    }
}

/// Values at a bound.
fn inside(schema: &Value) -> Vec<Value> {
    let mut values = Vec::new();
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| *most < LONGEST_TEXT) {
        values.push(json!("x".repeat(most as usize)));
    }
    values.extend(schema["enum"].as_array().into_iter().flatten().cloned());
    for bound in ["minimum", "maximum"] {
        values.extend(schema.get(bound).cloned());
    }
    values
}

/// The example with another value of a field; `None` leaves the field out.
fn with(example: &Example, field: &Field, value: Option<Value>) -> Example {
    let mut changed = example.clone();
    let members = match field.place {
        Place::Parameter => &mut changed.parameters,
        Place::Body => changed.body.as_mut().unwrap().as_object_mut().unwrap(),
    };
    let (message, name) = field.name.rsplit_once('.').unwrap_or(("", &field.name));
    let members = match message {
        "" => members,
        // The estimate excludes the usage of the same call.
        message => members.entry(message).or_insert_with(|| json!({})).as_object_mut().unwrap(),
    };
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    if name.starts_with("estimated_") {
        members.remove("usage");
    }
    if name == "page" {
        members.insert("page_size".into(), json!(1));
    }
    if matches!(name, "page_token" | "page_size") && example.route.ends_with("/usage") {
        members.insert("group_by".into(), json!("service"));
    }
    // Without another id, a repeat gets its first outcome, whose request is compared.
    for id in ["trace_id", "adjustment_id", "refund_id", "idempotency_key"] {
        if id != name && field.place == Place::Body && members.contains_key(id) && !example.route.ends_with("/refund") {
            changed.headers.clear();
        }
    }
    changed
}

/// An answer to a changed example.
struct Answer {
    status: u16,
    reason: String,
    /// The field that it names.
    field: Option<String>,
}

impl Answer {
    fn names(&self, field: &Field) -> bool {
        // An item of a list has its number behind the name.
        let is_of = |found: &str| found == field.name || found.starts_with(&format!("{}[", field.name));
        self.field.as_deref().is_some_and(is_of)
    }

    fn refuses(&self, field: &Field) -> bool {
        // Another currency than that of the account is another amount.
        self.status == 400 && (self.names(field) || self.reason == "AMOUNT_MISMATCH")
    }
}

/// One route, with an example that it answers well.
struct Route<'r> {
    service: &'r Service,
    path: &'r str,
    example: &'r Example,
}

impl Route<'_> {
    async fn answer(&self, field: &Field, value: Option<Value>) -> Answer {
        let response = send(self.service, &with(self.example, field, value), &Renamed::default()).await;
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        let reply: Value = serde_json::from_str(&text).unwrap_or_default();
        let word = |value: &Value| value.as_str().map(str::to_owned);
        Answer { status, reason: word(&reply["reason"]).unwrap_or_default(), field: word(&reply["metadata"]["field"]) }
    }

    fn is_listed(&self, list: &[(&str, &str)], field: &Field) -> bool {
        list.iter().any(|(end, begin)| self.path.ends_with(end) && field.name.starts_with(begin))
    }

    /// Values beyond the bound of a field, and no value if it is required.
    fn beyond(&self, field: &Field) -> Vec<Option<Value>> {
        if self.is_listed(&READ_LATER, field) {
            return Vec::new();
        }
        let value = self.example.body.as_ref().map(|body| body[&field.name].clone()).unwrap_or_default();
        let mut values = outside(&field.schema, &value);
        if self.path.contains(&format!("{{{}}}", field.name)) {
            // An empty variable makes another path.
            values.retain(|value| value != "");
        }
        values.into_iter().map(Some).chain(field.is_required.then_some(None)).collect()
    }

    fn at(&self, field: &Field) -> Vec<Value> {
        if self.is_listed(&REFUSED_AT_THE_BOUND, field) { Vec::new() } else { inside(&field.schema) }
    }

    /// Tries the bounds of a field. Returns the number of values, and the faults.
    async fn try_bounds(&self, field: &Field) -> (usize, Vec<String>) {
        let (beyond, at) = (self.beyond(field), self.at(field));
        let (tried, mut faults) = (beyond.len() + at.len(), Vec::new());
        for value in beyond {
            let shown: String = format!("{value:?}").chars().take(60).collect();
            let answer = self.answer(field, value).await;
            if !answer.refuses(field) {
                let Answer { status, reason, field: named } = answer;
                faults.push(format!("{} takes {} {shown}: {status} {reason} {named:?}", self.path, field.name));
            }
        }
        for value in at {
            let shown: String = value.to_string().chars().take(60).collect();
            let answer = self.answer(field, Some(value)).await;
            if answer.reason == "INVALID_ARGUMENT" && answer.names(field) {
                faults.push(format!("{} refuses {} {shown}", self.path, field.name));
            }
        }
        (tried, faults)
    }
}

#[tokio::test]
async fn the_service_refuses_values_beyond_the_bounds_of_the_documents_and_takes_those_at_them() {
    let (paying, all) = (server(Sqlite).await, examples().unwrap());
    let service = &paying.service;
    for user in ["user_001", "user_002"] {
        service.adjust(user, 1_000.0).await;
    }
    let (mut tried, mut faults) = (0, Vec::new());
    for (_, document) in documents(service).await {
        for (method, path, entry) in operations(&document) {
            let is_of = |example: &&Example| example.method == method.as_str() && example.route == path;
            let Some(example) = all.iter().filter(is_of).find(|example| example.status == 200) else { continue };
            let route = Route { service, path: &path, example };
            for field in fields(&document, entry) {
                let (more, found) = route.try_bounds(&field).await;
                tried += more;
                faults.extend(found);
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(tried > 500, "{tried}");
}
