//! The export of records as CSV.

use billing_service::service::proto::{BatchDeductQuotaRequest, DeductQuotaRequest, ListRecordsRequest};
use rstest::rstest;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, traced};

/// Status, content type and body.
async fn export(service: &Service, query: &str) -> (u16, String, String) {
    let url = format!("http://{}/api/v1/billing/records.csv?{query}", service.app.http_addr);
    let response = service.http.get(url).send().await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status().as_u16(), kind, response.text().await.unwrap())
}

fn rows(csv: &str) -> Vec<csv::StringRecord> {
    csv::Reader::from_reader(csv.as_bytes()).records().map(Result::unwrap).collect()
}

#[rstest]
#[tokio::test]
async fn an_export_has_every_record_once_in_order(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 1000.0).await;
    // More records than one read returns.
    for batch in 0..6 {
        let items =
            (0..1_000).map(|i| DeductQuotaRequest { trace_id: format!("{batch}-{i}"), ..charge("u", "passport", 1) });
        let request = BatchDeductQuotaRequest { items: items.collect() };
        let reply = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner();
        assert!(reply.results.iter().all(|result| result.error.is_none()));
    }
    let (status, kind, csv) = export(&service, "user_id=u").await;
    assert_eq!((status, kind.as_str()), (200, "text/csv; charset=utf-8"));
    let exported = rows(&csv);
    assert_eq!(exported.len(), 6_000);
    let mut traces: Vec<&str> = exported.iter().map(|row| &row[6]).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 6_000);
    let places: Vec<(&str, &str)> = exported.iter().map(|row| (&row[1], &row[0])).collect();
    assert!(places.is_sorted_by(|one, next| one > next));
}

#[rstest]
#[tokio::test]
async fn an_export_agrees_with_the_list(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 1000.0).await;
    let mut call = DeductQuotaRequest { trace_id: "say \"it\", twice".into(), ..charge("u", "asset", 1_010) };
    call.api_key_id = "key,1".into();
    call.model = "a model".into();
    service.deduct(call).await;
    service.clock.set("2026-10-05T04:00:00Z");
    service.deduct(charge("u", "payment", 3)).await;
    service.deduct(charge("other", "asset", 1)).await;

    let list = service.records(ListRecordsRequest { user_id: "u".into(), ..Default::default() }).await;
    let (_, _, csv) = export(&service, "user_id=u").await;
    assert_eq!(
        csv.lines().next().unwrap(),
        "id,created_at,service_name,type,amount,count,trace_id,api_key_id,model,input_tokens,output_tokens,\
         cached_input_tokens,billing_day,late_of,cache_write_tokens,cache_write_1h_tokens,reasoning_tokens,audio_input_tokens,\
         audio_output_tokens,images,served_model,service_tier"
    );
    let exported = rows(&csv);
    assert_eq!(exported.len(), list.records.len());
    for (row, record) in exported.iter().zip(&list.records) {
        let kind = if record.r#type == 1 { "free" } else { "balance" };
        assert_eq!((&row[0], &row[2], &row[3]), (record.id.as_str(), record.service_name.as_str(), kind));
        assert_eq!((row[4].parse(), row[5].parse()), (Ok(record.amount), Ok(record.count)));
        assert_eq!(
            (&row[6], &row[7], &row[8]),
            (record.trace_id.as_str(), record.api_key_id.as_str(), record.model.as_str())
        );
    }
    let (_, _, october) = export(&service, "user_id=u&from=2026-10-01&to=2026-10-31").await;
    assert_eq!(rows(&october).iter().map(|row| row[2].to_owned()).collect::<Vec<_>>(), ["payment"]);
    let (_, _, paid) = export(&service, "userId=u&type=2&serviceName=asset").await;
    assert_eq!(rows(&paid).iter().map(|row| row[4].to_owned()).collect::<Vec<_>>(), ["0.5"]);
    let (_, _, none) = export(&service, "user_id=nobody").await;
    assert_eq!(none.lines().count(), 1);
}

#[rstest]
#[tokio::test]
async fn an_export_keeps_every_id_as_the_caller_sent_it(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let ids = ["-1", "=1+1", "+1", "@x", " =1", "a;=1", "\"q\"", "x,y", "1e5", "'"];
    for id in ids {
        service.deduct(DeductQuotaRequest { api_key_id: id.into(), ..traced(id, charge("u", "asset", 1)) }).await;
    }
    let (_, _, csv) = export(&service, "user_id=u").await;
    let mut rows = rows(&csv);
    rows.reverse();
    let read: Vec<(&str, &str)> = rows.iter().map(|row| (&row[6], &row[7])).collect();
    assert_eq!(read, ids.map(|id| (id, id)));
    // Quotes protect against readers that trim blanks or split at semicolons.
    assert!(csv.contains(",\" =1\",") && csv.contains(",\"a;=1\","), "{csv}");
}

#[rstest]
#[tokio::test]
async fn an_export_has_the_billing_day_of_each_record(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // Shanghai is eight hours ahead.
    for instant in ["2026-11-20T15:59:59Z", "2026-11-20T16:00:00Z"] {
        service.clock.set(instant);
        service.deduct(charge("u", "asset", 1)).await;
    }
    let (_, _, csv) = export(&service, "user_id=u").await;
    let days: Vec<String> = rows(&csv).iter().map(|row| row[12].to_owned()).collect();
    assert_eq!(days, ["2026-11-21", "2026-11-20"]);
}

#[tokio::test]
async fn a_bad_export_request_is_an_error_without_a_file() {
    let service = Service::start(Sqlite).await;
    for (query, field) in [("", "user_id"), ("user_id=u&type=5", "type"), ("user_id=u&page=2", "page")] {
        let (status, kind, body) = export(&service, query).await;
        assert_eq!((status, kind.as_str()), (400, "application/json"), "{query}");
        assert!(body.contains(&format!(r#""field":"{field}""#)), "{body}");
    }
}
