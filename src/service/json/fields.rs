//! Fields, and their values in texts.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::number;
use crate::biz::values::error::Error;

/// The error of a value that its field does not take.
pub const WRONG_VALUE: &str = "has the wrong type or is out of range";

/// Most members and items of a message: a chat of 10,000 messages to count has 40,000.
pub const MAX_MEMBERS: usize = 50_000;

/// The field that a member or a query parameter names, in either spelling.
pub fn field_of(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// The value of a field in a text.
pub enum TextValue {
    Whole(i64),
    /// The text itself.
    Text,
}

/// A text as the value of a field; `None` if a number field gets a text that is no number.
pub fn text_value(kind: &Kind, text: &str) -> Option<TextValue> {
    if is_integer(kind) {
        return number::whole(text).map(TextValue::Whole);
    }
    let is_amount = matches!(kind, Kind::Double | Kind::Float);
    let is_named = matches!(text, "NaN" | "Infinity" | "-Infinity");
    (!is_amount || is_named || number::is_number(text)).then_some(TextValue::Text)
}

pub fn is_integer(kind: &Kind) -> bool {
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

pub fn overloaded() -> Error {
    Error::Overloaded("too many bodies are being read, and nothing was done; retry later".into())
}
