//! Lists and exports of records by model and API key.

use billing_service::service::proto::{
    BillingRecord, CommitReservationRequest, DeductQuotaRequest, ListRecordsRequest, Usage,
};
use rstest::rstest;

use super::{USER, commit_of, random_call, reserve_of, start};
use crate::harness::{Backend, MySql, Service, Sqlite, caller::Dice, charge, code_of};

fn list(model: &str, key: &str) -> ListRecordsRequest {
    ListRecordsRequest { user_id: USER.into(), model: model.into(), api_key_id: key.into(), ..Default::default() }
}

/// All pages of a list.
async fn all(service: &Service, request: ListRecordsRequest) -> Vec<BillingRecord> {
    let (mut found, mut token) = (Vec::new(), String::new());
    for _ in 0..1_000 {
        let page = service.records(ListRecordsRequest { page_token: token, ..request.clone() }).await;
        assert!(page.records.len() <= request.page_size as usize);
        found.extend(page.records);
        token = page.next_page_token;
        if token.is_empty() {
            return found;
        }
    }
    panic!("the list does not end");
}

#[rstest]
#[tokio::test]
async fn a_list_and_an_export_have_exactly_the_matching_records(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let mut dice = Dice(23);
    for at in ["2026-10-31T04:00:00Z", "2026-11-05T04:00:00Z", "2026-11-20T04:00:00Z"] {
        service.clock.set(at);
        for n in 0..40 {
            service.deduct(random_call(&mut dice, format!("{at}-{n}"))).await;
        }
    }
    let whole = all(&service, ListRecordsRequest { page_size: 100, ..list("", "") }).await;
    for (model, key) in [("gpt-4.1", ""), ("", "key-b"), ("gpt-5", "key-a"), ("not-priced", "key,\"c\""), ("none", "")]
    {
        for (kind, from) in [(0, ""), (2, ""), (0, "2026-11-01"), (1, "2026-11-06")] {
            let keep = |record: &&BillingRecord| {
                let at = record.created_at.as_ref().unwrap().seconds;
                let is_in = from.is_empty() || at >= if from == "2026-11-01" { 1_793_462_400 } else { 1_793_894_400 };
                (model.is_empty() || record.model == model)
                    && (key.is_empty() || record.api_key_id == key)
                    && (kind == 0 || record.r#type == kind)
                    && is_in
            };
            let expected: Vec<_> = whole.iter().filter(keep).cloned().collect();
            let request = ListRecordsRequest { r#type: kind, from: from.into(), page_size: 7, ..list(model, key) };
            assert_eq!(all(&service, request.clone()).await, expected, "{model} {key} {kind} {from}");
            assert_eq!(service.records(request).await.total_records, 0, "these are not counted");
            let mut url =
                reqwest::Url::parse(&format!("http://{}/api/v1/billing/records.csv", service.app.http_addr)).unwrap();
            url.query_pairs_mut().extend_pairs([
                ("user_id", USER),
                ("model", model),
                ("api_key_id", key),
                ("from", from),
            ]);
            url.query_pairs_mut().append_pair("type", &kind.to_string());
            let csv = service.http.get(url).send().await.unwrap().text().await.unwrap();
            let ids: Vec<_> =
                csv::Reader::from_reader(csv.as_bytes()).records().map(|row| row.unwrap()[0].to_owned()).collect();
            assert_eq!(ids, expected.iter().map(|record| record.id.clone()).collect::<Vec<_>>());
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_reads_a_bounded_number_of_records(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let rare = DeductQuotaRequest { model: "rare".into(), trace_id: "rare".into(), ..charge(USER, "asset", 1) };
    service.deduct(rare).await;
    service.charge_many("often", 6_000, &charge(USER, "asset", 1)).await;
    let rare = DeductQuotaRequest { model: "rare".into(), trace_id: "rare-2".into(), ..charge(USER, "asset", 1) };
    service.deduct(rare).await;
    let first = service.records(list("rare", "")).await;
    let traces = |records: &[BillingRecord]| records.iter().map(|record| record.trace_id.clone()).collect::<Vec<_>>();
    assert_eq!((traces(&first.records), first.total), (vec!["rare-2".into()], 0));
    assert_ne!(first.next_page_token, "", "the page is short, and more follow");
    let next = service.records(ListRecordsRequest { page_token: first.next_page_token, ..list("rare", "") }).await;
    assert_eq!((traces(&next.records), next.next_page_token.as_str()), (vec!["rare".into()], ""));
    let none = service.records(list("unknown", "")).await;
    assert_eq!(none.records, []);
    assert_ne!(none.next_page_token, "", "a page without records, and more to read");
    let numbered = ListRecordsRequest { page: 2, ..list("rare", "") };
    let refused = service.public.clone().list_records(numbered).await.unwrap_err();
    assert_eq!((code_of(&refused).1.as_str(), refused.message().starts_with("page:")), ("10009", true), "{refused}");
    let long = service.public.clone().list_records(list(&"x".repeat(129), "")).await.unwrap_err();
    assert!(long.message().starts_with("model:"), "{long}");
}

#[rstest]
#[tokio::test]
async fn a_record_names_the_model_that_served_and_the_tier(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let usage = Some(Usage { input_tokens: 10, output_tokens: 10, ..Default::default() });
    let call = DeductQuotaRequest { trace_id: "t".into(), model: "gpt-5".into(), usage, ..charge(USER, "llm", 1) };
    service.internal.clone().reserve_quota(reserve_of(&call)).await.unwrap();
    let commit = CommitReservationRequest { model: "gpt-4.1".into(), service_tier: "batch".into(), ..commit_of(&call) };
    service.internal.clone().commit_reservation(commit).await.unwrap();
    let record = service.records(list("gpt-5", "")).await.records.remove(0);
    let named = [&record.model, &record.served_model, &record.service_tier].map(String::as_str);
    assert_eq!(named, ["gpt-5", "gpt-4.1", "batch"]);
    let lines = super::records(&service).await;
    let named = ["model", "served_model", "service_tier"].map(|column| lines[0][column].as_str());
    assert_eq!(named, ["gpt-5", "gpt-4.1", "batch"]);
    // It is found by the model that the call asked for.
    assert_eq!(service.records(list("gpt-4.1", "")).await.records, []);
}

/// Pages that are full after some reads, or exactly at the last one.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_fills_over_several_reads_loses_and_doubles_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let often = charge(USER, "asset", 1);
    let rare = DeductQuotaRequest { model: "rare".into(), ..charge(USER, "asset", 1) };
    // From the newest back: one in each of the first ten reads of 500 records, the last at the end of the tenth.
    let mut expected = Vec::new();
    service.charge_many("oldest", 700, &often).await;
    for n in 0..10 {
        let trace = format!("rare-{n}");
        service.clock.advance(chrono::TimeDelta::seconds(1));
        service.deduct(DeductQuotaRequest { trace_id: trace.clone(), ..rare.clone() }).await;
        expected.insert(0, trace);
        service.clock.advance(chrono::TimeDelta::seconds(1));
        service.charge_many(&format!("often-{n}"), 499, &often).await;
    }
    for (size, kind, service_name) in
        [(9, 0, ""), (10, 0, ""), (11, 0, ""), (3, 2, "asset"), (10, 0, "asset"), (4, 1, ""), (5, 0, "llm")]
    {
        let request =
            ListRecordsRequest { page_size: size, r#type: kind, service_name: service_name.into(), ..list("rare", "") };
        let found = all(&service, request).await;
        let found: Vec<_> = found.into_iter().map(|record| record.trace_id).collect();
        let free = kind == 1 || service_name == "llm";
        assert_eq!(found, if free { Vec::new() } else { expected.clone() }, "{size} {kind} {service_name}");
    }
}
