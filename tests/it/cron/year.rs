//! Charges do not depend on cron: without it, the first call opens a month.

use billing_service::service::proto::{
    CommitReservationRequest, ReleaseReservationRequest, ReserveQuotaRequest, SetUserLimitsRequest,
};
use rstest::rstest;
use tonic::Code;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of};

#[rstest]
#[tokio::test]
async fn every_month_is_charged_right_without_cron_for_a_year(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "168h")]).await;
    let months = (0..13).map(|number| (2026 + (10 + number) / 12, 1 + (10 + number) % 12));
    let mut crossing: Option<String> = None;
    service.clock.set("2026-11-15T04:00:00Z");
    service.adjust("u", 1_000.0).await;
    let mut balance = 1_000.0;
    for (number, (year, month)) in months.enumerate() {
        let month_name = format!("{year}-{month:02}");
        service.clock.set(&format!("{month_name}-03T04:00:00Z"));
        // Each month begins with another kind of call.
        match number % 3 {
            0 => assert_eq!(service.check("u", "asset", 1).await.free_remaining, 1_000),
            1 => assert!(service.account("u").await.quotas.iter().all(|quota| quota.reset_month == month_name)),
            _ => {}
        }
        // A hold of last month is charged to that month.
        if let Some(trace_id) = crossing.take() {
            let (user_id, ended) = ("u".to_owned(), trace_id.clone());
            if number % 2 == 0 {
                let commit = CommitReservationRequest { user_id, trace_id, ..Default::default() };
                let reply = service.internal.clone().commit_reservation(commit).await.unwrap().into_inner();
                assert_eq!((reply.free_count, reply.amount), (10, 0.0), "{ended}");
            } else {
                let release = ReleaseReservationRequest { user_id, trace_id };
                service.internal.clone().release_reservation(release).await.unwrap();
            }
        }
        let reply = service.deduct(charge("u", "asset", 1_010)).await;
        assert_eq!((reply.free_count, reply.paid_count, reply.amount), (1_000, 10, 0.5), "{month_name}");
        balance -= 0.5;
        assert_eq!(service.state("u").await, (balance, [0, 0, 1_000]), "{month_name}");
        // Every month has new users, and some old users make no call.
        service.deduct(charge(&format!("new-{month_name}"), "payment", 7)).await;
        let guest = format!("guest-{}", number % 4);
        assert_eq!(service.deduct(charge(&guest, "passport", 3)).await.free_remaining, 9_997);

        // Caps start again, too.
        let user_id = "capped".to_owned();
        let limits = SetUserLimitsRequest { user_id, daily_limit: Some(3), monthly_limit: Some(5) };
        service.internal.clone().set_user_limits(limits).await.unwrap();
        for (day, allowed) in [("03", 3), ("04", 2), ("05", 0)] {
            service.clock.set(&format!("{month_name}-{day}T05:00:00Z"));
            for call in 0..=allowed {
                let made = service.try_deduct(charge("capped", "asset", 1)).await;
                match made {
                    Ok(_) => assert!(call < allowed, "{month_name}-{day}: {call}"),
                    Err(refused) => {
                        assert_eq!(call, allowed, "{month_name}-{day}");
                        assert_eq!(code_of(&refused), (Code::ResourceExhausted, "10002".into()));
                    }
                }
            }
        }
        // A hold that crosses the end of the month.
        service.clock.set(&format!("{month_name}-28T04:00:00Z"));
        let (user_id, trace_id) = ("u".to_owned(), format!("over-{month_name}"));
        let service_name = "passport".to_owned();
        let hold =
            ReserveQuotaRequest { user_id, trace_id: trace_id.clone(), service_name, count: 10, ..Default::default() };
        service.internal.clone().reserve_quota(hold).await.unwrap();
        crossing = Some(trace_id);
    }
    let used = async |service_name: &str| {
        let from =
            format!("FROM free_quota WHERE user_id = 'u' AND service_name = '{service_name}' ORDER BY reset_month");
        let rows = service.database.rows(&["reset_month", "used_quota"], &from).await;
        rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect::<Vec<_>>()
    };
    let asset = used("asset").await;
    assert_eq!(asset.len(), 13);
    assert!(asset.iter().all(|(_, used)| used == "1000"), "{asset:?}");
    // Every second hold was committed, that of the first month was released.
    for (number, (month, used)) in used("passport").await.into_iter().enumerate() {
        assert_eq!(used, if number % 2 == 1 && number < 12 { "10" } else { "0" }, "{month}");
    }
    let none: Vec<Vec<String>> = Vec::new();
    assert_eq!(service.database.rows(&["job"], "FROM job_run").await, none, "cron did not run");
    service.assert_audit_is_clean().await;
}
