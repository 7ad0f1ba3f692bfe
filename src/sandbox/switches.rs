//! What goes wrong on purpose, and the route that changes it at run time.
//!
//! What concerns a callback acts on callbacks that are queued after the change; those that
//! `reorder` holds back go out when it is switched off.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use super::{Till, payment::PaymentOutcome};

/// Of every delay.
pub const MAX_DELAY_MS: u64 = 60_000;
/// Extra copies of one callback.
pub const MAX_DUPLICATES: u32 = 100;

/// All off by default, and always set together: `PUT /switches` and `set_switches` switch
/// off what they do not name. Values beyond the bounds are refused where they are read, and
/// cut where code sets them.
///
/// Callbacks that billing refuses come of `wrong_amount`, and of `forge` where billing asks
/// for signatures (`payment_service.callback_auth: signed`): elsewhere it looks at none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    pub create: Create,
    /// The payment exists at once and can be paid; the reply comes late.
    #[serde(deserialize_with = "delay_ms")]
    pub create_delay_ms: u64,
    pub get: Get,
    #[serde(deserialize_with = "delay_ms")]
    pub get_delay_ms: u64,
    /// A payment is paid as soon as it exists: its callback may overtake the reply of
    /// CreatePayment.
    pub pay_at_once: PayAtOnce,
    #[serde(deserialize_with = "delay_ms")]
    pub callback_delay_ms: u64,
    /// Extra copies of each callback, sent at the same time.
    #[serde(deserialize_with = "duplicates")]
    pub duplicates: u32,
    /// Callbacks are not sent at all.
    pub lose: bool,
    /// Every other callback is held back until the next one has been answered or given up,
    /// for a minute at most.
    pub reorder: bool,
    /// Callbacks are signed with a wrong secret, which concerns a billing that asks for
    /// signatures.
    pub forge: bool,
    /// Callbacks say one hundredth too much.
    pub wrong_amount: bool,
}

/// How CreatePayment answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Create {
    #[default]
    Normal,
    /// FAILED_PRECONDITION, and there is no payment.
    Refuse,
    /// UNAVAILABLE, and there is no payment.
    Unavailable,
    /// The payment is made, and the reply has neither its id nor its page.
    GarbageReply,
}

/// How GetPayment answers.
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
    /// The reply says one hundredth too much.
    WrongAmount,
    /// The reply says USD, or CNY where that is right.
    WrongCurrency,
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

    pub fn callback_delay(&self) -> Duration {
        delay(self.callback_delay_ms)
    }

    /// Of each callback, the first one included.
    pub fn copies(&self) -> u32 {
        1 + self.duplicates.min(MAX_DUPLICATES)
    }
}

/// From a JSON object; what it does not name is off.
impl FromStr for Switches {
    type Err = serde_json::Error;

    fn from_str(json: &str) -> Result<Self, Self::Err> {
        // An object first: a list would do for the struct.
        let object: Map<String, Value> = serde_json::from_str(json)?;
        serde_json::from_value(object.into())
    }
}

fn delay(ms: u64) -> Duration {
    Duration::from_millis(ms.min(MAX_DELAY_MS))
}

fn delay_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let ms = u64::deserialize(deserializer)?;
    if ms <= MAX_DELAY_MS { Ok(ms) } else { Err(de::Error::custom(format!("a delay is at most {MAX_DELAY_MS} ms"))) }
}

fn duplicates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let copies = u32::deserialize(deserializer)?;
    if copies <= MAX_DUPLICATES {
        Ok(copies)
    } else {
        Err(de::Error::custom(format!("duplicates is at most {MAX_DUPLICATES}")))
    }
}

pub(super) fn routes() -> Router<Arc<Till>> {
    Router::new().route("/switches", get(read).put(change))
}

async fn read(State(till): State<Arc<Till>>) -> Json<Switches> {
    Json(till.switches())
}

/// All of them at once: what the body does not name is off. The content type does not
/// matter, so that `curl -X PUT -d` will do.
async fn change(State(till): State<Arc<Till>>, body: String) -> Response {
    match body.parse() {
        Ok(switches) => {
            till.set_switches(switches);
            Json(switches).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("switches: {error}\n")).into_response(),
    }
}
