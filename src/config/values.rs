//! The values of configuration keys: each with the error that says what would do.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use chrono::{DateTime, Datelike, Utc};
use config::ValueKind;
use serde::{Deserialize, Deserializer, de};

use super::secret::Secret;
use crate::biz::{
    jobs::low_balance::Percent,
    limits::rate_limit::MAX_LIMIT,
    values::{ids::ServiceName, money::Money},
};

/// `1s`, `0.2s`, `200ms`, `5m`, `1h`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a duration above zero such as 1s, 0.2s or 5m")))
}

/// As [`duration`], a week at most: a hold is not for ever.
pub(super) fn reservation_ttl<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
    let ttl = duration(deserializer)?;
    if ttl > LONGEST { Err(de::Error::custom("must be at most 168h")) } else { Ok(ttl) }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit_ms) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
        .into_iter()
        .find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.len() <= 9 && s.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos: u64 = format!("{whole}{fraction:0<9}").parse().ok()?;
    nanos.checked_mul(unit_ms).map(|scaled| Duration::from_nanos(scaled / 1_000))
}

/// `host:port`, or `:port` for every address of the machine.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) if text.starts_with(':') => Ok(format!("0.0.0.0{text}")),
        Some(_) => Ok(text),
        None => Err(de::Error::custom(format!("{text:?} is not an address such as 0.0.0.0:8107"))),
    }
}

/// As [`address`], where there may be none.
pub(super) fn optional_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    address(deserializer).map(Some)
}

/// One address, several in a list, or several in a text with commas.
pub(super) fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts: Vec<String> = match config::Value::deserialize(deserializer)?.kind {
        ValueKind::String(text) => text.split(',').map(|text| text.trim().to_owned()).collect(),
        ValueKind::Array(items) => items.into_iter().map(|item| item.kind.to_string()).collect(),
        other => vec![other.to_string()],
    };
    let is_address = |text: &String| {
        text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match texts.iter().find(|text| !is_address(text)) {
        Some(wrong) => Err(de::Error::custom(format!("{wrong:?} is not an address such as 127.0.0.1:6379"))),
        None => Ok(texts),
    }
}

pub(super) fn redis_db<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    whole(deserializer, 0, usize::from(u16::MAX)).map(|db| db as u16)
}

fn whole<'de, D: Deserializer<'de>>(deserializer: D, min: usize, max: usize) -> Result<usize, D::Error> {
    // By way of text: the config crate would round a fraction.
    let text = String::deserialize(deserializer)?;
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a whole number from {min} to {max}")))
}

pub(super) fn up_to_a_thousand<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 1, 1_000)
}

pub(super) fn up_to_a_million<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 1, 1_000_000)
}

pub(super) fn body_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 1, 64 * 1024 * 1024)
}

/// Each lane takes a connection; 0 leaves the number to the database's kind.
pub(super) fn lanes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 0, 64)
}

/// A transaction's statements must stay well below the packet limit of a server; 0 leaves
/// the number to the database's kind.
pub(super) fn batch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 0, 4_000)
}

/// 0: no limit.
pub(super) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    let limit = whole(deserializer, 0, MAX_LIMIT as usize)?;
    u32::try_from(limit).map(NonZeroU32::new).map_err(de::Error::custom)
}

/// 0: for ever. A century at most.
pub(super) fn months<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    let months = whole(deserializer, 0, 1_200)?;
    u32::try_from(months).map(NonZeroU32::new).map_err(de::Error::custom)
}

/// A number of YAML by its shortest decimal form, or a text.
struct Amount(Money);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let amount: Money = text.parse().map_err(|why| de::Error::custom(format!("{text:?} {why}")))?;
        if amount.is_negative() {
            return Err(de::Error::custom("must not be negative"));
        }
        Ok(Self(amount))
    }
}

pub(super) fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
    Amount::deserialize(deserializer).map(|amount| amount.0)
}

pub(super) fn optional_amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Money>, D::Error> {
    amount(deserializer).map(Some)
}

/// With a date, a time and a zone.
pub(super) fn optional_instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    const FIRST_YEAR: i32 = 1970;
    let text = String::deserialize(deserializer)?;
    DateTime::parse_from_rfc3339(&text)
        .map(|instant| instant.to_utc())
        .ok()
        .filter(|instant| instant.year() >= FIRST_YEAR)
        .map(Some)
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a time such as 2026-11-01T00:00:00+08:00")))
}

pub(super) fn prices<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Money>, D::Error> {
    let prices = BTreeMap::<String, Amount>::deserialize(deserializer)?;
    for name in prices.keys() {
        ServiceName::parse(name, name).map_err(|why| de::Error::custom(format!("service {why}")))?;
    }
    Ok(prices.into_iter().map(|(name, amount)| (name, amount.0)).collect())
}

/// Units a month, as far as the tables hold them.
#[derive(Debug, Clone, Copy)]
pub struct FreeQuota(u32);

impl FreeQuota {
    pub fn units(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for FreeQuota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const MAX: usize = i32::MAX as usize;
        let units = whole(deserializer, 0, MAX)?;
        u32::try_from(units).map(Self).map_err(de::Error::custom)
    }
}

/// To the nearest hundredth.
pub(super) fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
    let percent = f64::deserialize(deserializer)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(de::Error::custom("must be from 0 to 100"));
    }
    Ok(Percent::from_hundredths((percent * 100.0).round() as u16))
}

pub(super) fn timezone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<chrono_tz::Tz, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(|_| de::Error::custom(format!("{name:?} is not a time zone such as Asia/Shanghai")))
}

pub(super) fn optional_timezone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<chrono_tz::Tz>, D::Error> {
    timezone(deserializer).map(Some)
}

pub(super) fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let code = String::deserialize(deserializer)?;
    if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(code)
    } else {
        Err(de::Error::custom(format!("{code:?} is not a currency code such as CNY")))
    }
}

/// A list, or one text with commas as the environment has it. Errors never show it.
pub(super) fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let tokens: Vec<String> = match config::Value::deserialize(deserializer)?.kind {
        ValueKind::String(text) => {
            text.split(',').map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()).collect()
        }
        ValueKind::Array(items) => items
            .into_iter()
            .map(|item| match item.kind {
                ValueKind::String(token) => Ok(token),
                _ => Err(de::Error::custom("each must be a text; put it in quotes")),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(de::Error::custom("must be a list of texts, or texts separated by commas")),
    };
    if tokens.iter().any(|token| token.len() < 16) {
        return Err(de::Error::custom("each must have at least 16 characters"));
    }
    Ok(tokens.into_iter().map(Secret).collect())
}

/// As [`secrets`]; the one in use and the one that takes over.
pub(super) fn callback_secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let secrets = secrets(deserializer)?;
    if secrets.len() > 2 { Err(de::Error::custom("must be two at most")) } else { Ok(secrets) }
}
