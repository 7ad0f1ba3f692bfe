//! Days and months turn at midnight of the configured zone. The microsecond before midnight belongs
//! to the old period, and midnight to the new one.

mod straddling;

use billing_service::service::proto::{
    GetStatsMonthRequest, GetStatsTodayRequest, GetUsageRequest, ListRecordsRequest, SetUserLimitsRequest,
};
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use rstest::rstest;
use tonic::Code;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of};

/// The instant at which a day begins, the day that ends, and the day that begins.
type Midnight = (&'static str, &'static str, &'static str);

#[rstest]
#[case::shanghai("Asia/Shanghai", &[
    ("2026-10-31T16:00:00Z", "2026-10-31", "2026-11-01"),
    ("2026-12-31T16:00:00Z", "2026-12-31", "2027-01-01"),
    // A leap year, and a year that is not one.
    ("2028-02-28T16:00:00Z", "2028-02-28", "2028-02-29"),
    ("2028-02-29T16:00:00Z", "2028-02-29", "2028-03-01"),
    ("2100-02-28T16:00:00Z", "2100-02-28", "2100-03-01"),
])]
#[case::utc("UTC", &[("2027-01-01T00:00:00Z", "2026-12-31", "2027-01-01")])]
// A day of 25 hours is the first of the month.
#[case::new_york("America/New_York", &[
    ("2026-11-01T04:00:00Z", "2026-10-31", "2026-11-01"),
    ("2026-11-02T05:00:00Z", "2026-11-01", "2026-11-02"),
    ("2026-12-01T05:00:00Z", "2026-11-30", "2026-12-01"),
    // A day of 23 hours.
    ("2027-03-14T05:00:00Z", "2027-03-13", "2027-03-14"),
    ("2027-03-15T04:00:00Z", "2027-03-14", "2027-03-15"),
])]
#[case::berlin("Europe/Berlin", &[
    ("2026-10-24T22:00:00Z", "2026-10-24", "2026-10-25"),
    ("2026-10-25T23:00:00Z", "2026-10-25", "2026-10-26"),
    ("2026-10-31T23:00:00Z", "2026-10-31", "2026-11-01"),
    ("2027-03-27T23:00:00Z", "2027-03-27", "2027-03-28"),
    ("2027-03-28T22:00:00Z", "2027-03-28", "2027-03-29"),
    ("2027-03-31T22:00:00Z", "2027-03-31", "2027-04-01"),
])]
// The first midnight of the month is skipped, so the month begins at one o'clock.
#[case::asuncion("America/Asuncion", &[("2017-10-01T04:00:00Z", "2017-09-30", "2017-10-01")])]
// The first midnight of the month occurs twice. The month begins at the first one.
#[case::havana("America/Havana", &[
    ("2026-11-01T04:00:00Z", "2026-10-31", "2026-11-01"),
    ("2026-11-02T05:00:00Z", "2026-11-01", "2026-11-02"),
])]
// The last hour of the month occurs twice.
#[case::cairo("Africa/Cairo", &[("2024-10-31T22:00:00Z", "2024-10-31", "2024-11-01")])]
// A minute after midnight, the clock goes back to before midnight.
#[case::newfoundland("America/St_Johns", &[("2009-11-01T02:30:00Z", "2009-10-31", "2009-11-01")])]
// The zone moved over the date line, and had no 30th.
#[case::apia("Pacific/Apia", &[("2011-12-30T10:00:00Z", "2011-12-29", "2011-12-31")])]
#[case::kathmandu("Asia/Kathmandu", &[("2026-10-31T18:15:00Z", "2026-10-31", "2026-11-01")])]
#[case::kiritimati("Pacific/Kiritimati", &[("2026-10-31T10:00:00Z", "2026-10-31", "2026-11-01")])]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_and_months_turn_at_midnight_of_the_zone(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] zone: &str,
    #[case] midnights: &[Midnight],
) {
    let service = Service::start_with(on, &[("billing.timezone", zone)]).await;
    for (number, midnight) in midnights.iter().enumerate() {
        let midnight = Turn::new(number, midnight);
        midnight.assert_before(&service).await;
        midnight.assert_after(&service).await;
        // Also in the hour that may occur twice.
        service.clock.stop_at(midnight.at + TimeDelta::minutes(59));
        let month = midnight.new.format("%Y-%m").to_string();
        assert!(service.account(&midnight.user).await.quotas.iter().all(|quota| quota.reset_month == month));
        assert_eq!(midnight.today(&service).await, 7);
    }
    service.assert_audit_is_clean().await;
}

/// A midnight, and the users whose calls are around it.
struct Turn {
    at: DateTime<Utc>,
    old: NaiveDate,
    new: NaiveDate,
    user: String,
    capped: String,
}

const TICK: TimeDelta = TimeDelta::microseconds(1);

impl Turn {
    fn new(number: usize, (at, old, new): &Midnight) -> Self {
        let [old, new] = [old, new].map(|day| day.parse().unwrap());
        Self { at: at.parse().unwrap(), old, new, user: format!("u{number}"), capped: format!("capped{number}") }
    }

    fn is_of_month(&self) -> bool {
        self.old.month() != self.new.month()
    }

    async fn assert_before(&self, service: &Service) {
        service.clock.stop_at(self.at - TICK);
        service.adjust(&self.user, 10.0).await;
        let reply = service.deduct(charge(&self.user, "asset", 1_010)).await;
        assert_eq!((reply.free_count, reply.paid_count), (1_000, 10), "{}", self.at);
        let month = self.old.format("%Y-%m").to_string();
        assert!(service.account(&self.user).await.quotas.iter().all(|quota| quota.reset_month == month), "{month}");
        assert_eq!(service.check(&self.user, "asset", 1).await.free_remaining, 0);
        assert_eq!((self.today(service).await, self.this_month(service).await), (1_010, 1_010));

        let (user_id, daily_limit, monthly_limit) = (self.capped.clone(), Some(2), Some(3));
        let limits = SetUserLimitsRequest { user_id, daily_limit, monthly_limit };
        service.internal.clone().set_user_limits(limits).await.unwrap();
        assert_eq!(self.calls_until_capped(service).await, 2);
    }

    async fn assert_after(&self, service: &Service) {
        service.clock.stop_at(self.at);
        let (free, before) = if self.is_of_month() { (1_000, 0) } else { (0, 1_010) };
        let check = service.check(&self.user, "asset", 7).await;
        assert_eq!(check.free_remaining, free, "{}", self.at);
        let month = self.new.format("%Y-%m").to_string();
        assert!(service.account(&self.user).await.quotas.iter().all(|quota| quota.reset_month == month), "{month}");
        assert_eq!((self.today(service).await, self.this_month(service).await), (0, before));
        let reply = service.deduct(charge(&self.user, "asset", 7)).await;
        assert_eq!((reply.free_count, reply.paid_count), if free > 0 { (7, 0) } else { (0, 7) });
        assert_eq!((self.today(service).await, self.this_month(service).await), (7, before + 7));
        // The daily cap starts again. The monthly cap starts again only in a new month.
        assert_eq!(self.calls_until_capped(service).await, if self.is_of_month() { 2 } else { 1 });

        for (day, at, units) in [(self.old, self.at - TICK, 1_010), (self.new, self.at, 7)] {
            let (user_id, day) = (self.user.clone(), day.to_string());
            let usage = GetUsageRequest { user_id, from: day.clone(), to: day.clone(), ..Default::default() };
            let usage = service.public.clone().get_usage(usage).await.unwrap().into_inner();
            let asset = usage.series.iter().find(|series| series.service_name == "asset").unwrap();
            assert_eq!((asset.days.len(), asset.days[0].date.as_str(), asset.days[0].total_count), (1, &*day, units));

            let of_day =
                ListRecordsRequest { user_id: self.user.clone(), from: day.clone(), to: day, ..Default::default() };
            let records = service.records(of_day).await;
            assert_eq!(records.records.iter().map(|record| record.count).sum::<i32>(), units, "{records:?}");
            for record in &records.records {
                let created = record.created_at.as_ref().unwrap();
                assert_eq!(created.seconds * 1_000_000 + i64::from(created.nanos) / 1_000, at.timestamp_micros());
            }
        }
    }

    async fn today(&self, service: &Service) -> i32 {
        let request = GetStatsTodayRequest { user_id: self.user.clone(), service_name: "asset".into() };
        service.public.clone().get_stats_today(request).await.unwrap().into_inner().total_count
    }

    async fn this_month(&self, service: &Service) -> i32 {
        let request = GetStatsMonthRequest { user_id: self.user.clone(), service_name: "asset".into() };
        service.public.clone().get_stats_month(request).await.unwrap().into_inner().total_count
    }

    /// The number of calls that the caps allow now, up to a limit.
    async fn calls_until_capped(&self, service: &Service) -> usize {
        for made in 0..5 {
            if let Err(refused) = service.try_deduct(charge(&self.capped, "payment", 1)).await {
                assert_eq!(code_of(&refused), (Code::ResourceExhausted, "10002".into()));
                return made;
            }
        }
        panic!("no cap refused a call");
    }
}
