//! A day or a month turns during a stream, or between reserve and commit. Everything counts for the period
//! of the reserve.

use billing_service::service::proto::{
    GetUsageRequest, ListRecordsRequest, ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest, StreamFinish,
};
use rstest::rstest;

use super::{Gateway, MODELS, stream};
use crate::harness::{Backend, MySql, Service, Sqlite, charge};

/// The last microsecond before a midnight in Shanghai, and midnight itself.
const OF_A_DAY: (&str, &str) = ("2027-03-09T15:59:59.999999Z", "2027-03-09T16:00:00Z");
const OF_A_MONTH: (&str, &str) = ("2027-03-31T15:59:59.999999Z", "2027-03-31T16:00:00Z");

impl Service {
    fn stop_clock(&self, at: &str) {
        self.clock.stop_at(at.parse().unwrap());
    }

    /// Units of `chat` on a day.
    async fn units_of(&self, day: &str) -> i32 {
        let (from, to) = (day.to_owned(), day.to_owned());
        let request =
            GetUsageRequest { user_id: "u".into(), from, to, service_name: "chat".into(), ..Default::default() };
        let usage = self.public.clone().get_usage(request).await.unwrap().into_inner();
        usage.series[0].days[0].total_count
    }

    /// Free units of `chat` used and held in the current month.
    async fn quota(&self) -> (i32, i32) {
        let account = self.account("u").await;
        let quota = account.quotas.into_iter().find(|quota| quota.service_name == "chat").unwrap();
        (quota.used_quota, quota.held_quota)
    }

    async fn key_use(&self) -> f64 {
        let quotas = self.internal_get("/internal/v1/billing/api-keys/k/quota").await.1;
        quotas["quotas"][0]["used"].as_f64().unwrap()
    }
}

#[rstest]
#[case::day(OF_A_DAY, "2027-03-09", "2027-03-10", "2027-03", "2027-03")]
#[case::month(OF_A_MONTH, "2027-03-31", "2027-04-01", "2027-03", "2027-04")]
#[tokio::test]
async fn a_stream_over_midnight_belongs_to_the_period_of_its_reserve(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] (before, after): (&str, &str),
    #[case] old_day: &str,
    #[case] new_day: &str,
    #[case] old_month: &str,
    #[case] new_month: &str,
    #[values(true, false)] finishes: bool,
) {
    let service = Service::start_with(on, MODELS).await;
    service.stop_clock(before);
    service.adjust("u", 100.0).await;
    let quota = SetApiKeyQuotaRequest {
        api_key_id: "k".into(),
        quota_type: "tokens".into(),
        period: "day".into(),
        limit: Some(1_000.0),
    };
    service.internal.clone().set_api_key_quota(quota).await.unwrap();
    let limits = SetUserLimitsRequest { user_id: "u".into(), daily_limit: Some(9), monthly_limit: Some(99) };
    service.internal.clone().set_user_limits(limits).await.unwrap();
    let open = ReserveQuotaRequest { api_key_id: "k".into(), ..stream("s", "chat", "dear", (0, 40)) };
    let (mut gateway, _) = Gateway::open(&service, open).await;
    gateway.deliver_durably(0, 30).await;
    let is_same_month = old_month == new_month;

    service.stop_clock(after);
    // A new month has a new free quota. The hold of the stream and its growth stay in the old month.
    gateway.deliver_durably(30, 90).await;
    assert_eq!(service.quota().await, (0, if is_same_month { 100 } else { 0 }));
    let charged = if finishes {
        let finished = gateway.finish(StreamFinish::default()).await.unwrap();
        (finished.free_count, finished.paid_count, finished.amount)
    } else {
        drop(gateway);
        let made = service.ended("s", "COMMITTED").await;
        (made.free_count, made.paid_count, made.amount)
    };
    assert_eq!(charged, (100, 20, 20.0));

    assert_eq!((service.units_of(old_day).await, service.units_of(new_day).await), (120, 0));
    assert_eq!(service.quota().await, (if is_same_month { 100 } else { 0 }, 0));
    assert_eq!(service.key_use().await, 0.0, "nothing is used on the new day");
    let account = service.account("u").await;
    let limits = account.limits.unwrap();
    assert_eq!((limits.daily_used, limits.monthly_used), (0, i32::from(is_same_month)));
    let of_old =
        ListRecordsRequest { user_id: "u".into(), from: old_day.into(), to: old_day.into(), ..Default::default() };
    assert_eq!(service.records(of_old).await.total, 2, "one free, one paid, of the old day");

    // The clock goes back to the old period, which has all of the stream.
    service.stop_clock(before);
    assert_eq!(service.quota().await, (100, 0));
    service.assert_nothing_is_held("u").await;

    // The new period continues with its own use.
    service.stop_clock(after);
    let reply = service.deduct(charge("u", "passport", 1)).await;
    assert_eq!(reply.free_count, 1);
    service.assert_nothing_is_held("u").await;
}

/// The daily quota of the reserve's day limits the stream.
#[rstest]
#[tokio::test]
async fn a_stream_grows_within_the_quota_of_the_day_of_its_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.stop_clock(OF_A_DAY.0);
    service.adjust("u", 100.0).await;
    service.post("/internal/v1/billing/api-keys/k/quota", r#"{"quota_type":"amount","period":"day","limit":7}"#).await;
    let open = ReserveQuotaRequest { api_key_id: "k".into(), ..stream("s", "rag", "dear", (0, 4)) };
    let (mut gateway, _) = Gateway::open(&service, open).await;
    gateway.deliver_durably(0, 3).await;
    service.stop_clock(OF_A_DAY.1);
    gateway.deliver_durably(3, 5).await;
    let state = gateway.state(|state| state.stop).await;
    assert_eq!((state.held, service.key_use().await), (7.0, 0.0));
    gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!(service.key_use().await, 0.0, "nothing is used on the new day");
    service.stop_clock(OF_A_DAY.0);
    assert_eq!(service.key_use().await, 8.0);
    service.assert_nothing_is_held("u").await;
}

/// The stream is reopened after midnight with the reservation from before.
#[rstest]
#[tokio::test]
async fn a_reopened_stream_keeps_its_period(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.stop_clock(OF_A_MONTH.0);
    let open = stream("s", "chat", "dear", (0, 40));
    let (mut gateway, _) = Gateway::open(&service, open.clone()).await;
    gateway.deliver_durably(0, 30).await;
    service.stop_clock(OF_A_MONTH.1);
    let (mut again, opened) = Gateway::open(&service, open).await;
    assert!(opened.replayed);
    again.deliver(0, 35).await;
    let finished = again.finish(StreamFinish::default()).await.unwrap();
    assert_eq!((finished.free_count, finished.amount), (35, 0.0));
    assert_eq!(service.quota().await, (0, 0));
    assert_eq!((service.units_of("2027-03-31").await, service.units_of("2027-04-01").await), (35, 0));
    service.assert_nothing_is_held("u").await;
}
