//! Days and months in the billing time zone, and the clock.

use std::{fmt, str::FromStr, sync::Arc, time::Instant};

use chrono::{DateTime, Datelike, Days, Duration, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use crate::biz::values::invalid::Invalid;

/// The source of the current time. Tests replace it.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> DateTime<Utc>;

    /// A monotonic time, for spans within this process.
    fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Whether the clock must agree with the clock of the database. A clock that a test controls
    /// need not.
    fn is_of_machine(&self) -> bool {
        false
    }
}

impl Clock for Arc<dyn Clock> {
    fn now(&self) -> DateTime<Utc> {
        (**self).now()
    }

    fn instant(&self) -> Instant {
        (**self).instant()
    }

    fn is_of_machine(&self) -> bool {
        (**self).is_of_machine()
    }
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn is_of_machine(&self) -> bool {
        true
    }
}

/// A calendar month, written `2026-11`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: i32,
    month: u32,
}

impl Month {
    pub fn of(day: NaiveDate) -> Self {
        Self { year: day.year(), month: day.month() }
    }

    /// Its first day.
    pub fn first_day(self) -> NaiveDate {
        NaiveDate::from_ymd_opt(self.year, self.month, 1).unwrap_or_default()
    }

    /// All its days.
    pub fn days(self) -> DaySpan {
        let last = self.next().first_day().pred_opt();
        DaySpan { first: self.first_day(), last: last.unwrap_or(self.first_day()) }
    }

    /// The month before it.
    pub fn previous(self) -> Self {
        match self.month {
            1 => Self { year: self.year - 1, month: 12 },
            month => Self { month: month - 1, ..self },
        }
    }

    /// The month after it.
    pub fn next(self) -> Self {
        match self.month {
            12 => Self { year: self.year + 1, month: 1 },
            month => Self { month: month + 1, ..self },
        }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
        text.split_once('-')
            .filter(|(year, month)| digits(year, 4) && digits(month, 2))
            .and_then(|(year, month)| NaiveDate::from_ymd_opt(year.parse().ok()?, month.parse().ok()?, 1))
            .map(Self::of)
            .ok_or_else(|| Invalid::new("month", "must be a month such as 2026-11"))
    }
}

impl fmt::Debug for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An instant with the billing day and month it falls into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BillingTime {
    /// Whole microseconds, as the databases keep it.
    pub utc: DateTime<Utc>,
    pub day: NaiveDate,
    pub month: Month,
}

/// The first and the last day of a span, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DaySpan {
    pub first: NaiveDate,
    pub last: NaiveDate,
}

impl DaySpan {
    /// The number of days, at least 1.
    pub fn days(self) -> i64 {
        (self.last - self.first).num_days() + 1
    }
}

/// In some zones clocks go back across midnight. They go back by less than three hours, so only local
/// times from this hour on are affected.
const LATE_HOUR: u32 = 21;
/// Most quarter hours that a zone skips: somewhat more than a day.
const MAX_SKIPPED_QUARTERS: i64 = 26 * 4;

/// Converts instants to billing days. The zone comes from the configuration, never from the machine.
pub struct Calendar {
    periods: Periods,
    clock: Box<dyn Clock>,
}

impl Calendar {
    pub fn new(zone: Tz, clock: impl Clock) -> Self {
        Self { periods: Periods { zone, close_after: DEFAULT_CLOSE_AFTER }, clock: Box::new(clock) }
    }

    /// The same calendar, in which a month closes so long after its end.
    pub fn closing_after(mut self, close_after: TimeDelta) -> Self {
        self.periods.close_after = close_after;
        self
    }

    /// The IANA name of the billing zone.
    pub fn zone_name(&self) -> &'static str {
        self.periods.zone.name()
    }

    /// The days and months, without the clock.
    pub fn periods(&self) -> Periods {
        self.periods
    }

    pub fn now(&self) -> BillingTime {
        self.at(self.clock.now())
    }

    /// A monotonic time, for spans within this process.
    pub fn instant(&self) -> Instant {
        self.clock.instant()
    }

    pub fn at(&self, instant: DateTime<Utc>) -> BillingTime {
        self.periods.at(instant)
    }

    /// The clock time of an instant in the billing zone.
    pub fn local(&self, instant: DateTime<Utc>) -> NaiveDateTime {
        instant.with_timezone(&self.periods.zone).naive_local()
    }

    /// The instant at which `day` begins.
    pub fn start_of(&self, day: NaiveDate) -> DateTime<Utc> {
        self.periods.start_of(day)
    }

    /// The first instant of a span of days, and the first instant after it.
    pub fn bounds(&self, span: DaySpan) -> (DateTime<Utc>, DateTime<Utc>) {
        let after = span.last.checked_add_days(Days::new(1)).unwrap_or(span.last);
        (self.start_of(span.first), self.start_of(after))
    }

    /// The current month up to today.
    pub fn this_month(&self) -> DaySpan {
        let today = self.now().day;
        DaySpan { first: today.with_day(1).unwrap_or(today), last: today }
    }
}

/// The time after the end of a month at which it closes, unless the configuration names another.
pub const DEFAULT_CLOSE_AFTER: TimeDelta = TimeDelta::hours(72);

/// The days and months of the billing zone, and the time at which a month closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    zone: Tz,
    close_after: TimeDelta,
}

impl Periods {
    /// Whether a month is closed at an instant: nothing counts to it any more.
    pub fn is_closed(&self, month: Month, now: BillingTime) -> bool {
        // Nearly every call is about the running month. The zone is not asked about it.
        month < now.month && self.start_of(month.next().first_day()) + self.close_after <= now.utc
    }

    pub fn at(&self, instant: DateTime<Utc>) -> BillingTime {
        let micros = instant.nanosecond() / 1_000 * 1_000;
        let local = instant.with_timezone(&self.zone);
        let mut day = local.date_naive();
        // If clocks go back across midnight, the day that has begun continues, so that no month
        // begins twice.
        if local.hour() >= LATE_HOUR
            && let Some(next) = day.succ_opt()
            && self.start_of(next) <= instant
        {
            day = next;
        }
        BillingTime { utc: instant.with_nanosecond(micros).unwrap_or(instant), day, month: Month::of(day) }
    }

    /// The instant at which `day` begins.
    pub fn start_of(&self, day: NaiveDate) -> DateTime<Utc> {
        let midnight = NaiveDateTime::from(day);
        // If a daylight-saving change skips midnight, the day begins at its first existing quarter
        // hour. If a zone skips a whole day at the date line, that day begins and ends where the
        // next day begins.
        (0..=MAX_SKIPPED_QUARTERS)
            .find_map(|quarter| self.zone.from_local_datetime(&(midnight + Duration::minutes(15 * quarter))).earliest())
            .map_or_else(|| midnight.and_utc(), |start| start.to_utc())
    }
}

/// Parses a month, `2026-11`. The error names `field`.
pub fn parse_month(field: &str, text: &str) -> Result<Month, Invalid> {
    let month = text.parse::<Month>().ok().filter(|month| month.year >= 1970);
    month.ok_or_else(|| Invalid::new(field, "must be a month such as 2026-11"))
}

/// Parses a day, `2026-11-21`. The error names `field`.
pub fn parse_day(field: &str, text: &str) -> Result<NaiveDate, Invalid> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .filter(|day| day.to_string() == text && (1970..=9999).contains(&day.year()))
        .ok_or_else(|| Invalid::new(field, "must be a day such as 2026-11-21"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> DateTime<Utc> {
            "2026-10-31T16:00:00Z".parse().unwrap()
        }
    }

    fn calendar(zone: &str) -> Calendar {
        Calendar::new(zone.parse().unwrap(), Fixed)
    }

    #[test]
    fn the_month_turns_at_midnight_of_the_billing_zone() {
        let shanghai = calendar("Asia/Shanghai");
        let before = shanghai.at("2026-10-31T15:59:59.999999Z".parse().unwrap());
        assert_eq!((before.month.to_string().as_str(), before.day.day()), ("2026-10", 31));
        let after = shanghai.now();
        assert_eq!((after.month.to_string().as_str(), after.day.day()), ("2026-11", 1));
        assert_eq!(shanghai.start_of(after.day), after.utc);
    }

    #[test]
    fn a_day_without_midnight_begins_when_it_exists() {
        // Chile moves from 00:00 to 01:00.
        let santiago = calendar("America/Santiago");
        let day = parse_day("from", "2026-09-06").unwrap();
        let start = santiago.start_of(day);
        assert_eq!(start.to_rfc3339(), "2026-09-06T04:00:00+00:00");
        assert_eq!(santiago.at(start).day, day);
        assert_eq!(santiago.at(start - Duration::microseconds(1)).day, day.pred_opt().unwrap());
    }

    #[test]
    fn a_month_that_has_begun_does_not_end_again() {
        // At 00:01 clocks went back to 23:01 of October.
        let newfoundland = calendar("America/St_Johns");
        let at = |at: &str| newfoundland.at(at.parse().unwrap()).month.to_string();
        assert_eq!(at("2009-11-01T02:29:59.999999Z"), "2009-10");
        for after in ["2009-11-01T02:30:00Z", "2009-11-01T02:31:00Z", "2009-11-01T03:29:59Z", "2009-11-01T03:30:00Z"] {
            assert_eq!(at(after), "2009-11", "{after}");
        }
    }

    #[test]
    fn in_every_zone_months_begin_once_and_where_filters_have_it() {
        for zone in chrono_tz::TZ_VARIANTS {
            let calendar = Calendar::new(zone, Fixed);
            for (year, month) in (2006..2040).flat_map(|year| (1..=12).map(move |month| (year, month))) {
                let first = NaiveDate::from_ymd_opt(year, month, 1).unwrap();
                let start = calendar.start_of(first);
                let tick = Duration::microseconds(1);
                assert_eq!(calendar.at(start).day, first, "{zone}");
                assert_eq!(calendar.at(start - tick).month.next(), Month::of(first), "{zone} {first}");
                for minutes in (0..180).step_by(60) {
                    assert_eq!(calendar.at(start + Duration::minutes(minutes)).day, first, "{zone} {first}");
                    let before = start - tick - Duration::minutes(minutes);
                    assert_eq!(calendar.at(before).month.next(), Month::of(first), "{zone} {before}");
                }
            }
        }
    }

    #[test]
    fn a_day_that_a_zone_skips_has_no_time() {
        let apia = calendar("Pacific/Apia");
        let skipped = parse_day("from", "2011-12-30").unwrap();
        let (from, to) = apia.bounds(DaySpan { first: skipped, last: skipped });
        assert_eq!((from.to_rfc3339().as_str(), from), ("2011-12-30T10:00:00+00:00", to));
    }

    #[test]
    fn a_day_is_written_in_full() {
        assert!(parse_day("from", "2024-02-29").is_ok());
        for bad in ["", "2026-2-1", "2026-02-29", "2026-11-21T00:00:00Z", "26-11-21", "+2026-1-01"] {
            assert_eq!(parse_day("from", bad).unwrap_err().field, "from", "{bad:?}");
        }
    }
}
