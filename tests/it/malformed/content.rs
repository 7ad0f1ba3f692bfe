//! The content of requests, as JSON, as a query and as a gRPC message, by the descriptor of the message. Most
//! values are plausible, so that requests pass the first checks, and some are not.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::damage::{damage, happens, noise, one_of};
use crate::harness::caller::Dice;

/// Users and ids: few, so that requests meet.
pub const NAMES: usize = 20;
/// Deepest message in a message.
const DEPTH: usize = 3;
/// Values that are not plausible, in percent.
const ODD: usize = 10;

/// A value that the service may accept in a field.
fn plausible(dice: &mut Dice, field: &str) -> String {
    // One user is in most requests, as the front end's tokens are most often its own.
    let number = if happens(dice, 60) { 0 } else { dice.below(NAMES) };
    match field {
        "user_id" => format!("u{number}"),
        "service_name" => one_of(dice, &["asset", "passport", "payment"]).to_owned(),
        "amount" | "cost" | "limit" | "estimated_cost" => "0.5".into(),
        "payment_method" => "alipay".into(),
        "currency" => "CNY".into(),
        "quota_type" => one_of(dice, &["count", "cost"]).to_owned(),
        "period" => one_of(dice, &["daily", "monthly"]).to_owned(),
        "from" | "to" => "2026-11-01".into(),
        "page_token" | "model" | "page" | "type" => String::new(),
        "status" => one_of(dice, &["ACTIVE", "SUCCESS", "FAILED", ""]).to_owned(),
        _ => format!("{number}"),
    }
}

/// Texts that are valid in few fields.
fn odd_text(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => "x".repeat(dice.below(5_000)),
        1 => String::from_utf8_lossy(&noise(dice, 40)).into_owned(),
        _ => one_of(
            dice,
            &[
                "",
                " ",
                "-1",
                "+1",
                "NaN",
                "1e999",
                "0.0000001",
                "99999999999999999999",
                "a b",
                "\u{202e}",
                "\u{0}",
                "é",
                "../..",
                "' OR 1=1",
                "%00",
                "=1+1",
                "MTIz",
                "2026-13-45",
                "9999-12-31",
                "0000-01-01",
            ],
        )
        .to_owned(),
    }
}

/// Values of JSON that are valid in few fields, and some that are none.
fn odd_json(dice: &mut Dice) -> String {
    match dice.below(3) {
        0 => serde_json::to_string(&odd_text(dice)).unwrap(),
        1 => format!("{}1{}", "[".repeat(dice.below(300)), "]".repeat(dice.below(300))),
        _ => one_of(
            dice,
            &[
                "null",
                "true",
                "-1",
                "0",
                "1.5",
                "1e999",
                "-1e-999",
                "9223372036854775808",
                "[]",
                "{}",
                "[null]",
                "{\"a\":{\"b\":[{}]}}",
                "\"\\ud800\"",
                "\"\\u0000\"",
                "01",
                "1.",
                "'x'",
                "undefined",
                "NaN",
                "\"open",
            ],
        )
        .to_owned(),
    }
}

/// The fields of a message that a request has: most of them.
fn chosen(dice: &mut Dice, message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    message.fields().filter(|_| !happens(dice, 15)).collect()
}

/// A JSON body.
pub fn json(dice: &mut Dice, message: &MessageDescriptor, depth: usize) -> String {
    let mut members = Vec::new();
    for field in chosen(dice, message) {
        let name = if happens(dice, 50) { field.name() } else { field.json_name() };
        let value = if happens(dice, ODD) { odd_json(dice) } else { json_value(dice, &field, depth) };
        members.push(format!("\"{name}\":{value}"));
    }
    if happens(dice, 5) {
        members.push(format!("\"unknown\":{}", odd_json(dice)));
    }
    if happens(dice, 2) && !members.is_empty() {
        members.push(members[0].clone());
    }
    format!("{{{}}}", members.join(","))
}

fn json_value(dice: &mut Dice, field: &FieldDescriptor, depth: usize) -> String {
    let one = |dice: &mut Dice| match field.kind() {
        Kind::Message(message) if depth < DEPTH => json(dice, &message, depth + 1),
        Kind::Message(_) => "{}".into(),
        Kind::String | Kind::Bytes => serde_json::to_string(&plausible(dice, field.name())).unwrap(),
        _ => Some(plausible(dice, field.name())).filter(|text| !text.is_empty()).unwrap_or_else(|| "1".into()),
    };
    if !field.is_list() {
        return one(dice);
    }
    let items: Vec<String> = (0..dice.below(4)).map(|_| one(dice)).collect();
    format!("[{}]", items.join(","))
}

/// A query, such as `user_id=u1&page=2`.
pub fn query(dice: &mut Dice, message: &MessageDescriptor) -> String {
    let mut pairs = Vec::new();
    for field in chosen(dice, message) {
        let value = if happens(dice, ODD) { odd_text(dice) } else { plausible(dice, field.name()) };
        pairs.push(format!("{}={}", field.name(), escaped(&value)));
    }
    if happens(dice, 5) {
        pairs.push(one_of(dice, &["%", "%zz=1", "=", "&&", "a=b=c", "user_id=x", "%ff=%ff"]).to_owned());
    }
    pairs.join("&")
}

/// Percent-encoded, all letters but the plainest.
pub fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") }).collect()
}

/// The path of a route with its parameters filled in.
pub fn path(dice: &mut Dice, route: &str) -> String {
    let mut path = String::new();
    for part in route.split('/').skip(1) {
        let value = match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(_) if happens(dice, ODD) => escaped(&odd_text(dice)),
            Some(field) => plausible(dice, field),
            None => part.to_owned(),
        };
        path.extend(["/", &value]);
    }
    path
}

/// An encoded message.
pub fn protobuf(dice: &mut Dice, message: &MessageDescriptor, depth: usize) -> Vec<u8> {
    let mut encoded = Vec::new();
    for field in chosen(dice, message) {
        let times = if field.is_list() { dice.below(4) } else { 1 };
        for _ in 0..times {
            protobuf_field(dice, &field, depth, &mut encoded);
        }
    }
    if happens(dice, 5) {
        encoded.extend(noise(dice, 20));
    }
    encoded
}

fn protobuf_field(dice: &mut Dice, field: &FieldDescriptor, depth: usize, encoded: &mut Vec<u8>) {
    let is_odd = happens(dice, ODD);
    let text = if is_odd { odd_text(dice) } else { plausible(dice, field.name()) };
    match field.kind() {
        Kind::Double => {
            let odd = [f64::NAN, f64::INFINITY, -1.0, 1e-300, 1e300, -0.0];
            let value = if is_odd { odd[dice.below(odd.len())] } else { text.parse().unwrap_or(1.0) };
            varint(u64::from(field.number()) << 3 | 1, encoded);
            encoded.extend(value.to_le_bytes());
        }
        Kind::String | Kind::Bytes => {
            let mut bytes = text.into_bytes();
            if is_odd {
                damage(dice, &mut bytes);
            }
            delimited(field, &bytes, encoded);
        }
        Kind::Message(inner) if depth < DEPTH => {
            let inner = protobuf(dice, &inner, depth + 1);
            delimited(field, &inner, encoded);
        }
        Kind::Message(_) => delimited(field, &[], encoded),
        _ => {
            let odd = [u64::MAX, 1 << 31, 1 << 63, 0, 1_000_000_001];
            let value = if is_odd { odd[dice.below(odd.len())] } else { text.parse().unwrap_or(1) };
            varint(u64::from(field.number()) << 3, encoded);
            varint(value, encoded);
        }
    }
}

fn delimited(field: &FieldDescriptor, bytes: &[u8], encoded: &mut Vec<u8>) {
    varint(u64::from(field.number()) << 3 | 2, encoded);
    varint(bytes.len() as u64, encoded);
    encoded.extend(bytes);
}

fn varint(mut value: u64, encoded: &mut Vec<u8>) {
    while value >= 128 {
        encoded.push(value as u8 | 128);
        value >>= 7;
    }
    encoded.push(value as u8);
}
