//! Parses the values of config keys. Each error names the accepted values.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use chrono::{DateTime, Datelike, Utc};
use config::ValueKind;
use http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::secret::Secret;
use crate::{
    biz::{
        jobs::low_balance::Percent,
        limits::rate_limit::MAX_LIMIT,
        values::{currency::Currency, ids::ServiceName, money::Money},
    },
    data::dsn::{Host, MAX_HOSTS},
};

/// `1s`, `0.2s`, `200ms`, `5m`, `1h`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a duration above zero such as 1s, 0.2s or 5m")))
}

/// As [`duration`], at most a week, so that every hold ends.
pub(super) fn reservation_ttl<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
    let ttl = duration(deserializer)?;
    if ttl > LONGEST { Err(de::Error::custom("must be at most 168h")) } else { Ok(ttl) }
}

/// As [`duration`], from a second to a minute. Each sweep measures the clock, whose alerts expect it each minute.
pub(super) fn sweep_interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(60);
    let interval = duration(deserializer)?;
    if bounds.contains(&interval) { Ok(interval) } else { Err(de::Error::custom("must be from 1s to 60s")) }
}

/// As [`duration`], at most 10 seconds. A caller waits no longer for its refusal.
pub(super) fn refusal_pause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const LONGEST: Duration = Duration::from_secs(10);
    let pause = duration(deserializer)?;
    if pause > LONGEST { Err(de::Error::custom("must be at most 10s")) } else { Ok(pause) }
}

/// As [`duration`], at most 28 days, so that at most one past month is open.
pub(super) fn close_after<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const LONGEST: Duration = Duration::from_secs(28 * 24 * 3_600);
    let after = duration(deserializer)?;
    if after > LONGEST { Err(de::Error::custom("must be at most 672h")) } else { Ok(after) }
}

/// As [`duration`], at most a week.
pub(super) fn session_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
    let time = duration(deserializer)?;
    if time > LONGEST { Err(de::Error::custom("must be at most 168h")) } else { Ok(time) }
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
        _ if has_login(&text) => Err(de::Error::custom(format!("is {URL_AS_ADDRESS} 0.0.0.0:8107"))),
        Some(_) if text.starts_with(':') => Ok(format!("0.0.0.0{text}")),
        Some(_) => Ok(text),
        None => Err(de::Error::custom(format!("{text:?} is not an address such as 0.0.0.0:8107"))),
    }
}

/// As [`address`], for an optional key.
pub(super) fn optional_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    address(deserializer).map(Some)
}

/// The rest of the error for a URL. It does not show the URL.
const URL_AS_ADDRESS: &str = "a URL or has a login; name the host and the port alone, such as";

/// Whether a text is no address, and may contain a password.
fn has_login(text: &str) -> bool {
    text.contains("://") || text.contains('@')
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
    if texts.iter().any(|text| has_login(text)) {
        let why = format!("is {URL_AS_ADDRESS} 127.0.0.1:6379; username, password and db are keys beside it");
        return Err(de::Error::custom(why));
    }
    match texts.iter().find(|text| !is_address(text)) {
        Some(wrong) => Err(de::Error::custom(format!("{wrong:?} is not an address such as 127.0.0.1:6379"))),
        None => Ok(texts),
    }
}

/// The hosts of a database: a list, or one text with commas. Shows no entry, because one may have a
/// password by mistake.
pub(super) fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Host>, D::Error> {
    let texts: Vec<String> = match config::Value::deserialize(deserializer)?.kind {
        ValueKind::String(text) => text.split(',').map(str::to_owned).collect(),
        ValueKind::Array(items) => items.into_iter().map(|item| item.kind.to_string()).collect(),
        _ => Vec::new(),
    };
    if texts.is_empty() || texts.len() > MAX_HOSTS {
        return Err(de::Error::custom(format!("is not a list of 1 to {MAX_HOSTS} hosts such as [db1:3306, db2:3306]")));
    }
    let parse = |(index, text): (usize, &String)| {
        let refused = |why| de::Error::custom(format!("entry {} {why}; write host:port", index + 1));
        text.trim().parse().map_err(refused)
    };
    texts.iter().enumerate().map(parse).collect()
}

pub(super) fn redis_db<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    whole(deserializer, 0, usize::from(u16::MAX)).map(|db| db as u16)
}

fn whole<'de, D: Deserializer<'de>>(deserializer: D, min: usize, max: usize) -> Result<usize, D::Error> {
    // Parsed from text, because the config crate would round a fraction.
    let text = String::deserialize(deserializer)?;
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a whole number from {min} to {max}")))
}

/// Log lines in a second.
pub(super) fn lines_per_second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole(deserializer, 1, 100_000).map(|lines| lines as u32)
}

/// Traces in a second.
pub(super) fn parents_per_second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole(deserializer, 0, 100_000).map(|parents| parents as u32)
}

/// Input tokens of one call.
pub(super) fn input_tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole(deserializer, 1, i32::MAX as usize).map(|tokens| tokens as u32)
}

pub(super) fn optional_input_tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    input_tokens(deserializer).map(Some)
}

/// How many times the expected usage is no defect.
pub(super) fn usage_sanity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole(deserializer, 1, 1_000_000_000).map(|times| times as u32)
}

pub(super) fn up_to_a_thousand<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 1, 1_000)
}

pub(super) fn up_to_a_million<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 1, 1_000_000)
}

/// As [`up_to_a_million`]. 0 means the default.
pub(super) fn up_to_a_million_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 0, 1_000_000)
}

pub(super) fn body_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 1, 64 * 1024 * 1024)
}

/// Up to 4 GiB less one byte: what one count of a semaphore holds.
pub(super) fn body_memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 1, 4 * 1024 * 1024 * 1024 - 1)
}

/// A number of lanes. Each lane takes a connection. 0 means the default of the database.
pub(super) fn lanes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 0, 64)
}

/// A number of postings. The statements of a transaction must stay well below the packet limit of the
/// server. 0 means the default of the database.
pub(super) fn batch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    whole(deserializer, 0, 4_000)
}

/// 0 means no limit.
pub(super) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    let limit = whole(deserializer, 0, MAX_LIMIT as usize)?;
    u32::try_from(limit).map(NonZeroU32::new).map_err(de::Error::custom)
}

/// 0 means no archive. At most a century.
pub(super) fn months<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    let months = whole(deserializer, 0, 1_200)?;
    u32::try_from(months).map(NonZeroU32::new).map_err(de::Error::custom)
}

/// An amount: a YAML number, by its shortest decimal form, or a text.
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

/// An instant with a date, a time and a zone.
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

/// Units a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FreeQuota(u64);

impl FreeQuota {
    /// Ten thousand times the largest quota fits 64 bits. The counts of low quotas multiply by that
    /// factor.
    pub const MAX: usize = 100_000_000_000_000;

    pub fn units(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for FreeQuota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = whole(deserializer, 0, Self::MAX)?;
        u64::try_from(units).map(Self).map_err(de::Error::custom)
    }
}

/// A percentage, rounded to the nearest hundredth.
pub(super) fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
    let percent = f64::deserialize(deserializer)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(de::Error::custom("must be from 0 to 100"));
    }
    Ok(Percent::from_hundredths((percent * 100.0).round() as u16))
}

pub(super) fn timezone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<chrono_tz::Tz, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse()
        .map_err(|_| de::Error::custom(format!("must be an IANA time zone such as Asia/Shanghai, and is {name:?}")))
}

pub(super) fn optional_timezone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<chrono_tz::Tz>, D::Error> {
    timezone(deserializer).map(Some)
}

pub(super) fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Currency, D::Error> {
    let code = String::deserialize(deserializer)?;
    Currency::parse(&code)
        .ok_or_else(|| de::Error::custom(format!("{code:?} is no currency code of ISO 4217 such as CNY, JPY or KWD")))
}

/// A list of texts, or one text with commas, the form in the environment. Errors show no entry,
/// because it may be a secret.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match config::Value::deserialize(deserializer)?.kind {
        ValueKind::String(text) => {
            Ok(text.split(',').map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty()).collect())
        }
        ValueKind::Array(items) => items
            .into_iter()
            .map(|item| match item.kind {
                ValueKind::String(text) => Ok(text),
                _ => Err(de::Error::custom("each must be a text; put it in quotes")),
            })
            .collect(),
        _ => Err(de::Error::custom("must be a list of texts, or texts separated by commas")),
    }
}

/// As [`texts`], for secrets.
pub(super) fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let tokens = texts(deserializer)?;
    if tokens.iter().any(|token| token.len() < 16) {
        return Err(de::Error::custom("each must have at least 16 characters"));
    }
    Ok(tokens.into_iter().map(Secret).collect())
}

/// As [`secrets`]: the current secret and the next one.
pub(super) fn callback_secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let secrets = secrets(deserializer)?;
    if secrets.len() > 2 { Err(de::Error::custom("must be two at most")) } else { Ok(secrets) }
}

/// Most names of [`metadata_names`].
const MAX_METADATA: usize = 16;

/// Names of headers, which are names of gRPC metadata too. Those of the protocol, of the trace context
/// and of proofs are refused.
pub(super) fn metadata_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
    let texts = texts(deserializer)?;
    if texts.len() > MAX_METADATA {
        return Err(de::Error::custom(format!("must be {MAX_METADATA} names at most")));
    }
    texts.iter().map(|text| metadata_name(text).map_err(de::Error::custom)).collect()
}

fn metadata_name(text: &str) -> Result<HeaderName, String> {
    const OWN: [&str; 12] = [
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "user-agent",
        "x-billing-signature",
    ];
    let name = text.parse::<HeaderName>().map_err(|_| format!("{text:?} is no name of a header"))?;
    let is_own = OWN.contains(&name.as_str()) || name.as_str().starts_with("grpc-") || name.as_str().ends_with("-bin");
    if is_own { Err(format!("{text:?} can't be forwarded")) } else { Ok(name) }
}
