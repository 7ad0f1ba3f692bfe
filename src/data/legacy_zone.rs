//! The zone that the times of the legacy service are wall-clock times of: its driver
//! stored them as `loc` of its source told it to.

use std::path::Path;

use chrono::{Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// What times in a database of the legacy service mean.
#[derive(Debug, Clone)]
pub struct LegacyZone {
    /// The zone, or why it is not known.
    pub zone: Result<Tz, String>,
    /// Where it was found.
    pub found: String,
    /// Whether an operator named it, and not only the source.
    pub is_chosen: bool,
    /// `time_zone` of the legacy service's sessions, as SQL, when its source set one.
    pub session: Option<String>,
}

impl LegacyZone {
    /// That of a source, unless `chosen` overrides it.
    pub fn new(source: &str, chosen: Option<Tz>) -> Self {
        let session = parameter(source, "time_zone");
        if let Some(zone) = chosen {
            let found = "data.database.legacy_zone or --legacy-zone".into();
            return Self { zone: Ok(zone), found, is_chosen: true, session };
        }
        if is_url(source) {
            let why = "a URL does not say in which zone the legacy service stored its times; name it".into();
            return Self { zone: Err(why), found: "data.database.source is a URL".into(), is_chosen: false, session };
        }
        let (zone, found) = match parameter(source, "loc").as_deref() {
            None | Some("" | "UTC") => (Ok(Tz::UTC), "data.database.source names no other".to_owned()),
            Some("Local") => (of_machine(), "loc=Local in data.database.source: this machine's".to_owned()),
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

/// A parameter of a source in the Go driver's form; URLs have none of these.
fn parameter(source: &str, name: &str) -> Option<String> {
    if is_url(source) {
        return None;
    }
    let (_, database) = source.rsplit_once('/')?;
    let (_, parameters) = database.split_once('?')?;
    let mut pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| unescape(value))
}

/// `%2F` as `/`; what is no escape stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped =
            (byte == b'%').then(|| tail.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(meant) => {
                bytes.push(meant);
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

/// As Go finds it: by `TZ`, else by /etc/localtime, and UTC where there is none.
fn of_machine() -> Result<Tz, String> {
    let advice = "this machine's zone has no name that is known; name the legacy service's";
    match std::env::var("TZ") {
        Ok(name) => {
            let name = name.trim_start_matches(':');
            let name = name.split_once("zoneinfo/").map_or(name, |(_, name)| name);
            if name.is_empty() { Ok(Tz::UTC) } else { name.parse().map_err(|_| format!("TZ is {name:?}: {advice}")) }
        }
        Err(_) if !Path::new("/etc/localtime").exists() => Ok(Tz::UTC),
        Err(_) => {
            let name = iana_time_zone::get_timezone().map_err(|error| format!("{error}: {advice}"))?;
            let zone: Tz = name.parse().map_err(|_| format!("{name:?}: {advice}"))?;
            // Only the name of /etc/localtime is read; Go reads what it holds, which is
            // another where a container has the file of its host.
            if keeps_time_of(zone) {
                Ok(zone)
            } else {
                Err(format!("/etc/localtime is not that of {name:?}: {advice}"))
            }
        }
    }
}

/// Whether the machine's clocks go by a zone, now and around the year.
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
    fn the_zone_is_that_of_loc() {
        let source = "root:a/b?loc=x@tcp(127.0.0.1:3306)/billing?charset=utf8mb4&parseTime=True";
        assert_eq!(zone_of(source), Ok(Tz::UTC));
        assert_eq!(zone_of(&format!("{source}&loc=UTC")), Ok(Tz::UTC));
        assert_eq!(zone_of(&format!("{source}&loc=Asia%2FShanghai")), Ok(Tz::Asia__Shanghai));
        assert!(zone_of("mysql://root@127.0.0.1/billing?loc=Asia%2FShanghai").unwrap_err().contains("a URL"));
        assert!(zone_of(&format!("{source}&loc=Asia%2FNowhere")).unwrap_err().contains("Asia/Nowhere"));
    }

    #[test]
    fn a_chosen_zone_comes_before_loc() {
        let chosen =
            LegacyZone::new("root@tcp(db)/billing?loc=UTC&time_zone=%27%2B08%3A00%27", Some(Tz::Europe__Berlin));
        assert_eq!(chosen.zone, Ok(Tz::Europe__Berlin));
        assert_eq!(chosen.session.as_deref(), Some("'+08:00'"));
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape("a%2Fb%zz%4"), "a/b%zz%4");
    }
}
