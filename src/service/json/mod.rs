//! The JSON of a request, read once and straight into its message, by the descriptor of the message.
//!
//! serde_json and the generated code take numbers in texts as Rust writes them, and members that come
//! twice, once in each spelling. [`reader`] stands between both and takes neither: a member comes once, in
//! one of its two spellings, and a number in a text is a number of JSON. It gives members their snake_case
//! names, reads past unknown ones, and takes null as absent. serde_json bounds the depth, the reader the
//! members and the memory.

mod fields;
mod fills;
mod number;
mod reader;
mod unknown;

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, error::Category};

use self::{
    fields::{TextValue, WRONG_VALUE, field_of, text_value},
    reader::{Adapter, Expected, Reader},
};
pub use self::{
    fills::{Fills, Source},
    unknown::{UnknownNames, UnknownPolicy},
};
use super::{body::BodyBudget, proto::DESCRIPTORS};
use crate::biz::values::{error::Result, invalid::Invalid};

/// The descriptor of the message `M`; `None` if there is none, which is a defect.
pub fn descriptor<M: prost::Name>() -> Option<MessageDescriptor> {
    static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());
    POOL.as_ref()?.get_message_by_name(&M::full_name())
}

/// A message that was read.
#[derive(Debug)]
pub struct ReadMessage<M> {
    pub message: M,
    pub unknown: UnknownNames,
    /// With the values that the message has.
    pub fills: Fills,
}

/// The message in the text of a JSON object, completed by `fills`.
///
/// # Errors
/// Text that is no JSON object; a member that comes twice; a value that its field does not take; more
/// members or memory than a body may have; the errors of the fills.
pub fn message<M: DeserializeOwned>(
    body: &[u8],
    descriptor: MessageDescriptor,
    fills: Fills,
    budget: Option<&BodyBudget>,
) -> Result<ReadMessage<M>> {
    let mut reader = Reader::new(fills, budget);
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = M::deserialize(Adapter::new(&mut json, &mut reader, Expected::root(descriptor)));
    finish(read.and_then(|message| json.end().map(|()| message)), reader)
}

/// As [`message`], from the members of an object.
///
/// # Errors
/// As [`message`].
pub fn object<M: DeserializeOwned>(
    fields: Map<String, Value>,
    descriptor: MessageDescriptor,
    fills: Fills,
) -> Result<ReadMessage<M>> {
    let mut reader = Reader::new(fills, None);
    let read = M::deserialize(Adapter::new(Value::Object(fields), &mut reader, Expected::root(descriptor)));
    finish(read, reader)
}

fn finish<M>(read: serde_json::Result<M>, reader: Reader<'_>) -> Result<ReadMessage<M>> {
    let error = match read {
        Ok(message) => return Ok(ReadMessage { message, unknown: reader.unknown, fills: reader.fills }),
        Err(error) => error,
    };
    let field = reader.path();
    Err(match (reader.error, error.classify()) {
        (Some(error), _) => error,
        (None, Category::Data) if field.is_empty() => Invalid::new("body", error.to_string()).into(),
        (None, Category::Data) => Invalid::new(field, WRONG_VALUE).into(),
        (None, _) => Invalid::new("body", format!("is not JSON: {error}")).into(),
    })
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
    let value = match value {
        TextValue::Whole(number) => number.into(),
        TextValue::Text => text.into(),
    };
    Ok(Some((field.name().to_owned(), value)))
}

#[cfg(test)]
mod tests;
