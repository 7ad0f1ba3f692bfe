//! The faults that the sandbox injects.
//!
//! A switch of callbacks acts on callbacks that are queued after the change. Switching
//! `reorder` off sends the callbacks that it holds back.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use super::payment::PaymentOutcome;

/// The longest delay of each switch.
pub const MAX_DELAY_MS: u64 = 60_000;
/// The most extra copies of one callback.
pub const MAX_DUPLICATES: u32 = 100;

/// All switches are off by default and set together: `PUT /switches` and `set_switches` turn
/// off the switches that they do not name. JSON with a value out of bounds is refused; a value
/// set by code is cut to the bound.
///
/// Billing refuses callbacks with `wrong_amount`. It refuses callbacks with `forge` only if it
/// requires signatures (`payment_service.callback_auth: signed`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    pub create: Create,
    /// Delays the reply. The payment exists and can be paid at once.
    #[serde(deserialize_with = "delay_ms")]
    pub create_delay_ms: u64,
    pub get: Get,
    #[serde(deserialize_with = "delay_ms")]
    pub get_delay_ms: u64,
    pub refund: Refund,
    /// Delays the reply. The refund exists at once.
    #[serde(deserialize_with = "delay_ms")]
    pub refund_delay_ms: u64,
    pub get_refund: GetRefund,
    /// Pays a payment as soon as it exists. The callback may arrive before the reply of
    /// CreatePayment.
    pub pay_at_once: PayAtOnce,
    #[serde(deserialize_with = "delay_ms")]
    pub callback_delay_ms: u64,
    /// Extra copies of each callback, sent at the same time.
    #[serde(deserialize_with = "duplicates")]
    pub duplicates: u32,
    /// Drops every callback.
    pub lose: bool,
    /// Holds back every other callback until the next one has been answered or given up, for a
    /// minute at most.
    pub reorder: bool,
    /// Signs callbacks with a wrong secret. No effect if billing does not require signatures.
    pub forge: bool,
    /// Adds one hundredth to the amount of callbacks.
    pub wrong_amount: bool,
}

/// The answer of CreatePayment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Create {
    #[default]
    Normal,
    /// FAILED_PRECONDITION; creates no payment.
    Refuse,
    /// UNAVAILABLE; creates no payment.
    Unavailable,
    /// Creates the payment, and leaves out its id and pay page in the reply.
    GarbageReply,
}

/// The answer of GetPayment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Get {
    #[default]
    Normal,
    /// FAILED_PRECONDITION.
    Refuse,
    /// UNAVAILABLE.
    Unavailable,
    /// The reply names another order.
    WrongOrder,
    /// The amount of the reply is one hundredth too high.
    WrongAmount,
    /// The currency of the reply is USD, or CNY if USD is right.
    WrongCurrency,
}

/// The answer of CreateRefund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refund {
    /// SUCCESS, and a callback.
    #[default]
    Normal,
    /// FAILED_PRECONDITION; makes no refund.
    Refuse,
    /// UNAVAILABLE; makes no refund.
    Unavailable,
    /// UNAVAILABLE, although the refund is made.
    LoseReply,
    /// PENDING, until a button of the pay page decides.
    Pending,
    /// FAILED; the refund exists, and no money goes back.
    Fail,
}

/// The answer of GetRefund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GetRefund {
    #[default]
    Normal,
    /// FAILED_PRECONDITION.
    Refuse,
    /// UNAVAILABLE.
    Unavailable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PayAtOnce {
    #[default]
    #[serde(rename = "none")]
    No,
    #[serde(rename = "SUCCESS")]
    Success,
    #[serde(rename = "FAILED")]
    Failed,
}

impl PayAtOnce {
    pub fn outcome(self) -> Option<PaymentOutcome> {
        match self {
            Self::No => None,
            Self::Success => Some(PaymentOutcome::Success),
            Self::Failed => Some(PaymentOutcome::Failed),
        }
    }
}

impl Switches {
    pub fn create_delay(&self) -> Duration {
        delay(self.create_delay_ms)
    }

    pub fn get_delay(&self) -> Duration {
        delay(self.get_delay_ms)
    }

    pub fn refund_delay(&self) -> Duration {
        delay(self.refund_delay_ms)
    }

    pub fn callback_delay(&self) -> Duration {
        delay(self.callback_delay_ms)
    }

    /// Copies of each callback, including the first.
    pub fn copies(&self) -> u32 {
        1 + self.duplicates.min(MAX_DUPLICATES)
    }
}

/// From a JSON object; switches that it does not name are off.
impl FromStr for Switches {
    type Err = serde_json::Error;

    fn from_str(json: &str) -> Result<Self, Self::Err> {
        // Parsed as an object first, because serde would also read the struct from a list.
        let object: Map<String, Value> = serde_json::from_str(json)?;
        serde_json::from_value(object.into())
    }
}

fn delay(ms: u64) -> Duration {
    Duration::from_millis(ms.min(MAX_DELAY_MS))
}

fn delay_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let ms = u64::deserialize(deserializer)?;
    if ms <= MAX_DELAY_MS {
        Ok(ms)
    } else {
        Err(de::Error::custom(format!("a delay must be at most {MAX_DELAY_MS} ms")))
    }
}

fn duplicates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let copies = u32::deserialize(deserializer)?;
    if copies <= MAX_DUPLICATES {
        Ok(copies)
    } else {
        Err(de::Error::custom(format!("duplicates must be at most {MAX_DUPLICATES}")))
    }
}
