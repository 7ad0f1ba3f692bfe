//! The JSON of a request, read by the descriptor of its message.
//!
//! serde_json keeps the last of two equal members, and the generated code takes numbers in
//! texts as Rust writes them. This reader takes neither: a member comes once, in one of its
//! two spellings, and a number in a text is a number of JSON. It gives members their
//! snake_case names and leaves out those that are null or unknown. serde_json bounds the depth.

mod number;
mod unknown;

use std::{collections::HashSet, fmt, sync::LazyLock};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

pub use self::unknown::{UnknownNames, UnknownPolicy};
use super::proto::DESCRIPTORS;
use crate::biz::values::{error::Result, invalid::Invalid};

/// The error of a value that its field does not take.
pub const WRONG_VALUE: &str = "has the wrong type or is out of range";

/// The descriptor of the message `M`; `None` if there is none, which is a defect.
pub fn descriptor<M: prost::Name>() -> Option<MessageDescriptor> {
    static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());
    POOL.as_ref()?.get_message_by_name(&M::full_name())
}

/// The field that a member or a query parameter names, in either spelling.
fn field_of(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// The members of a JSON object, under the names of the fields of `message`.
///
/// # Errors
/// Text that is no JSON object; a member that comes twice; a text that is no number in a number
/// field.
pub fn object(body: &[u8], message: &MessageDescriptor, unknown: &mut UnknownNames) -> Result<Map<String, Value>> {
    let mut reader = Reader { path: Vec::new(), invalid: None, unknown };
    let mut json = serde_json::Deserializer::from_slice(body);
    let node = Node { reader: &mut reader, expected: Expected::Message(message.clone()) };
    let read = node.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    match (read, reader.invalid) {
        (_, Some(invalid)) => Err(invalid.into()),
        (Ok(Value::Object(fields)), None) => Ok(fields),
        (Ok(_), None) => Err(Invalid::new("body", "must be a JSON object").into()),
        (Err(error), None) => Err(Invalid::new("body", format!("is not JSON: {error}")).into()),
    }
}

/// The field that a query parameter names, with the value; `None` if the message has no such field.
/// The value of an empty parameter is null, because number fields have no empty text.
///
/// # Errors
/// A text that is no number in a number field.
pub fn parameter(message: &MessageDescriptor, name: &str, text: &str) -> Result<Option<(String, Value)>> {
    let Some(field) = field_of(message, name) else { return Ok(None) };
    if text.is_empty() {
        return Ok(Some((field.name().to_owned(), Value::Null)));
    }
    let value = text_value(&field.kind(), text).ok_or_else(|| Invalid::new(name, WRONG_VALUE))?;
    Ok(Some((field.name().to_owned(), value)))
}

/// A text as the value of a field; `None` if a number field gets a text that is no number.
fn text_value(kind: &Kind, text: &str) -> Option<Value> {
    if is_integer(kind) {
        return number::whole(text).map(Value::from);
    }
    let is_amount = matches!(kind, Kind::Double | Kind::Float);
    let is_named = matches!(text, "NaN" | "Infinity" | "-Infinity");
    (!is_amount || is_named || number::is_number(text)).then(|| text.into())
}

fn is_integer(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Fixed32
            | Kind::Fixed64
            | Kind::Sfixed32
            | Kind::Sfixed64
    )
}

/// The position in the text, the error and the unknown names so far.
struct Reader<'r> {
    path: Vec<Step>,
    /// The error that ended the reading, except for errors of serde_json.
    invalid: Option<Invalid>,
    unknown: &'r mut UnknownNames,
}

enum Step {
    Member(String),
    Item(usize),
}

impl Reader<'_> {
    /// `items[3].usage.input_tokens`.
    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Member(name) if path.is_empty() => path.push_str(name),
                Step::Member(name) => path.extend([".", name]),
                Step::Item(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    fn fail<E: serde::de::Error>(&mut self, why: &str) -> E {
        self.invalid = Some(Invalid::new(self.path(), why));
        E::custom(why)
    }
}

/// The type of the value that comes next.
#[derive(Clone)]
enum Expected {
    Message(MessageDescriptor),
    /// A map from texts to scalars: every member is a name of the caller.
    Map(Kind),
    Scalar(Kind),
}

impl Expected {
    fn of(field: &FieldDescriptor) -> Self {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => Self::Map(entry.map_entry_value_field().kind()),
            Kind::Message(message) => Self::Message(message),
            scalar => Self::Scalar(scalar),
        }
    }
}

struct Node<'n, 'r> {
    reader: &'n mut Reader<'r>,
    expected: Expected,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    /// 1.0 and 1e1 are whole numbers.
    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        /// Up to here every whole double is one integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let is_whole = matches!(&self.expected, Expected::Scalar(kind) if is_integer(kind))
            && value.fract() == 0.0
            && value.abs() <= EXACT;
        Ok(if is_whole { Value::from(value as i64) } else { Value::from(value) })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Value, E> {
        match &self.expected {
            Expected::Scalar(kind) => text_value(kind, text).ok_or_else(|| self.reader.fail(WRONG_VALUE)),
            Expected::Message(_) | Expected::Map(_) => Ok(text.into()),
        }
    }

    /// A null item is kept, so that its error names its position.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let Self { reader, expected } = self;
        let mut items = Vec::new();
        for index in 0.. {
            reader.path.push(Step::Item(index));
            let node = Node { reader: &mut *reader, expected: expected.clone() };
            let item = seq.next_element_seed(node)?;
            reader.path.pop();
            match item {
                Some(item) => items.push(item),
                None => break,
            }
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let Self { reader, expected } = self;
        let (mut fields, mut seen) = (Map::new(), HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            let (field, next) = match &expected {
                Expected::Message(message) => {
                    let field = field_of(message, &name);
                    let next = field.as_ref().map(Expected::of);
                    (field, next)
                }
                Expected::Map(value) => (None, Some(Expected::Scalar(value.clone()))),
                Expected::Scalar(_) => (None, None),
            };
            let member = field.as_ref().map_or_else(|| name.clone(), |field| field.name().to_owned());
            if !seen.insert(member.clone()) {
                reader.path.push(Step::Member(member));
                return Err(reader.fail("comes twice"));
            }
            reader.path.push(Step::Member(name));
            if field.is_none() && matches!(expected, Expected::Message(_)) {
                let path = reader.path();
                reader.unknown.add(|| path);
            }
            match next {
                Some(next) => {
                    let node = Node { reader: &mut *reader, expected: next };
                    let value = map.next_value_seed(node)?;
                    if !value.is_null() {
                        fields.insert(member, value);
                    }
                }
                // It is read past, and nothing is built of it.
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            reader.path.pop();
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests;
