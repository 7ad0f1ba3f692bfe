//! The fields of an action: their inputs in the form, and their values.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::{
    biz::values::{
        error::{Error, Result},
        invalid::Invalid,
        money::{Money, ParseError},
    },
    texts::Texts,
};

/// A field of a form. Its name is that of the field of the rpc.
pub struct Field {
    pub name: &'static str,
    kind: Kind,
    is_required: bool,
}

enum Kind {
    /// A text of at most so many characters.
    Text(usize),
    /// An exact number.
    Decimal,
    Count,
    /// One of these words of the contract.
    Choice(&'static [&'static str]),
    Flag,
    /// Several lines.
    Lines(usize),
}

impl Field {
    pub(super) const fn text(name: &'static str, most: usize) -> Self {
        Self { name, kind: Kind::Text(most), is_required: true }
    }

    pub(super) const fn decimal(name: &'static str) -> Self {
        Self { name, kind: Kind::Decimal, is_required: true }
    }

    pub(super) const fn count(name: &'static str) -> Self {
        Self { name, kind: Kind::Count, is_required: true }
    }

    pub(super) const fn choice(name: &'static str, words: &'static [&'static str]) -> Self {
        Self { name, kind: Kind::Choice(words), is_required: true }
    }

    pub(super) const fn flag(name: &'static str) -> Self {
        Self { name, kind: Kind::Flag, is_required: false }
    }

    pub(super) const fn lines(name: &'static str, most: usize) -> Self {
        Self { name, kind: Kind::Lines(most), is_required: false }
    }

    pub(super) const fn optional(self) -> Self {
        Self { is_required: false, ..self }
    }

    pub(super) fn label(&self, texts: Texts) -> &'static str {
        texts.word("field", self.name)
    }

    /// A value as people read it.
    pub(super) fn shown<'v>(&self, texts: Texts, value: &'v str) -> &'v str {
        match self.kind {
            Kind::Choice(_) => texts.word("choice", value),
            Kind::Flag if !value.is_empty() => texts.get("action.yes"),
            _ => value,
        }
    }

    /// The input, with its hint. `zone` is the billing zone, in which pages show times.
    pub(super) fn input(&self, texts: Texts, zone: &str, value: &str) -> Markup {
        let (name, label, required) = (self.name, self.label(texts), self.is_required);
        let hint = texts.find_word("field_hint", name).map(|hint| hint.replace("{zone}", zone));
        let describes = hint.as_ref().map(|_| format!("hint-{name}"));
        html! {
            div.field.whole[matches!(self.kind, Kind::Choice(_) | Kind::Lines(_))] {
                @match self.kind {
                    Kind::Choice(words) => fieldset {
                        legend { (label) }
                        @for word in words {
                            label.choice {
                                input type="radio" name=(name) value=(word) required checked[*word == value];
                                " " (texts.word("choice", word))
                            }
                        }
                    },
                    Kind::Flag => label.choice {
                        input type="checkbox" name=(name) value="true" checked[!value.is_empty()];
                        " " (label)
                    },
                    Kind::Lines(most) => label { span { (label) }
                        textarea name=(name) rows="4" maxlength=(most) spellcheck="false" aria-describedby=[describes.as_deref()] { (value) }
                    },
                    Kind::Text(most) => label { span { (label) }
                        input name=(name) maxlength=(most) autocomplete="off" required[required] value=(value) aria-describedby=[describes.as_deref()];
                    },
                    Kind::Decimal => label { span { (label) }
                        input name=(name) maxlength="32" inputmode="decimal" autocomplete="off" required[required] value=(value) aria-describedby=[describes.as_deref()];
                    },
                    Kind::Count => label { span { (label) }
                        input name=(name) maxlength="10" inputmode="numeric" autocomplete="off" required[required] value=(value) aria-describedby=[describes.as_deref()];
                    },
                }
                @if let Some(hint) = hint { p.quiet.under id=[describes.as_deref()] { (hint) } }
            }
        }
    }
}

/// The values of a form, by the names of its fields.
#[derive(Debug, Clone, Default)]
pub(super) struct Values(BTreeMap<&'static str, String>);

impl Values {
    /// Takes the values of the fields of an action, and no others.
    pub fn of(fields: &'static [Field], value: impl Fn(&str) -> String) -> Self {
        let values = fields.iter().map(|field| (field.name, value(field.name)));
        Self(values.filter(|(_, value)| !value.is_empty()).collect())
    }

    /// The value of a field; empty if there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    pub fn text(&self, name: &str) -> String {
        self.get(name).to_owned()
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.insert(name, value.into());
    }

    pub fn is_set(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }

    /// An exact amount, as the wire double whose shortest decimal form it is.
    pub fn amount(&self, name: &'static str) -> Result<Option<f64>> {
        let parsed = self.present(name).map(|text| parse_amount(name, text)).transpose()?;
        Ok(parsed.map(Money::to_wire))
    }

    /// A whole number.
    pub fn count(&self, name: &'static str) -> Result<Option<i32>> {
        let why = || Invalid::new(name, "must be a whole number, at most 2147483647");
        self.present(name).map(|text| text.parse().map_err(|_| why().into())).transpose()
    }

    /// A whole number that is exact in a wire double.
    pub fn large_count(&self, name: &'static str) -> Result<Option<u64>> {
        const MOST: u64 = 1 << f64::MANTISSA_DIGITS;
        let why = || Error::from(Invalid::new(name, "must be a whole number"));
        let parse = |text: &str| text.parse().ok().filter(|count| *count <= MOST).ok_or_else(why);
        self.present(name).map(parse).transpose()
    }

    /// Values with commas or blanks between them.
    pub fn list<T>(&self, name: &'static str, parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
        let parts = self.get(name).split([',', ' ', '\n', '\r']).filter(|part| !part.is_empty());
        parts.map(parse).collect()
    }

    fn present(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }
}

pub(super) fn parse_amount(name: &'static str, text: &str) -> Result<Money> {
    text.parse().map_err(|why: ParseError| Error::from(Invalid::new(name, why.to_string())))
}
