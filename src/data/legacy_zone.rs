//! The time zone of the times in a legacy database. The legacy service stored wall-clock times in
//! the zone that `loc` of its database source names.

use std::path::Path;

use chrono::{Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// The meaning of the times in a legacy database.
#[derive(Debug, Clone)]
pub struct LegacyZone {
    /// The zone, or the reason why it is unknown.
    pub zone: Result<Tz, String>,
    /// The source of the zone, for people.
    pub found: String,
    /// Whether an operator named the zone in the configuration or as an option.
    pub is_chosen: bool,
    /// `time_zone` of the legacy service's sessions, as SQL, if its source sets one.
    pub session: Option<String>,
}

impl LegacyZone {
    /// The zone of a source, unless `chosen` overrides it.
    pub fn new(source: &str, chosen: Option<Tz>) -> Self {
        let session = parameter(source, "time_zone");
        if let Some(zone) = chosen {
            let found = "data.database.legacy_zone or --legacy-zone".into();
            return Self { zone: Ok(zone), found, is_chosen: true, session };
        }
        if is_url(source) {
            let why = "a URL does not name the zone of the legacy service".into();
            return Self { zone: Err(why), found: "data.database.source is a URL".into(), is_chosen: false, session };
        }
        let (zone, found) = match parameter(source, "loc").as_deref() {
            None | Some("" | "UTC") => (Ok(Tz::UTC), "data.database.source sets no loc".to_owned()),
            Some("Local") => (of_machine(), "loc=Local in data.database.source, the zone of this machine".to_owned()),
            Some(name) => {
                (name.parse().map_err(|_| format!("no zone is named {name:?}")), "loc in data.database.source".into())
            }
        };
        Self { zone, found, is_chosen: false, session }
    }
}

fn is_url(source: &str) -> bool {
    source.starts_with("mysql://") || source.starts_with("mariadb://")
}

/// A parameter of a source in the form of the Go driver; a URL has none.
fn parameter(source: &str, name: &str) -> Option<String> {
    if is_url(source) {
        return None;
    }
    let (_, database) = source.rsplit_once('/')?;
    let (_, parameters) = database.split_once('?')?;
    let mut pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| unescape(value))
}

/// Decodes escapes such as `%2F`; invalid escapes stay unchanged.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped =
            (byte == b'%').then(|| tail.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The zone of this machine by the rules of Go: `TZ`, else /etc/localtime, else UTC.
fn of_machine() -> Result<Tz, String> {
    let unknown = "the zone of this machine is unknown";
    match std::env::var("TZ") {
        Ok(name) => {
            let name = name.trim_start_matches(':');
            let name = name.split_once("zoneinfo/").map_or(name, |(_, name)| name);
            if name.is_empty() { Ok(Tz::UTC) } else { name.parse().map_err(|_| format!("{unknown}: TZ is {name:?}")) }
        }
        Err(_) if !Path::new("/etc/localtime").exists() => Ok(Tz::UTC),
        Err(_) => {
            let name = iana_time_zone::get_timezone().map_err(|error| format!("{unknown}: {error}"))?;
            let zone: Tz = name.parse().map_err(|_| format!("{unknown}: no zone is named {name:?}"))?;
            // This code reads the name of /etc/localtime, and Go reads its content. They differ
            // in a container that mounts the file of its host.
            if keeps_time_of(zone) { Ok(zone) } else { Err(format!("{unknown}: /etc/localtime differs from {name:?}")) }
        }
    }
}

/// Whether the machine's local time has the offsets of `zone`, now and over the last year.
fn keeps_time_of(zone: Tz) -> bool {
    (0..24).all(|half_months| {
        let at = Utc::now().naive_utc() - TimeDelta::days(15 * half_months);
        chrono::Local.offset_from_utc_datetime(&at).fix() == zone.offset_from_utc_datetime(&at).fix()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone_of(source: &str) -> Result<Tz, String> {
        LegacyZone::new(source, None).zone
    }

    #[test]
    fn loc_sets_the_zone() {
        let source = "root:a/b?loc=x@tcp(127.0.0.1:3306)/billing?charset=utf8mb4&parseTime=True";
        assert_eq!(zone_of(source), Ok(Tz::UTC));
        assert_eq!(zone_of(&format!("{source}&loc=UTC")), Ok(Tz::UTC));
        assert_eq!(zone_of(&format!("{source}&loc=Asia%2FShanghai")), Ok(Tz::Asia__Shanghai));
        assert!(zone_of("mysql://root@127.0.0.1/billing?loc=Asia%2FShanghai").unwrap_err().contains("a URL"));
        assert!(zone_of(&format!("{source}&loc=Asia%2FNowhere")).unwrap_err().contains("Asia/Nowhere"));
    }

    #[test]
    fn a_chosen_zone_overrides_loc() {
        let chosen =
            LegacyZone::new("root@tcp(db)/billing?loc=UTC&time_zone=%27%2B08%3A00%27", Some(Tz::Europe__Berlin));
        assert_eq!(chosen.zone, Ok(Tz::Europe__Berlin));
        assert_eq!(chosen.session.as_deref(), Some("'+08:00'"));
    }

    #[test]
    fn an_invalid_escape_stays_unchanged() {
        assert_eq!(unescape("a%2Fb%zz%4"), "a/b%zz%4");
    }
}
