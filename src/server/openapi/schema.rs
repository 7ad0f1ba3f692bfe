//! The schemas of messages: the JSON of proto3, with the bounds of requests.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{contract::Contract, names::Names};
use crate::{
    biz::values::text::DECEPTIVE,
    service::bounds::{Bound, FieldRule, rule},
};

/// The field with the account.
const USER_ID: &str = "user_id";

/// The schemas that operations refer to, by name.
pub struct Schemas<'c> {
    contract: &'c Contract,
    names: Names,
    found: Map<String, Value>,
}

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Reply,
}

/// Fields of a request that its message does not need, because other parts of the request have them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'g> {
    /// Variables of the path. The body lacks them.
    pub in_path: &'g [&'g str],
    /// Whether the proof of a user names the account. The field may repeat it.
    pub account: bool,
}

impl Given<'_> {
    fn needs(self, message: &MessageDescriptor, field: &FieldDescriptor) -> bool {
        let is_required = rule(message.name(), field.name()).is_some_and(|rule| rule.is_required);
        is_required && !(self.account && field.name() == USER_ID)
    }
}

/// A parameter or a member of a request.
pub struct RequestField {
    pub name: String,
    pub schema: Value,
    pub is_required: bool,
}

impl<'c> Schemas<'c> {
    pub fn new(contract: &'c Contract, names: Names) -> Self {
        Self { contract, names, found: Map::new() }
    }

    /// All schemas that were referred to.
    pub fn into_found(self) -> Map<String, Value> {
        self.found
    }

    /// A reference to a schema that several routes share.
    pub fn share(&mut self, name: &str, schema: Value) -> Value {
        self.found.entry(name).or_insert(schema);
        reference_to(name)
    }

    /// The fields of a request.
    pub fn request_fields(&mut self, message: &MessageDescriptor, given: Given<'_>) -> Vec<RequestField> {
        let field = |field: FieldDescriptor| RequestField {
            name: field.name().to_owned(),
            schema: self.field(&field, Side::Request),
            is_required: given.needs(message, &field),
        };
        message.fields().map(field).collect()
    }

    /// The body of a request.
    pub fn request(&mut self, message: &MessageDescriptor, given: Given<'_>) -> Value {
        self.reference(message, Side::Request, given)
    }

    /// The body of a reply.
    pub fn reply(&mut self, message: &MessageDescriptor) -> Value {
        self.reference(message, Side::Reply, Given::default())
    }

    fn reference(&mut self, message: &MessageDescriptor, side: Side, given: Given<'_>) -> Value {
        let name = match side {
            // Replies have all fields of a message, and requests may leave some out.
            Side::Request if !message.name().ends_with("Request") => format!("{}Input", message.name()),
            _ => message.name().to_owned(),
        };
        if !self.found.contains_key(&name) {
            // Holds the place, so that a message may contain itself.
            self.found.insert(name.clone(), Value::Null);
            let schema = self.object(message, side, given);
            self.found.insert(name.clone(), schema);
        }
        reference_to(&name)
    }

    fn object(&mut self, message: &MessageDescriptor, side: Side, given: Given<'_>) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in message.fields().filter(|field| !given.in_path.contains(&field.name())) {
            let name = match side {
                Side::Request => field.name().to_owned(),
                Side::Reply => self.names.of_field(field.name()),
            };
            let is_required = match side {
                Side::Request => given.needs(message, &field),
                // An absent message or optional number has no member.
                Side::Reply => !field.supports_presence(),
            };
            if is_required {
                required.push(name.clone());
            }
            properties.insert(name, self.field(&field, side));
        }
        let mut schema = json!({"type": "object", "properties": properties});
        describe(&mut schema, self.contract.comment_of_message(message));
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor, side: Side) -> Value {
        let rule = match side {
            Side::Request => rule(field.parent_message().name(), field.name()),
            Side::Reply => None,
        };
        let mut schema = if field.is_map() {
            let entry = field.kind();
            let value = entry.as_message().map(MessageDescriptor::map_entry_value_field);
            let value = value.map_or(Value::Bool(true), |value| self.one(&value.kind(), side));
            json!({"type": "object", "additionalProperties": value})
        } else if field.is_list() {
            json!({"type": "array", "items": self.one(&field.kind(), side)})
        } else {
            self.one(&field.kind(), side)
        };
        if let Some(FieldRule { bound, is_required }) = rule {
            restrict(&mut schema, &bound, is_required);
        }
        describe(&mut schema, self.contract.comment_of_field(field));
        schema
    }

    /// The schema of a value that is no list.
    fn one(&mut self, kind: &Kind, side: Side) -> Value {
        match kind {
            Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => {
                json!({"type": "string", "format": "date-time"})
            }
            Kind::Message(message) => self.reference(message, side, Given::default()),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Double | Kind::Float => json!({"type": "number", "format": "double"}),
            Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
                json!({"type": "string", "pattern": "^-?[0-9]{1,19}$"})
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "format": "int32"})
            }
            _ => json!({"type": "string"}),
        }
    }
}

fn reference_to(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Adds the keywords of a bound.
fn restrict(schema: &mut Value, bound: &Bound, is_required: bool) {
    let least = usize::from(is_required);
    match bound {
        Bound::Id { max, charset } => {
            length(schema, least, *max);
            schema["pattern"] = format!("^{}*$", charset.class).into();
        }
        Bound::Words { max } => {
            length(schema, least, *max);
            schema["pattern"] = visible(is_required).into();
        }
        Bound::Bytes { max } | Bound::Token { max } => length(schema, least, *max),
        Bound::Choice(words) => schema["enum"] = words.as_slice().into(),
        Bound::Choices { words, max } => {
            length(schema, least, *max);
            let word = words.join("|").replace('.', "\\.");
            schema["pattern"] = format!("^(({word})( *, *({word}))*)?$").into();
        }
        Bound::Day => {
            schema["format"] = "date".into();
            schema["pattern"] = "^(19[7-9][0-9]|[2-9][0-9]{3})-[0-9]{2}-[0-9]{2}$".into();
        }
        Bound::Month => schema["pattern"] = "^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])$".into(),
        Bound::Currency => schema["pattern"] = "^[A-Za-z]{3}$".into(),
        Bound::Whole { min, max } => {
            schema["minimum"] = (*min).into();
            schema["maximum"] = (*max).into();
        }
        Bound::Decimal { min, max, takes_least } => {
            schema[if *takes_least { "minimum" } else { "exclusiveMinimum" }] = (*min).into();
            schema["maximum"] = (*max).into();
        }
        Bound::Items { min, max, item } => {
            if *min > 0 {
                schema["minItems"] = (*min).into();
            }
            schema["maxItems"] = (*max).into();
            if let Some(item) = item {
                restrict(&mut schema["items"], item, true);
            }
        }
        Bound::Entries { max, key, value } => {
            schema["maxProperties"] = (*max).into();
            schema["propertyNames"] = json!({"type": "string"});
            restrict(&mut schema["propertyNames"], key, true);
            restrict(&mut schema["additionalProperties"], value, true);
        }
    }
}

fn length(schema: &mut Value, min: usize, max: usize) {
    if min > 0 {
        schema["minLength"] = min.into();
    }
    schema["maxLength"] = max.into();
}

/// The pattern of a text for people. A required one is not blank.
fn visible(is_required: bool) -> String {
    let deceptive: String =
        DECEPTIVE.iter().map(|(first, last)| format!("{}-{}", escaped(*first), escaped(*last))).collect();
    let any = format!("[^{deceptive}]*");
    if is_required { format!("^{any}[^\\s{deceptive}]{any}$") } else { format!("^{any}$") }
}

/// A character in a class of a regular expression. Readers of YAML take no control characters.
fn escaped(letter: char) -> String {
    match u32::from(letter) {
        low @ 0..=0xff => format!("\\x{low:02x}"),
        high => format!("\\u{high:04x}"),
    }
}

fn describe(schema: &mut Value, comment: String) {
    if !comment.is_empty() {
        schema["description"] = comment.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The JSON type of a flag, a message and an instant is their bound.
    #[test]
    fn every_field_of_a_request_has_a_bound() {
        let contract = Contract::read().unwrap();
        let mut left: Vec<_> = contract.operations().unwrap().into_iter().map(|operation| operation.request).collect();
        let mut count = 0;
        while let Some(message) = left.pop() {
            for field in message.fields() {
                match field.kind() {
                    Kind::Bool => {}
                    Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => {}
                    kind => {
                        let is_list = field.is_list() || field.is_map();
                        let has_rule = rule(message.name(), field.name()).is_some();
                        let inner = kind.as_message().filter(|inner| !inner.is_map_entry());
                        let is_message = inner.is_some() && !is_list;
                        assert!(has_rule || is_message, "{}.{} has no bound", message.name(), field.name());
                        left.extend(inner.cloned());
                        count += 1;
                    }
                }
            }
        }
        assert!(count > 150, "{count}");
    }
}
