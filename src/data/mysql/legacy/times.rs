//! Converts wall-clock times of the legacy service to instants and to billing days.
//!
//! MySQL may not know the zones, so the SQL contains them as a list of spans of wall-clock time,
//! each with its shifts to UTC and to the billing zone.

use chrono::{DateTime, Days, Duration, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;

/// The day of a record without a time, which the migrations write. Times up to the end of this day
/// count as UTC, because they belong to no zone.
const FIRST_DAY: NaiveDate = match NaiveDate::from_ymd_opt(1970, 1, 2) {
    Some(day) => day,
    None => NaiveDate::MIN,
};

/// The conversion of the legacy times.
pub(super) struct Times {
    legacy: Tz,
    billing: Tz,
    /// Newest first, because most times are recent, and SQL tries the spans in order.
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: NaiveDateTime,
    shifts: Shifts,
}

/// Seconds to add to a wall-clock time for the same instant in UTC and in the billing zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shifts {
    to_utc: i64,
    to_billing: i64,
}

impl Times {
    /// The conversion of times up to a year after `now`.
    pub(super) fn new(legacy: Tz, billing: Tz, now: DateTime<Utc>) -> Self {
        let from = (FIRST_DAY + Days::new(1)).and_time(NaiveTime::MIN);
        let until = now.naive_utc() + Duration::days(366);
        let mut starts = starts(legacy, billing, from, until);
        starts.push(from);
        starts.sort_unstable();
        let mut spans: Vec<Span> = Vec::new();
        for start in starts.into_iter().filter(|start| *start >= from) {
            let shifts = shifts(legacy, billing, start);
            if spans.last().is_none_or(|last| last.shifts != shifts) {
                spans.push(Span { from: start, shifts });
            }
        }
        spans.reverse();
        Self { legacy, billing, spans }
    }

    /// Whether the legacy times are UTC already.
    pub(super) fn are_utc(&self) -> bool {
        self.spans.iter().all(|span| span.shifts.to_utc == 0)
    }

    /// The instant of the wall-clock time `wall`.
    pub(super) fn instant(&self, wall: NaiveDateTime) -> DateTime<Utc> {
        if wall.date() <= FIRST_DAY { wall.and_utc() } else { instant(self.legacy, wall) }
    }

    /// SQL that converts the wall-clock time in `column` to UTC.
    pub(super) fn utc_sql(&self, column: &str) -> String {
        self.case(column, 0, |shifts| shifts.to_utc)
    }

    /// SQL that converts the wall-clock time in `column` to a time of the billing zone.
    pub(super) fn billing_sql(&self, column: &str) -> String {
        let first_day = offset(self.billing, FIRST_DAY.and_time(NaiveTime::MIN));
        self.case(column, first_day, |shifts| shifts.to_billing)
    }

    fn case(&self, column: &str, otherwise: i64, shift: fn(Shifts) -> i64) -> String {
        let mut sql = String::from("CASE");
        for Span { from, shifts } in &self.spans {
            sql += &format!(" WHEN {column} >= '{from}' THEN {column} + INTERVAL {} SECOND", shift(*shifts));
        }
        sql + &format!(" ELSE {column} + INTERVAL {otherwise} SECOND END")
    }
}

/// The instant that the legacy service read from a stored wall-clock time, so that the conversion
/// does not change it. A time may occur twice, when the clocks go back, or never, when they go
/// forward. As Go's `time.Date`, this uses the offset at the instant of the first guess.
fn instant(zone: Tz, wall: NaiveDateTime) -> DateTime<Utc> {
    let guess = wall - Duration::seconds(offset(zone, wall));
    (wall - Duration::seconds(offset(zone, guess))).and_utc()
}

fn shifts(legacy: Tz, billing: Tz, wall: NaiveDateTime) -> Shifts {
    let utc = instant(legacy, wall).naive_utc();
    let to_utc = (utc - wall).num_seconds();
    Shifts { to_utc, to_billing: to_utc + offset(billing, utc) }
}

/// Offset of `zone` from UTC at `utc`, in seconds.
fn offset(zone: Tz, utc: NaiveDateTime) -> i64 {
    zone.offset_from_utc_datetime(&utc).fix().local_minus_utc().into()
}

/// All wall-clock times at which the shifts may change, in any order.
fn starts(legacy: Tz, billing: Tz, from: NaiveDateTime, until: NaiveDateTime) -> Vec<NaiveDateTime> {
    let mut starts = Vec::new();
    for zone in [legacy, billing] {
        for change in changes(zone, from - Duration::days(2), until) {
            // In wall-clock time of the legacy zone, with the offsets before and after the change.
            starts.push(change);
            for near in [change - Duration::days(1), change - Duration::seconds(1), change, change + Duration::days(1)]
            {
                starts.push(change + Duration::seconds(offset(legacy, near)));
            }
        }
    }
    starts
}

/// The instants at which the offset of `zone` changes.
fn changes(zone: Tz, from: NaiveDateTime, until: NaiveDateTime) -> Vec<NaiveDateTime> {
    let mut changes = Vec::new();
    let mut before = from;
    while before < until {
        // No zone changes its offset twice in 12 hours.
        let after = before + Duration::hours(12);
        if offset(zone, before) != offset(zone, after) {
            let (mut low, mut high) = (before, after);
            while high - low > Duration::seconds(1) {
                let middle = low + Duration::seconds((high - low).num_seconds() / 2);
                if offset(zone, middle) == offset(zone, before) { low = middle } else { high = middle }
            }
            changes.push(high);
        }
        before = after;
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONES: [&str; 9] = [
        "UTC",
        "Asia/Shanghai",
        "Europe/Berlin",
        "America/New_York",
        "America/Santiago",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "Pacific/Apia",
    ];

    fn zone(name: &str) -> Tz {
        name.parse().unwrap()
    }

    fn wall(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    #[test]
    fn every_wall_clock_time_is_in_the_span_of_its_shifts() {
        let now = "2026-11-21T00:00:00Z".parse().unwrap();
        for legacy in ZONES.map(zone) {
            for billing in ["UTC", "Asia/Shanghai", "America/Santiago", "Australia/Lord_Howe"].map(zone) {
                let times = Times::new(legacy, billing, now);
                assert!(times.spans.len() < 1200, "{legacy} {billing}: {}", times.spans.len());
                // The last year in steps of 15 minutes; before it in steps that reach every hour of the day.
                let (mut wall, end) = (wall("1970-01-03T00:00:00"), wall("2027-02-01T00:00:00"));
                while wall < end {
                    let at = times.spans.partition_point(|span| span.from > wall);
                    assert_eq!(times.spans[at].shifts, shifts(legacy, billing, wall), "{legacy} {billing} {wall}");
                    wall += Duration::minutes(if wall.date() > FIRST_DAY + Days::new(365 * 56) { 15 } else { 1997 });
                }
            }
        }
    }

    /// Source: `time.Date` of Go. It takes the offset at the time read as UTC; if the result lies
    /// across a change of the offset, it takes the offset on the other side.
    #[test]
    fn times_that_occur_twice_or_never_are_read_as_in_go() {
        for (name, local, utc) in [
            ("Europe/Berlin", "2026-10-25T01:59:59", "2026-10-24T23:59:59Z"),
            ("Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T01:30:00Z"),
            ("Europe/Berlin", "2026-10-25T03:00:00", "2026-10-25T02:00:00Z"),
            ("Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T01:30:00Z"),
            ("America/New_York", "2026-11-01T01:30:00", "2026-11-01T05:30:00Z"),
            ("America/New_York", "2026-11-01T02:00:00", "2026-11-01T07:00:00Z"),
            ("America/New_York", "2026-03-08T02:30:00", "2026-03-08T06:30:00Z"),
            ("Asia/Shanghai", "2026-11-01T00:00:00", "2026-10-31T16:00:00Z"),
        ] {
            let expected: DateTime<Utc> = utc.parse().unwrap();
            assert_eq!(instant(zone(name), wall(local)), expected, "{name} {local}");
        }
    }

    #[test]
    fn a_record_without_a_time_stays_on_the_first_day() {
        let times = Times::new(zone("Asia/Shanghai"), zone("Asia/Shanghai"), "2026-11-21T00:00:00Z".parse().unwrap());
        assert_eq!(times.instant(wall("1970-01-02T00:00:00")), wall("1970-01-02T00:00:00").and_utc());
        assert!(times.utc_sql("t").ends_with("ELSE t + INTERVAL 0 SECOND END"));
        assert!(times.billing_sql("t").ends_with("ELSE t + INTERVAL 28800 SECOND END"));
        assert!(!times.are_utc());
        assert!(Times::new(Tz::UTC, zone("Asia/Shanghai"), Utc::now()).are_utc());
    }
}
