//! Totals and series have the days of the billing zone, and agree with the records.

use billing_service::service::proto::{
    GetStatsMonthRequest, GetStatsReply, GetStatsSummaryRequest, GetStatsTodayRequest, GetUsageRequest,
    ListRecordsRequest,
};
use rstest::rstest;

use crate::harness::{Backend, MySql, Service, Sqlite, charge};

async fn today(service: &Service, name: &str) -> GetStatsReply {
    let request = GetStatsTodayRequest { user_id: "u".into(), service_name: name.into() };
    service.public.clone().get_stats_today(request).await.unwrap().into_inner()
}

async fn month(service: &Service, name: &str) -> GetStatsReply {
    let request = GetStatsMonthRequest { user_id: "u".into(), service_name: name.into() };
    service.public.clone().get_stats_month(request).await.unwrap().into_inner()
}

fn figures(stats: &GetStatsReply) -> (i32, f64, i32, i32) {
    (stats.total_count, stats.total_cost, stats.free_count, stats.paid_count)
}

/// Charges on the last of October, and on the 1st and the 20th of November, Shanghai time.
async fn three_days(on: Backend) -> Service {
    let service = Service::start(on).await;
    service.adjust("u", 1000.0).await;
    service.clock.set("2026-10-31T15:59:00Z");
    service.deduct(charge("u", "asset", 1)).await;
    service.clock.set("2026-10-31T16:01:00Z");
    service.deduct(charge("u", "asset", 990)).await;
    service.deduct(charge("u", "passport", 4)).await;
    service.clock.set("2026-11-20T01:00:00Z");
    service.deduct(charge("u", "asset", 30)).await;
    service
}

#[rstest]
#[tokio::test]
async fn today_and_this_month_are_those_of_the_billing_zone(#[values(MySql, Sqlite)] on: Backend) {
    let service = three_days(on).await;
    assert_eq!(figures(&today(&service, "").await), (30, 1.0, 10, 20));
    assert_eq!(figures(&today(&service, "passport").await), (0, 0.0, 0, 0));
    assert_eq!(figures(&month(&service, "").await), (1024, 1.0, 1004, 20));
    assert_eq!(figures(&month(&service, "asset").await), (1020, 1.0, 1000, 20));
    let reply = month(&service, "asset").await;
    assert_eq!((reply.user_id.as_str(), reply.service_name.as_str(), reply.period.as_str()), ("u", "asset", "month"));
    assert_eq!(today(&service, "").await.period, "today");

    service.clock.set("2026-11-20T16:00:00Z");
    assert_eq!(figures(&today(&service, "").await), (0, 0.0, 0, 0));
    service.clock.set("2026-11-30T16:00:00Z");
    assert_eq!(figures(&month(&service, "").await), (0, 0.0, 0, 0));
}

#[rstest]
#[tokio::test]
async fn the_summary_is_the_sum_of_its_services_and_of_the_records(#[values(MySql, Sqlite)] on: Backend) {
    let service = three_days(on).await;
    let request = GetStatsSummaryRequest { user_id: "u".into() };
    let summary = service.public.clone().get_stats_summary(request).await.unwrap().into_inner();
    assert_eq!((summary.total_count, summary.total_cost), (1025, 1.0));
    let parts: Vec<_> = summary
        .services
        .iter()
        .map(|part| (part.service_name.as_str(), part.total_count, part.total_cost, part.free_count, part.paid_count))
        .collect();
    assert_eq!(parts, [("asset", 1021, 1.0, 1001, 20), ("passport", 4, 0.0, 4, 0)]);

    let listed = service.records(ListRecordsRequest { user_id: "u".into(), ..Default::default() }).await;
    assert_eq!(listed.records.iter().map(|record| record.count).sum::<i32>(), 1025);
    assert_eq!(listed.total as usize, listed.records.len());
}

#[rstest]
#[tokio::test]
async fn usage_is_a_dense_daily_series_per_service(#[values(MySql, Sqlite)] on: Backend) {
    let service = three_days(on).await;
    let usage = |from: &str, to: &str, name: &str| {
        let request = GetUsageRequest {
            user_id: "u".into(),
            from: from.into(),
            to: to.into(),
            service_name: name.into(),
            ..Default::default()
        };
        let mut client = service.public.clone();
        async move { client.get_usage(request).await.unwrap().into_inner() }
    };
    let reply = usage("2026-10-31", "2026-11-02", "").await;
    let asset: Vec<_> =
        reply.series[0].days.iter().map(|day| (day.date.as_str(), day.total_count, day.free_count)).collect();
    assert_eq!(asset, [("2026-10-31", 1, 1), ("2026-11-01", 990, 990), ("2026-11-02", 0, 0)]);
    let names: Vec<_> = reply.series.iter().map(|series| series.service_name.as_str()).collect();
    assert_eq!(names, ["asset", "passport", "payment"]);

    let default = usage("", "", "asset").await;
    assert_eq!((default.from.as_str(), default.to.as_str()), ("2026-10-22", "2026-11-20"));
    assert_eq!((default.series.len(), default.series[0].days.len()), (1, 30));
    let last = &default.series[0].days[29];
    assert_eq!((last.total_count, last.total_cost, last.free_count, last.paid_count), (30, 1.0, 10, 20));
}
