//! `google.protobuf.Timestamp` with its proto3 JSON form: RFC 3339 in UTC, with the suffix `Z`.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::biz::values::{error, invalid::Invalid};

/// An instant on the wire. The fields are those of `google/protobuf/timestamp.proto`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds within the second, 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(instant: DateTime<Utc>) -> Self {
        Self { seconds: instant.timestamp(), nanos: super::convert::int32(instant.timestamp_subsec_nanos()) }
    }
}

impl Timestamp {
    /// The instant; `None` if the fields are none.
    pub(super) fn to_instant(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.seconds, u32::try_from(self.nanos).ok()?)
    }
}

/// Parses an instant of 1970 or later.
pub(super) fn instant(field: &str, value: Timestamp) -> error::Result<DateTime<Utc>> {
    value
        .to_instant()
        .filter(|instant| (1970..=9999).contains(&instant.year()))
        .ok_or_else(|| Invalid::new(field, "must be of the years 1970 to 9999").into())
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_instant()
            .ok_or_else(|| ser::Error::custom("timestamp out of range"))?
            .to_rfc3339_opts(SecondsFormat::AutoSi, true)
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let instant = DateTime::parse_from_rfc3339(&text).map_err(de::Error::custom)?;
        Ok(instant.to_utc().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_time_is_rfc_3339_in_utc() {
        let at = |nanos| Timestamp { seconds: 1_795_253_601, nanos };
        assert_eq!(serde_json::to_string(&at(0)).unwrap(), "\"2026-11-21T09:33:21Z\"");
        assert_eq!(serde_json::to_string(&at(552_419_000)).unwrap(), "\"2026-11-21T09:33:21.552419Z\"");
        let read: Timestamp = serde_json::from_str("\"2026-11-21T17:33:21+08:00\"").unwrap();
        assert_eq!(read, at(0));
    }
}
