//! Models priced by token: versions, and what they make a call cost.

use billing_service::{app, biz::prices::StoredVersion};
use chrono::{DateTime, Utc};
use rstest::rstest;

use crate::harness::{Backend, Database, MySql, Sqlite};

/// A row of `price_version`: model, instant, id, and the prices in millionths, "NULL" for none.
struct Row<'r>(&'r str, &'r str, &'r str, [&'r str; 3]);

impl Database {
    /// As an operator writes one.
    async fn set_price(&self, Row(model, from, id, prices): Row<'_>) {
        let from: DateTime<Utc> = from.parse().unwrap();
        let (from, [input, cached, output]) = match self.backend {
            MySql => (format!("'{}'", from.naive_utc()), prices.map(|price| format!("{price} / 1000000"))),
            Sqlite => (from.timestamp_micros().to_string(), prices.map(str::to_owned)),
        };
        self.execute(&format!(
            "REPLACE INTO price_version \
             (model, effective_from, version_id, input_price, cached_input_price, output_price) \
             VALUES ('{model}', {from}, '{id}', {input}, {cached}, {output})"
        ))
        .await;
    }
}

#[rstest]
#[tokio::test]
async fn versions_of_the_database_are_read_to_the_last_digit(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let store = app::connect(&database.config(&[])).await.unwrap();
    assert_eq!(store.price_versions().await.unwrap(), []);
    let largest = "999999999999999";
    database.set_price(Row("gpt-4.1", "2026-11-01T00:00:00.000001Z", "v 2", ["2000001", "500000", "8000000"])).await;
    database.set_price(Row("GPT-4.1", "1970-01-01T00:00:00Z", "v1", [largest, "NULL", "0"])).await;
    let mut found = store.price_versions().await.unwrap();
    found.sort_by_key(|row| row.effective_from);
    let shown =
        |row: &StoredVersion| format!("{} {} {} {}", row.model, row.effective_from, row.version.id, row.version.prices);
    assert_eq!(
        found.iter().map(shown).collect::<Vec<_>>(),
        [
            "GPT-4.1 1970-01-01 00:00:00 UTC v1 999999999.999999/999999999.999999/0",
            "gpt-4.1 2026-11-01 00:00:00.000001 UTC v 2 2.000001/0.5/8",
        ]
    );
    store.close().await;
}
