//! The examples of the documents, replayed against a server. With BILLING_WRITE_EXAMPLES=1 the answers of the
//! server become those of `src/server/openapi/examples.json`.

use std::{collections::HashMap, fs, path::Path};

use billing_service::server::openapi::{Example, examples};
use reqwest::{Method, Response};
use rstest::rstest;
use serde_json::{Map, Value, json};

use super::{documents, operations};
use crate::harness::{Backend, MySql, Service, Sqlite, payments::Paying};

/// The begin of a cursor of the feed: `e2.` in base64.
const CURSOR: &str = "ZTIu";

/// Webhooks, services that are priced by model, a plan, and payments that are made at once, without a callback of their own.
pub const SETTINGS: [(&str, &str); 5] = [
    ("billing.webhooks.key", crate::webhooks::KEY),
    ("billing.model_services", "{llm: calls}"),
    ("billing.models", "{gpt-4.1: {input: 15, cached_input: 4, output: 60}}"),
    ("billing.plans", "{reseller: {multiplier: 1.2}}"),
    ("payment_service.callback_auth", "none"),
];

pub async fn server(backend: Backend) -> Paying {
    let paying = Paying::start_with(backend, &SETTINGS).await;
    paying.switch(json!({"pay_at_once": "SUCCESS", "lose": true}));
    paying.service.clock.set("2026-11-21T04:00:00Z");
    paying
}

/// The ids, times and tokens of a run, by those of the examples.
#[derive(Default)]
pub struct Renamed(HashMap<String, String>);

impl Renamed {
    /// The value with the names of this run.
    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), self.value(value))).collect(),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        self.0.get(text).cloned().unwrap_or_else(|| text.to_owned())
    }

    /// Whether two replies agree, but for names that differ from run to run. Remembers these.
    fn agree(&mut self, example: &Value, actual: &Value) -> bool {
        match (example, actual) {
            (Value::String(example), Value::String(actual)) => self.texts_agree(example, actual),
            // All parts are visited, so that all names are remembered.
            (Value::Array(example), Value::Array(actual)) => {
                let parts = example.iter().zip(actual).filter(|(one, other)| self.agree(one, other)).count();
                parts == example.len() && parts == actual.len()
            }
            (Value::Object(example), Value::Object(actual)) => {
                let parts =
                    example.iter().filter(|(name, one)| actual.get(*name).is_some_and(|other| self.agree(one, other)));
                let parts = parts.count();
                parts == example.len() && parts == actual.len()
            }
            (example, actual) => example == actual,
        }
    }

    fn texts_agree(&mut self, example: &str, actual: &str) -> bool {
        // A secret of a webhook has characters between words. A cursor of the feed names its event.
        let is_made = |start| example.starts_with(start) && actual.starts_with(start);
        if example == actual || is_made("whsec_") || is_made(CURSOR) {
            return true;
        }
        let (one, other): (Vec<_>, Vec<_>) = (words(example), words(actual));
        if one.len() > 1 {
            return one.len() == other.len() && one.iter().zip(other).all(|(one, other)| self.texts_agree(one, other));
        }
        let kind = kind_of_name(example);
        if kind.is_none() || kind != kind_of_name(actual) {
            return false;
        }
        self.0.insert(example.to_owned(), actual.to_owned());
        true
    }
}

/// The parts of a text: the cells of CSV, the segments of a URL, and words.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive([',', '\n', '/', '"', ' '])
        .map(|word| word.trim_end_matches([',', '\n', '/', '"', ' ']))
        .collect()
}

/// The kind of a name that differs from run to run.
fn kind_of_name(text: &str) -> Option<&'static str> {
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_instant = chrono::DateTime::parse_from_rfc3339(text).is_ok();
    let is_token = text.len() > 40 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let is_address = text.parse::<std::net::SocketAddr>().is_ok();
    match text {
        _ if is_instant => Some("instant"),
        _ if is_address => Some("address"),
        _ if text.starts_with("recharge_user_") => Some("order"),
        _ if text.strip_prefix("pay_").is_some_and(is_hex) => Some("payment"),
        _ if [32, 36].contains(&text.len()) && is_hex(text) => Some("id"),
        _ if is_token => Some("token"),
        _ => None,
    }
}

/// A text in a URL.
fn encoded(text: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes()
        .map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Sends the request of an example with the names of this run.
pub async fn send(service: &Service, example: &Example, renamed: &Renamed) -> Response {
    let mut path = example.route.clone();
    let mut query = Vec::new();
    for (name, value) in &example.parameters {
        let value = renamed.text(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let variable = format!("{{{name}}}");
        match path.contains(&variable) {
            true => path = path.replace(&variable, &encoded(&value)),
            false => query.push((name.clone(), value)),
        }
    }
    let app = &service.app;
    let addr = if path.starts_with("/internal/") { app.grpc_addr } else { app.http_addr };
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let url = format!("http://{addr}{path}?{}", query.join("&"));
    let mut request = service.http.request(example.method.parse::<Method>().unwrap(), url);
    for (name, value) in &example.headers {
        request = request.header(name, value.as_str().unwrap());
    }
    if let Some(body) = &example.body {
        request = request.body(renamed.value(body).to_string());
    }
    request.send().await.unwrap()
}

/// Makes all calls of the session. Returns the names of this run.
pub async fn play(service: &Service) -> Renamed {
    let mut renamed = Renamed::default();
    for example in examples().unwrap() {
        let (_, reply) = reply_of(send(service, &example, &renamed).await).await;
        renamed.agree(&example.reply, &reply);
    }
    renamed
}

async fn reply_of(response: Response) -> (u16, Value) {
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[rstest]
#[tokio::test]
async fn a_server_answers_the_examples_of_the_documents(#[values(MySql, Sqlite)] on: Backend) {
    let (paying, mut renamed) = (server(on).await, Renamed::default());
    let is_recording = std::env::var_os("BILLING_WRITE_EXAMPLES").is_some() && on == Sqlite;
    let mut recorded = Vec::new();
    for example in examples().unwrap() {
        let (status, reply) = reply_of(send(&paying.service, &example, &renamed).await).await;
        if is_recording {
            // Learns the names of this run.
            renamed.agree(&example.reply, &reply);
            let parameters = renamed.value(&Value::Object(example.parameters.clone()));
            let parameters = parameters.as_object().cloned().unwrap_or_default();
            let body = example.body.as_ref().map(|body| renamed.value(body));
            recorded.push(Recorded { status, reply, example: Example { parameters, body, ..example } });
            continue;
        }
        assert!(
            status == example.status && renamed.agree(&example.reply, &reply),
            "{} {}: {status} {reply:#}",
            example.route,
            example.name
        );
    }
    if is_recording {
        write(recorded);
    }
    paying.service.assert_audit_is_clean().await;
}

struct Recorded {
    status: u16,
    reply: Value,
    example: Example,
}

/// Writes the answers into the file of the examples.
fn write(recorded: Vec<Recorded>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/openapi/examples.json");
    let entry = |Recorded { status, reply, example }| {
        let Example { name, summary, method, route, parameters, headers, body, .. } = example;
        let mut entry = Map::new();
        for (key, value) in [
            ("name", name.into()),
            ("summary", summary.into()),
            ("method", method.into()),
            ("route", route.into()),
            ("parameters", Value::Object(parameters)),
            ("headers", Value::Object(headers)),
            ("body", body.unwrap_or_default()),
            ("status", status.into()),
            ("reply", reply),
        ] {
            let is_empty = value.is_null() || value.as_object().is_some_and(|members| members.is_empty());
            if !is_empty || key == "reply" {
                entry.insert(key.to_owned(), value);
            }
        }
        Value::Object(entry)
    };
    let entries: Vec<Value> = recorded.into_iter().map(entry).collect();
    fs::write(path, format!("{}\n", serde_json::to_string_pretty(&entries).unwrap())).unwrap();
}

/// The reply of an example has no member that its schema lacks.
#[tokio::test]
async fn the_schemas_have_every_member_of_the_examples() {
    let service = Service::start(Sqlite).await;
    let mut checked = 0;
    for (_, document) in documents(&service).await {
        for (method, path, entry) in operations(&document) {
            let answers = entry["responses"].as_object().unwrap().iter();
            for (status, answer) in answers.chain([(&String::new(), &entry["requestBody"])]) {
                let content = &answer["content"]["application/json"];
                for (name, example) in content["examples"].as_object().into_iter().flatten() {
                    let unknown = unknown_members(&document, &content["schema"], &example["value"]);
                    assert!(unknown.is_empty(), "{method} {path} {status} {name}: {unknown:?}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 90, "{checked}");
}

/// The members of a value that its schema does not have.
fn unknown_members(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    if let Some(target) = schema["$ref"].as_str() {
        return unknown_members(document, document.pointer(&target[1..]).unwrap(), value);
    }
    if let Some(first) = schema["allOf"].get(0) {
        return unknown_members(document, first, value);
    }
    match value {
        Value::Array(items) => {
            items.iter().flat_map(|item| unknown_members(document, &schema["items"], item)).collect()
        }
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Null) => vec![name.clone()],
                (Value::Null, of_all) => unknown_members(document, of_all, value),
                (of_one, _) => unknown_members(document, of_one, value),
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_route_has_an_example_of_success_and_names_are_unique() {
    let all = examples().unwrap();
    for rpc in crate::harness::contract::rpcs() {
        for (method, path) in rpc.routes {
            let is_of = |example: &&Example| example.method == method.as_str() && example.route == path;
            let found = all.iter().filter(is_of).any(|example| example.status == 200);
            assert!(found, "{} has no example: {method} {path}", rpc.name);
        }
    }
    let names: std::collections::BTreeSet<_> = all.iter().map(|example| &example.name).collect();
    assert_eq!(names.len(), all.len(), "two examples have one name");
}
