//! The page of a charge that a stream made: its reports.

use billing_service::service::proto::StreamFinish;
use rstest::rstest;

use super::visitor::Visitor;
use crate::{
    harness::{Backend, MySql, Service, Sqlite},
    metering::{Gateway, MODELS, stream, usage},
};

#[rstest]
#[tokio::test]
async fn the_reports_of_a_stream_are_on_the_page_of_its_charge(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[MODELS, &[("console.enabled", "true")]].concat()).await;
    service.adjust("u", 10.0).await;
    let operator = Visitor::of_operators(&service);
    let page = async |trace: &str| {
        let shown = operator.get(&format!("/console/charge?user_id=u&trace_id={trace}")).await;
        assert_eq!(shown.status, 200, "{}", shown.text());
        shown.text()
    };
    // The estimate is small, so a report also makes the hold grow.
    let (mut gateway, _) = Gateway::open(&service, stream("counted", "rag", "gpt-4.1", (100, 50))).await;
    gateway.deliver_durably(0, 30).await;
    gateway.deliver_durably(30, 41).await;
    let running = page("counted").await;
    for part in ["Reports of the stream", "Last report", "Reported output tokens 71", "Status Held"] {
        assert!(running.contains(part), "{part}: {running}");
    }
    let reports = |text: &str| -> u32 {
        let number =
            text.split("stream Reports ").nth(1).unwrap_or_else(|| panic!("{text}")).split(' ').next().unwrap();
        number.parse().unwrap()
    };
    assert!(reports(&running) >= 2, "{running}");

    // The vendor counts differently: the charge has its count, and the page still has that of the stream.
    let finish = StreamFinish { usage: usage(100, 0, 75), ..Default::default() };
    gateway.finish(finish).await.unwrap();
    let finished = page("counted").await;
    for part in ["Reported output tokens 71", "Charged by its finish or a commit", "Output tokens 75", "Status Charged"]
    {
        assert!(finished.contains(part), "{part}: {finished}");
    }
    assert!(reports(&finished) >= reports(&running), "{finished}");

    // A stream that breaks is charged by its last report.
    let (mut gateway, _) = Gateway::open(&service, stream("broken", "rag", "gpt-4.1", (100, 50))).await;
    gateway.deliver_durably(0, 12).await;
    drop(gateway);
    service.ended("broken", "COMMITTED").await;
    let broken = page("broken").await;
    for part in ["Reported output tokens 12", "Charged by its last report"] {
        assert!(broken.contains(part), "{part}: {broken}");
    }

    let deducted = crate::harness::charge("u", "rag", 1);
    let deducted = billing_service::service::proto::DeductQuotaRequest {
        trace_id: "plain".into(),
        model: "gpt-4.1".into(),
        usage: usage(3, 0, 4),
        ..deducted
    };
    service.deduct(deducted).await;
    assert!(!page("plain").await.contains("Reports of the stream"));
    service.assert_audit_is_clean().await;
}
