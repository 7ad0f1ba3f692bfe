//! `telemetry`: where traces go, and how many.

use http::{Uri, uri::Scheme};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    shown::{Shown, number, shown},
    values,
};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// The URL of a collector that takes OTLP over gRPC. `None`, for an empty text, means no traces.
    #[serde(deserialize_with = "endpoint")]
    pub otlp_endpoint: Option<String>,
    /// The part of the requests without a parent that are traced.
    #[serde(deserialize_with = "sample_ratio", serialize_with = "shown")]
    pub sample_ratio: SampleRatio,
    /// Most requests of a second that are traced because their parent is. Chance decides for the others.
    #[serde(deserialize_with = "values::parents_per_second")]
    pub parents_per_second: u32,
    /// The name of the service in traces.
    #[serde(deserialize_with = "service_name")]
    pub service_name: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sample_ratio: SampleRatio(0.01),
            parents_per_second: 200,
            service_name: "billing-service".into(),
        }
    }
}

/// A part of all, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRatio(f64);

impl SampleRatio {
    /// The number below which a random number of 64 bits falls with this probability; `None` for all.
    pub fn threshold(self) -> Option<u64> {
        // A ratio below 1 stays below 2^64.
        (self.0 < 1.0).then(|| (self.0 * 2_f64.powi(64)) as u64)
    }
}

impl Shown for SampleRatio {
    fn shown(&self) -> serde_json::Value {
        number(self.0.to_string())
    }
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    // The error shows no text, which may have a login.
    let uri: Option<Uri> = text.parse().ok();
    let is_plain = uri.is_some_and(|uri| {
        uri.scheme() == Some(&Scheme::HTTP)
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
    });
    if is_plain {
        return Ok(Some(text));
    }
    Err(de::Error::custom(
        "is not a URL such as http://127.0.0.1:4317: OTLP over gRPC, without TLS and a login. Run a collector beside the server; it may go on with TLS",
    ))
}

fn sample_ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SampleRatio, D::Error> {
    let text = String::deserialize(deserializer)?;
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).map(SampleRatio);
    ratio.ok_or_else(|| de::Error::custom(format!("{text:?} is not a number from 0 to 1")))
}

fn service_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    const MAX: usize = 64;
    let text = String::deserialize(deserializer)?;
    let is_name = (1..=MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name { Ok(text) } else { Err(de::Error::custom(format!("is not 1 to {MAX} printable characters"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_of_a_ratio_is_its_part_of_all_numbers() {
        assert_eq!(SampleRatio(0.0).threshold(), Some(0));
        assert_eq!(SampleRatio(0.5).threshold(), Some(1 << 63));
        assert_eq!(SampleRatio(1.0).threshold(), None);
    }
}
