//! The price book: the rows that are read, and the reports of unusable rows and of an unreadable
//! table.

use billing_service::app;
use rstest::rstest;
use serde_json::Value;

use super::{MODELS, OF_OLD, Row, call, tokens};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, process::ServerProcess, wait::until};

impl Database {
    /// `rows` as one statement: model, instant, id, and the price of input.
    async fn set_prices(&self, rows: impl Iterator<Item = (String, String, String, u32)>) {
        let rows: Vec<String> = rows
            .map(|(model, from, id, input)| {
                let from: chrono::DateTime<chrono::Utc> = from.parse().unwrap();
                let (from, input) = match self.backend {
                    MySql => (format!("'{}'", from.naive_utc()), format!("{input} / 1000000")),
                    Sqlite => (from.timestamp_micros().to_string(), input.to_string()),
                };
                format!("('{model}', {from}, '{id}', {input}, 0)")
            })
            .collect();
        for rows in rows.chunks(2_000) {
            let columns = "(model, effective_from, version_id, input_price, output_price)";
            self.execute(&format!("INSERT INTO price_version {columns} VALUES {}", rows.join(", "))).await;
        }
    }
}

impl Service {
    async fn gauge(&self, name: &str) -> Option<i64> {
        let text = self.metrics().await;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

#[rstest]
#[tokio::test]
async fn any_number_of_versions_may_stand(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let store = app::connect(&database.config(&[])).await.unwrap();
    let instant = |number: usize| (chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(number as i64)).to_rfc3339();
    // More than a page of versions of one model, and more than a page of models with one version.
    let old = (1..=10_001).map(|number| ("old".to_owned(), instant(number), format!("v{number}"), number as u32));
    database.set_prices(old).await;
    let many = (0..1_500).map(|number| (format!("m{number}"), OF_OLD.to_owned(), "v".to_owned(), 3_000_000));
    database.set_prices(many).await;
    let to_come = (0..1_200).map(|number| {
        let from = format!("{}-01-01T00:00:00Z", 2_100 + number);
        ("to-come".to_owned(), from, format!("v{number}"), 5_000_000)
    });
    database.set_prices(to_come).await;
    database.set_price(Row("m7-bad", OF_OLD, "a\u{7}b", ["1", "NULL", "1"])).await;
    let found = store.price_versions().await.unwrap();
    assert_eq!(found.len(), 10_001 + 1_500 + 1_200 + 1);
    store.close().await;

    let mut database = database;
    for _ in 0..2 {
        let service = Service::start_on(database, MODELS).await;
        service.adjust("u", 100.0).await;
        let million = |model: &str| call("rag", model, tokens(1_000_000, 0, 0));
        assert_eq!(service.deduct(million("old")).await.amount, 0.010001);
        assert_eq!(service.deduct(million("m1499")).await.amount, 3.0);
        service.try_deduct(million("to-come")).await.unwrap_err();
        service.try_deduct(million("m7-bad")).await.unwrap_err();
        assert_eq!(service.gauge("billing_price_rows_refused").await, Some(1));
        assert_eq!(service.gauge("billing_price_book_failed").await, Some(0));
        service.app.stop().await;
        database = service.database;
    }
    database.set_price(Row("m7-bad", OF_OLD, "good", ["1", "NULL", "1"])).await;
    let service = Service::start_on(database, MODELS).await;
    assert_eq!(service.gauge("billing_price_rows_refused").await, Some(0));
    service.database.set_price(Row("m1499", "2026-01-02T00:00:00Z", "new", ["7000000", "NULL", "1"])).await;
    service.until_input_costs("m1499", Some(7.0)).await;
}

#[rstest]
#[tokio::test]
async fn an_unreadable_book_shows_in_a_metric_and_the_known_prices_stay(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    service.database.set_price(Row("m", OF_OLD, "v", ["2000000", "NULL", "1"])).await;
    service.until_input_costs("m", Some(2.0)).await;
    let read = service.gauge("billing_price_book_read_timestamp_seconds").await.unwrap();
    assert!(read > 1_700_000_000, "{read}");
    service.database.execute("ALTER TABLE price_version RENAME TO elsewhere").await;
    until("the book cannot be read", async || service.gauge("billing_price_book_failed").await == Some(1)).await;
    assert_eq!(service.deduct(call("rag", "m", tokens(1_000_000, 0, 0))).await.amount, 2.0);
    service.database.execute("ALTER TABLE elsewhere RENAME TO price_version").await;
    until("the book is read again", async || service.gauge("billing_price_book_failed").await == Some(0)).await;
    service.database.set_price(Row("n", OF_OLD, "v", ["3000000", "NULL", "1"])).await;
    service.until_input_costs("n", Some(3.0)).await;
}

/// Each further bad row appears in a later read of the book. Models are read in order, so a repeated
/// line of an earlier model would come before the line of a later one.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_used_is_logged_once_and_not_at_every_read(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(MODELS);
    app::connect(&database.config(&[])).await.unwrap().close().await;
    let set = async |model: &str, id: &str| database.set_price(Row(model, OF_OLD, id, ["1", "NULL", "1"])).await;
    set("m0", "a\u{7}b").await;
    let (_server, mut log) = ServerProcess::start_logged(&conf);
    let of = |model: &str| {
        let row = format!("{model} from ");
        move |line: &Value| {
            let fields = &line["fields"];
            fields["message"] == "unusable row in price_version"
                && fields["row"].as_str().is_some_and(|text| text.starts_with(&row))
        }
    };
    for model in ["m1", "m2", "m3"] {
        set(model, "a\u{7}b").await;
        log.line(of(model));
    }
    // The row of m0 was logged at the start.
    assert_eq!(["m0", "m1", "m2"].map(|model| log.count(of(model))), [1, 1, 1]);

    // A row that is corrected and then bad again is logged again.
    set("m1", "good").await;
    set("m4", "a\u{7}b").await;
    log.line(of("m4"));
    set("m1", "a\u{7}b").await;
    set("m5", "a\u{7}b").await;
    log.line(of("m5"));
    assert_eq!(["m0", "m1", "m2", "m3", "m4"].map(|model| log.count(of(model))), [1, 2, 1, 1, 1]);
}
