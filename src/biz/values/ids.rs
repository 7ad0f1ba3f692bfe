//! Identifiers from callers, checked once at the edge. A clone is cheap.

use std::{fmt, sync::Arc};

use crate::biz::values::invalid::Invalid;

/// A set of ASCII characters.
#[derive(Debug)]
pub struct Charset {
    accepts: fn(u8) -> bool,
    /// Its name in errors.
    name: &'static str,
    /// The same set as a class of a regular expression, which schemas show.
    pub class: &'static str,
}

const USER_ID: Charset =
    Charset { accepts: is_user_id_byte, name: "letters, digits and -_.:@", class: "[A-Za-z0-9_.:@-]" };
const NAME: Charset = Charset { accepts: is_name_byte, name: "letters, digits and -_.", class: "[A-Za-z0-9_.-]" };
const GRAPHIC: Charset =
    Charset { accepts: is_graphic, name: "printable ASCII characters without spaces", class: "[!-~]" };
const PRINTABLE: Charset = Charset { accepts: is_printable, name: "printable ASCII characters", class: "[ -~]" };

/// Defines an identifier: a shared string with checked content.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $max:expr, $charset:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Longest accepted value, in bytes.
            pub const MAX_LEN: usize = $max;
            /// The accepted characters.
            pub const CHARSET: &'static Charset = &$charset;

            /// Checks `value`. The error names `field`.
            pub fn parse(field: &str, value: &str) -> Result<Self, Invalid> {
                check(field, value, Self::MAX_LEN, Self::CHARSET)?;
                Ok(Self(value.into()))
            }

            /// As [`Self::parse`]; `None` for an empty string.
            pub fn parse_optional(field: &str, value: &str) -> Result<Option<Self>, Invalid> {
                if value.is_empty() { Ok(None) } else { Self::parse(field, value).map(Some) }
            }

            /// A stored value, which was checked before it was stored.
            pub fn from_stored(value: impl Into<Arc<str>>) -> Self {
                Self(value.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

identifier!(
    /// A user of the platform; the owner of one account.
    UserId, 36, USER_ID
);
identifier!(
    /// A billed service, such as `passport`. Only configured services reach the rules.
    ServiceName, 32, NAME
);
identifier!(
    /// The id that makes a charge idempotent, scoped to its user.
    TraceId, 128, PRINTABLE
);
identifier!(
    /// The id that makes an adjustment idempotent, scoped to its user.
    AdjustmentId, 128, PRINTABLE
);
identifier!(
    /// The id that makes a refund idempotent: of a charge, scoped to its user; of a top-up, among all
    /// orders.
    RefundId, 128, PRINTABLE
);
identifier!(
    /// The id that makes a top-up idempotent, scoped to its user.
    IdempotencyKey, 128, PRINTABLE
);
identifier!(
    /// The API key a call was made with.
    ApiKeyId, 128, PRINTABLE
);
identifier!(
    /// A language model behind the LLM gateway.
    ModelName, 128, PRINTABLE
);
identifier!(
    /// A version of a model's prices.
    PriceVersionId, 128, PRINTABLE
);

identifier!(
    /// A vendor's tier of service, such as `batch`.
    ServiceTier, 32, NAME
);

/// A price plan of users. It is part of the state of an account, so it is copied with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanName {
    text: [u8; Self::MAX_LEN],
    length: u8,
}

impl PlanName {
    /// Longest accepted name, in bytes.
    pub const MAX_LEN: usize = 32;
    /// The accepted characters.
    pub const CHARSET: &'static Charset = &NAME;
    /// The name of the plan of a user without another one.
    pub const DEFAULT: &str = "default";

    /// Checks `value`. The error names `field`.
    ///
    /// # Errors
    /// [`Invalid`] for an empty or too long text, and for other characters.
    pub fn parse(field: &str, value: &str) -> Result<Self, Invalid> {
        check(field, value, Self::MAX_LEN, Self::CHARSET)?;
        Ok(Self::from_stored(value))
    }

    /// A stored value, which was checked before it was stored. A longer one is cut.
    pub fn from_stored(value: &str) -> Self {
        let mut text = [0; Self::MAX_LEN];
        let bytes = value.bytes().take(Self::MAX_LEN);
        let length = text.iter_mut().zip(bytes).map(|(to, from)| *to = from).count();
        Self { text, length: u8::try_from(length).unwrap_or_default() }
    }

    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Display for PlanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PlanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

identifier!(
    /// A top-up order.
    OrderId, 64, GRAPHIC
);
identifier!(
    /// payment-service's id of a payment.
    PaymentId, 64, GRAPHIC
);

identifier!(
    /// A webhook, named by an operator.
    WebhookId, 36, NAME
);

impl TraceId {
    /// A new id, for a charge without an id of the caller.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

fn check(field: &str, value: &str, max: usize, charset: &Charset) -> Result<(), Invalid> {
    if value.is_empty() {
        Err(Invalid::new(field, "is required"))
    } else if value.len() > max || !value.bytes().all(charset.accepts) {
        Err(Invalid::new(field, format!("must be 1 to {max} {}", charset.name)))
    } else {
        Ok(())
    }
}

fn is_user_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

fn is_graphic(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_keeps_to_its_characters_and_length() {
        for good in ["u", "new_user_001", "a-b.c:d@e", &"x".repeat(36)] {
            assert_eq!(UserId::parse("user_id", good).unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a/b", "é", "a\n", "a'", "a{b}", &"x".repeat(37)] {
            let error = UserId::parse("user_id", bad).unwrap_err();
            assert_eq!(error.field, "user_id", "{bad:?}");
        }
    }

    #[test]
    fn a_plan_keeps_its_name() {
        for good in ["p", "reseller-2.x_", &"x".repeat(32)] {
            assert_eq!(PlanName::parse("plan", good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "é", &"x".repeat(33)] {
            assert_eq!(PlanName::parse("plan", bad).unwrap_err().field, "plan", "{bad:?}");
        }
    }

    /// The bytes of a class without escapes.
    fn bytes_of(class: &str) -> Vec<u8> {
        let mut left = class.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap().as_bytes();
        let mut bytes = Vec::new();
        while let [first, rest @ ..] = left {
            match rest {
                [b'-', last, rest @ ..] => {
                    bytes.extend(*first..=*last);
                    left = rest;
                }
                _ => {
                    bytes.push(*first);
                    left = rest;
                }
            }
        }
        bytes.sort_unstable();
        bytes
    }

    #[test]
    fn the_class_of_a_charset_has_the_characters_that_are_accepted() {
        for charset in [USER_ID, NAME, GRAPHIC, PRINTABLE] {
            let accepted: Vec<u8> = (0..=u8::MAX).filter(|byte| (charset.accepts)(*byte)).collect();
            assert_eq!(bytes_of(charset.class), accepted, "{}", charset.class);
        }
    }

    #[test]
    fn a_trace_id_is_any_printable_ascii() {
        assert!(TraceId::parse("trace_id", &"~".repeat(128)).is_ok());
        assert!(TraceId::parse("trace_id", "it's \"quoted\" \\ %_").is_ok());
        for bad in ["", "\t", "\u{7f}", "日本", &"x".repeat(129)] {
            assert!(TraceId::parse("trace_id", bad).is_err(), "{bad:?}");
        }
    }
}
