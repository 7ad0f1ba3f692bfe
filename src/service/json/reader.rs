//! Stands between the text of a body and the generated code of its message.

use std::{collections::HashSet, fmt};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::{
    de::{
        DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapDeserializer, SeqDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};

use super::{
    fields::{MAX_MEMBERS, TextValue, WRONG_VALUE, field_of, is_integer, overloaded, text_value},
    fills::Fills,
    unknown::UnknownNames,
};
use crate::{
    biz::values::{error::Error, invalid::Invalid},
    service::body::BodyBudget,
};

/// The memory of an item of a list, in bytes: the largest message that is an item has less.
const ITEM_BYTES: usize = 512;
/// Memory that is taken from the budget at once. A small body takes none beyond its text.
const STEP_BYTES: usize = 16 * 1024;

/// The position in the text, the bounds, and the results so far.
pub struct Reader<'r> {
    path: Vec<Step>,
    members: usize,
    /// Memory that is not yet taken from the budget.
    owed: usize,
    budget: Option<&'r BodyBudget>,
    pub fills: Fills,
    /// The error that ended the reading, except for errors of serde.
    pub error: Option<Error>,
    pub unknown: UnknownNames,
}

enum Step {
    Member(String),
    Item(usize),
}

impl<'r> Reader<'r> {
    pub fn new(fills: Fills, budget: Option<&'r BodyBudget>) -> Self {
        let (path, unknown) = (Vec::new(), UnknownNames::default());
        Self { path, members: 0, owed: 0, budget, fills, error: None, unknown }
    }

    /// `items[3].usage.input_tokens`; empty for the message itself.
    pub fn path(&self) -> String {
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

    fn fail<E: serde::de::Error>(&mut self, error: impl Into<Error>) -> E {
        self.error = Some(error.into());
        E::custom("")
    }

    fn fail_here<E: serde::de::Error>(&mut self, why: &str) -> E {
        let invalid = Invalid::new(self.path(), why);
        self.fail(invalid)
    }

    /// Counts a member or an item.
    fn count<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.members += 1;
        if self.members > MAX_MEMBERS {
            let why = format!("has more than {MAX_MEMBERS} members and items");
            return Err(self.fail(Invalid::new("body", why)));
        }
        Ok(())
    }

    /// Takes memory for a part of the message.
    fn take<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.owed += bytes;
        if self.owed < STEP_BYTES {
            return Ok(());
        }
        let owed = std::mem::take(&mut self.owed);
        if self.budget.is_some_and(|budget| !budget.take(owed)) {
            return Err(self.fail(overloaded()));
        }
        Ok(())
    }
}

/// The type of the value that comes next.
#[derive(Clone)]
pub struct Expected {
    kind: ExpectedKind,
    context: ValueContext,
}

#[derive(Clone)]
enum ExpectedKind {
    Message(MessageDescriptor),
    Scalar(Kind),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ValueContext {
    /// The message itself.
    Root,
    Field,
    /// The field is a list.
    List,
    /// An item of a list.
    Item,
}

impl Expected {
    pub fn root(message: MessageDescriptor) -> Self {
        Self { kind: ExpectedKind::Message(message), context: ValueContext::Root }
    }

    fn of(field: &FieldDescriptor) -> Self {
        let kind = match field.kind() {
            Kind::Message(message) => ExpectedKind::Message(message),
            scalar => ExpectedKind::Scalar(scalar),
        };
        Self { kind, context: if field.is_list() { ValueContext::List } else { ValueContext::Field } }
    }

    fn is_integer(&self) -> bool {
        matches!(&self.kind, ExpectedKind::Scalar(kind) if is_integer(kind))
    }
}

/// Hands the values of a deserializer on, as the message expects them.
pub struct Adapter<'a, 'r, D> {
    inner: D,
    reader: &'a mut Reader<'r>,
    expected: Expected,
}

impl<'a, 'r, D> Adapter<'a, 'r, D> {
    pub fn new(inner: D, reader: &'a mut Reader<'r>, expected: Expected) -> Self {
        Self { inner, reader, expected }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Adapter<'_, '_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, reader, expected } = self;
        inner.deserialize_any(Values { visitor, reader, expected })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, reader, expected } = self;
        inner.deserialize_option(Values { visitor, reader, expected })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Checks values on their way to the visitor of the message.
struct Values<'a, 'r, V> {
    visitor: V,
    reader: &'a mut Reader<'r>,
    expected: Expected,
}

impl<V> Values<'_, '_, V> {
    /// Refuses a value that is not the object that a body must be.
    fn refuse_at_root<E: serde::de::Error>(&mut self) -> Result<(), E> {
        match self.expected.context {
            ValueContext::Root => Err(self.reader.fail(Invalid::new("body", "must be a JSON object"))),
            ValueContext::Field | ValueContext::List | ValueContext::Item => Ok(()),
        }
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Values<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    /// A null member is absent. A null item is no item, and its error names its position.
    fn visit_unit<E: serde::de::Error>(mut self) -> Result<V::Value, E> {
        self.refuse_at_root::<E>()?;
        match (&self.expected.kind, self.expected.context) {
            (_, ValueContext::List) => self.visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<bool>())),
            (ExpectedKind::Scalar(Kind::String | Kind::Bytes), ValueContext::Field) => self.visitor.visit_str(""),
            (ExpectedKind::Scalar(Kind::Bool), ValueContext::Field) => self.visitor.visit_bool(false),
            (ExpectedKind::Scalar(_), ValueContext::Field) => self.visitor.visit_i64(0),
            (ExpectedKind::Message(entry), ValueContext::Field) if entry.is_map_entry() => {
                self.visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, bool)>()))
            }
            _ => self.visitor.visit_unit(),
        }
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Self { visitor, reader, expected } = self;
        visitor.visit_some(Adapter { inner, reader, expected })
    }

    fn visit_bool<E: serde::de::Error>(mut self, value: bool) -> Result<V::Value, E> {
        self.refuse_at_root::<E>()?;
        self.visitor.visit_bool(value)
    }

    fn visit_i64<E: serde::de::Error>(mut self, value: i64) -> Result<V::Value, E> {
        self.refuse_at_root::<E>()?;
        self.visitor.visit_i64(value)
    }

    fn visit_u64<E: serde::de::Error>(mut self, value: u64) -> Result<V::Value, E> {
        self.refuse_at_root::<E>()?;
        self.visitor.visit_u64(value)
    }

    /// 1.0 and 1e1 are whole numbers.
    fn visit_f64<E: serde::de::Error>(mut self, value: f64) -> Result<V::Value, E> {
        /// Up to here every whole double is one integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        self.refuse_at_root::<E>()?;
        if self.expected.is_integer() && value.fract() == 0.0 && value.abs() <= EXACT {
            return self.visitor.visit_i64(value as i64);
        }
        self.visitor.visit_f64(value)
    }

    fn visit_str<E: serde::de::Error>(mut self, text: &str) -> Result<V::Value, E> {
        self.refuse_at_root::<E>()?;
        self.reader.take::<E>(text.len())?;
        let ExpectedKind::Scalar(kind) = &self.expected.kind else { return self.visitor.visit_str(text) };
        match text_value(kind, text) {
            Some(TextValue::Whole(number)) => self.visitor.visit_i64(number),
            Some(TextValue::Text) => self.visitor.visit_str(text),
            None => Err(self.reader.fail_here(WRONG_VALUE)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, inner: A) -> Result<V::Value, A::Error> {
        self.refuse_at_root::<A::Error>()?;
        let Self { visitor, reader, expected } = self;
        if expected.context != ValueContext::List {
            // The generated code would gather all of it first.
            return Err(reader.fail_here(WRONG_VALUE));
        }
        visitor.visit_seq(Items {
            inner,
            reader,
            expected: Expected { context: ValueContext::Item, ..expected },
            index: 0,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, reader, expected } = self;
        match expected.kind {
            ExpectedKind::Message(message) if expected.context != ValueContext::List => {
                let is_root = expected.context == ValueContext::Root;
                visitor.visit_map(Members { inner, reader, message, is_root, seen: Seen::default(), next: Next::None })
            }
            _ => Err(reader.fail_here(WRONG_VALUE)),
        }
    }
}

/// The items of a list.
struct Items<'a, 'r, A> {
    inner: A,
    reader: &'a mut Reader<'r>,
    expected: Expected,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, '_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.reader.path.push(Step::Item(self.index));
        self.index += 1;
        let expected = self.expected.clone();
        let item = self.inner.next_element_seed(Value { seed, reader: self.reader, expected })?;
        self.reader.path.pop();
        Ok(item)
    }
}

/// One value of a list or an object.
struct Value<'a, 'r, T> {
    seed: T,
    reader: &'a mut Reader<'r>,
    expected: Expected,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Value<'_, '_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        let Self { seed, reader, expected } = self;
        if expected.context == ValueContext::Item {
            reader.count::<D::Error>()?;
            reader.take::<D::Error>(ITEM_BYTES)?;
        }
        seed.deserialize(Adapter { inner, reader, expected })
    }
}

/// The members of an object.
struct Members<'a, 'r, A> {
    inner: A,
    reader: &'a mut Reader<'r>,
    message: MessageDescriptor,
    is_root: bool,
    seen: Seen,
    next: Next,
}

/// The members that came, each in one of its spellings.
#[derive(Default)]
struct Seen {
    fields: Vec<u32>,
    unknown: HashSet<String>,
}

/// The value that belongs to the last name.
enum Next {
    None,
    Field(FieldDescriptor),
    /// A field that the object lacks, from another source.
    Filled(String),
}

impl<'de, A: MapAccess<'de>> Members<'_, '_, A> {
    /// The name of the next field that the message has.
    fn next_name(&mut self) -> Result<Option<String>, A::Error> {
        while let Some(name) = self.inner.next_key::<String>()? {
            self.reader.count::<A::Error>()?;
            if self.message.is_map_entry() {
                return self.next_of_map(name).map(Some);
            }
            let field = field_of(&self.message, &name);
            let is_new = match &field {
                Some(field) if self.seen.fields.contains(&field.number()) => false,
                Some(field) => {
                    self.seen.fields.push(field.number());
                    true
                }
                None => self.seen.unknown.insert(name.clone()),
            };
            let member = field.as_ref().map_or(name.as_str(), FieldDescriptor::name).to_owned();
            self.reader.path.push(Step::Member(member.clone()));
            if !is_new {
                return Err(self.reader.fail_here("comes twice"));
            }
            match field {
                Some(field) => {
                    self.next = Next::Field(field);
                    return Ok(Some(member));
                }
                None => self.pass()?,
            }
        }
        Ok(None)
    }

    /// Each member of a map has a name of the caller.
    fn next_of_map(&mut self, name: String) -> Result<String, A::Error> {
        self.reader.path.push(Step::Member(name.clone()));
        if !self.seen.unknown.insert(name.clone()) {
            return Err(self.reader.fail_here("comes twice"));
        }
        self.next = Next::Field(self.message.map_entry_value_field());
        Ok(name)
    }

    /// Reads past an unknown member.
    fn pass(&mut self) -> Result<(), A::Error> {
        let path = self.reader.path();
        self.reader.unknown.add(|| path);
        self.inner.next_value_seed(Skip(&mut *self.reader))?;
        self.reader.path.pop();
        Ok(())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, '_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut name = self.next_name()?;
        if name.is_none() && self.is_root {
            let filled = self.reader.fills.next().map_err(|error| self.reader.fail::<A::Error>(error))?;
            name = filled.map(|(name, value)| {
                self.next = Next::Filled(value);
                name
            });
        }
        name.map(|name| seed.deserialize(name.into_deserializer())).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        match std::mem::replace(&mut self.next, Next::None) {
            Next::None => Err(A::Error::custom("a value without a name")),
            Next::Filled(value) => seed.deserialize(string(value)),
            Next::Field(field) => {
                let (expected, reader) = (Expected::of(&field), &mut *self.reader);
                let value = if self.is_root && reader.fills.contains(field.name()) {
                    let own = std::marker::PhantomData::<Option<String>>;
                    let own = self.inner.next_value_seed(Value { seed: own, reader, expected })?;
                    let value =
                        reader.fills.apply(field.name(), own).map_err(|error| reader.fail::<A::Error>(error))?;
                    seed.deserialize(string(value.unwrap_or_default()))?
                } else {
                    self.inner.next_value_seed(Value { seed, reader, expected })?
                };
                self.reader.path.pop();
                Ok(value)
            }
        }
    }
}

fn string<E: serde::de::Error>(value: String) -> StringDeserializer<E> {
    value.into_deserializer()
}

/// Reads past a value, and builds nothing of it.
struct Skip<'a, 'r>(&'a mut Reader<'r>);

impl<'de> DeserializeSeed<'de> for Skip<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<(), D::Error> {
        inner.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Skip(&mut *self.0))?.is_some() {
            self.0.count::<A::Error>()?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_key::<serde::de::IgnoredAny>()?.is_some() {
            self.0.count::<A::Error>()?;
            members.next_value_seed(Skip(&mut *self.0))?;
        }
        Ok(())
    }
}
