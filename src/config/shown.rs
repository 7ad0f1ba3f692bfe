//! Writes values in the form in which the configuration has them, for [`Loaded::to_yaml`].
//!
//! [`Loaded::to_yaml`]: super::Loaded::to_yaml

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use chrono::{DateTime, Utc};
use http::HeaderName;
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::{Number, Value};

use super::choices::Word;
use crate::{
    biz::{
        charge::prices::Factor,
        jobs::low_balance::Percent,
        values::{currency::Currency, money::Money},
    },
    data::dsn::Host,
};

/// A value of a type that serde can't write, or would write in another form.
pub(super) trait Shown {
    fn shown(&self) -> Value;
}

/// For `serialize_with`.
pub(super) fn shown<T: Shown, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.shown().serialize(serializer)
}

impl<T: Word> Shown for T {
    fn shown(&self) -> Value {
        T::WORDS.iter().find(|(_, value)| value == self).map(|(word, _)| *word).into()
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> Value {
        self.iter().map(T::shown).collect()
    }
}

impl<T: Shown> Shown for BTreeMap<String, T> {
    fn shown(&self) -> Value {
        self.iter().map(|(name, value)| (name.clone(), value.shown())).collect()
    }
}

/// Types whose text is their form in the configuration.
macro_rules! by_text {
    ($($type:ty),+) => {
        $(impl Shown for $type {
            fn shown(&self) -> Value {
                self.to_string().into()
            }
        })+
    };
}

by_text!(Host, IpNet, HeaderName, Currency);

impl Shown for chrono_tz::Tz {
    fn shown(&self) -> Value {
        self.name().into()
    }
}

impl Shown for DateTime<Utc> {
    fn shown(&self) -> Value {
        self.to_rfc3339().into()
    }
}

impl Shown for [u8; 32] {
    fn shown(&self) -> Value {
        self.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
    }
}

impl Shown for Money {
    fn shown(&self) -> Value {
        number(self.to_string())
    }
}

impl Shown for Factor {
    fn shown(&self) -> Value {
        number(self.to_string())
    }
}

impl Shown for Percent {
    fn shown(&self) -> Value {
        number(format!("{}.{:02}", self.hundredths() / 100, self.hundredths() % 100))
    }
}

/// No limit is 0.
impl Shown for Option<NonZeroU32> {
    fn shown(&self) -> Value {
        self.map_or(0, NonZeroU32::get).into()
    }
}

impl Shown for Duration {
    fn shown(&self) -> Value {
        let nanos = self.as_nanos();
        for (unit, size) in [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)] {
            if nanos >= size && nanos.is_multiple_of(size) {
                return format!("{}{unit}", nanos / size).into();
            }
        }
        format!("{}.{:09}s", self.as_secs(), self.subsec_nanos()).into()
    }
}

/// A decimal number; a text if a float would not keep its digits.
pub(super) fn number(text: String) -> Value {
    const EXACT_DIGITS: usize = 15;
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    match text.parse::<Number>() {
        Ok(number) if digits <= EXACT_DIGITS => number.into(),
        _ => text.into(),
    }
}
