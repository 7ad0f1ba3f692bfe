//! The list of records: pages, filters, totals.

use billing_service::service::proto::{BatchDeductQuotaRequest, BillingRecord, ListRecordsRequest};
use rstest::rstest;

use crate::harness::{Backend, MySql, Service, Sqlite, charge};

/// Records of three days: 40 charges. The last one is mixed, so it has two records.
async fn forty_charges(on: Backend) -> Service {
    let service = Service::start(on).await;
    service.adjust("u", 1000.0).await;
    for day in 18..=20 {
        service.clock.set(&format!("2026-11-{day}T04:00:00Z"));
        for i in 0..13 {
            let name = ["passport", "payment", "asset"][i % 3];
            service.deduct(charge("u", name, 1)).await;
        }
    }
    service.deduct(charge("u", "asset", 1500)).await;
    service.deduct(charge("other", "asset", 1)).await;
    service
}

fn all() -> ListRecordsRequest {
    ListRecordsRequest { user_id: "u".into(), page_size: 100, ..Default::default() }
}

fn ids(records: &[BillingRecord]) -> Vec<String> {
    records.iter().map(|record| record.id.clone()).collect()
}

#[rstest]
#[tokio::test]
async fn pages_by_number_and_by_token_agree(#[values(MySql, Sqlite)] on: Backend) {
    let service = forty_charges(on).await;
    let whole = service.records(all()).await;
    assert_eq!((whole.records.len(), whole.total, whole.next_page_token.as_str()), (41, 41, ""));
    let times: Vec<_> = whole.records.iter().map(|record| record.created_at.unwrap()).collect();
    assert!(times.is_sorted_by_key(|time| std::cmp::Reverse((time.seconds, time.nanos))));

    let (mut by_number, mut by_token, mut token) = (Vec::new(), Vec::new(), String::new());
    for page in 1..=6 {
        let numbered = service.records(ListRecordsRequest { page, page_size: 7, ..all() }).await;
        by_number.extend(ids(&numbered.records));
        let request = ListRecordsRequest { page_size: 7, page_token: token, ..all() };
        let following = service.records(request).await;
        by_token.extend(ids(&following.records));
        token = following.next_page_token;
        assert_eq!((numbered.total, token.is_empty()), (41, page == 6));
    }
    assert_eq!(by_number, ids(&whole.records));
    assert_eq!(by_token, ids(&whole.records));
    let beyond = service.records(ListRecordsRequest { page: 10, ..all() }).await;
    assert_eq!((beyond.records.len(), beyond.total), (0, 41));
}

#[rstest]
#[tokio::test]
async fn a_token_continues_at_its_position_when_new_records_arrive(#[values(MySql, Sqlite)] on: Backend) {
    let service = forty_charges(on).await;
    let before = service.records(all()).await;
    let first = service.records(ListRecordsRequest { page_size: 10, ..all() }).await;
    service.deduct(charge("u", "passport", 1)).await;
    let request = ListRecordsRequest { page_size: 10, page_token: first.next_page_token, ..all() };
    let second = service.records(request).await;
    assert_eq!(ids(&second.records), ids(&before.records[10..20]));
    assert_eq!(second.total, 42);
}

#[rstest]
#[tokio::test]
async fn filters_narrow_the_list_and_its_total(#[values(MySql, Sqlite)] on: Backend) {
    let service = forty_charges(on).await;
    let day = |from: &str, to: &str| ListRecordsRequest { from: from.into(), to: to.into(), ..all() };
    for (request, expected) in [
        (ListRecordsRequest { r#type: 2, ..all() }, 1),
        (ListRecordsRequest { r#type: 1, ..all() }, 40),
        (ListRecordsRequest { service_name: "asset".into(), ..all() }, 14),
        (ListRecordsRequest { service_name: "asset".into(), r#type: 1, ..day("2026-11-20", "2026-11-20") }, 5),
        (day("2026-11-18", "2026-11-18"), 13),
        (day("2026-11-19", ""), 28),
        (day("", "2026-11-19"), 26),
        (day("2026-11-21", "2026-11-30"), 0),
    ] {
        let listed = service.records(request.clone()).await;
        assert_eq!((listed.records.len(), listed.total), (expected, expected as i32), "{request:?}");
        let two = service.records(ListRecordsRequest { page_size: 2, ..request }).await;
        let rest = ListRecordsRequest { page_token: two.next_page_token.clone(), ..all() };
        if !two.next_page_token.is_empty() {
            assert_eq!(ids(&two.records), ids(&listed.records[..2]));
            assert!(!service.records(rest).await.records.is_empty());
        }
    }
}

#[rstest]
#[tokio::test]
async fn a_page_has_twenty_records_by_default(#[values(MySql, Sqlite)] on: Backend) {
    let service = forty_charges(on).await;
    assert_eq!(service.records(ListRecordsRequest { page_size: 0, ..all() }).await.records.len(), 20);
}

#[rstest]
#[tokio::test]
async fn records_of_the_same_instant_are_paged_one_by_one(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let items = vec![charge("u", "asset", 1); 12];
    let request = BatchDeductQuotaRequest { items };
    service.internal.clone().batch_deduct_quota(request).await.unwrap();
    let whole = service.records(all()).await;
    assert_eq!(whole.records.len(), 12);
    assert!(whole.records.iter().all(|record| record.created_at == whole.records[0].created_at));
    let (mut paged, mut token) = (Vec::new(), String::new());
    for _ in 0..12 {
        let page = service.records(ListRecordsRequest { page_size: 1, page_token: token, ..all() }).await;
        paged.extend(ids(&page.records));
        token = page.next_page_token;
    }
    assert_eq!((paged, token), (ids(&whole.records), String::new()));
}
