//! Each column of a transaction is in the archive and in the view.

use rstest::rstest;

use super::{a_year, move_all_but};
use crate::harness::{Backend, MySql, Sqlite};

/// Also of a column that a later release adds.
#[rstest]
#[tokio::test]
async fn each_column_of_a_transaction_moves_and_is_read_again(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    let columns_of = async |table: &str| {
        let (name, from) = match on {
            MySql => (
                ["column_name", "data_type"],
                format!(
                    "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = '{table}' \
                     ORDER BY ordinal_position"
                ),
            ),
            Sqlite => (["name", "type"], format!("FROM pragma_table_info('{table}') ORDER BY cid")),
        };
        service.database.rows(&name, &from).await
    };
    let columns = columns_of("billing_transaction").await;
    let names = |columns: &[Vec<String>]| columns.iter().map(|column| column[0].clone()).collect::<Vec<_>>();
    let stay = ["user_id", "trace_id", "created_at", "late_date", "refunded_free", "refunded_paid", "refunded_amount"];
    let mut archived = names(&columns_of("billing_transaction_archive").await);
    archived.extend(stay[3..].iter().map(|column| column.to_string()));
    archived.sort();
    let mut all = names(&columns);
    assert_eq!(names(&columns_of("settled_transaction").await), all);
    // A value of its own in each column.
    let row = "user_id = 'ann' AND created_at = (SELECT * FROM (SELECT MIN(created_at) FROM billing_transaction \
        WHERE user_id = 'ann') first)";
    let mut sets = Vec::new();
    for (number, column) in columns.iter().enumerate() {
        let value = match (column[0].as_str(), column[1].to_lowercase().as_str()) {
            ("user_id" | "trace_id" | "created_at" | "status" | "record_id", _) => continue,
            ("charged_by", _) => "2".into(),
            (_, "date") => format!("'2026-01-{:02}'", 1 + number % 28),
            (_, "datetime") => format!("'2026-01-05 00:00:00.0000{number:02}'"),
            (_, "int" | "integer" | "bigint" | "tinyint") => (100 + number).to_string(),
            (_, "decimal") => format!("{number}.000001"),
            _ => format!("'x{number}'"),
        };
        sets.push(format!("{} = {value}", column[0]));
    }
    let trace = service.database.rows(&["trace_id"], &format!("FROM billing_transaction WHERE {row}")).await;
    let of_row = format!("user_id = 'ann' AND trace_id = '{}'", trace[0][0]);
    service.database.execute(&format!("UPDATE billing_transaction SET {} WHERE {of_row}", sets.join(", "))).await;
    let texts: Vec<String> = all.iter().map(|column| format!("COALESCE(CAST({column} AS CHAR), 'none')")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let read =
        async |table: &str| service.database.rows(&texts, &format!("FROM {table} WHERE {of_row}")).await.remove(0);
    let before = read("billing_transaction").await;
    assert!(!before.contains(&"none".to_owned()), "{before:?}");
    assert_eq!(read("settled_transaction").await, before);
    assert_eq!(move_all_but(&service.database, &service.clock, 1).await.transactions, 18);
    assert_eq!(read("settled_transaction").await, before);
    for (column, (narrow, before)) in all.iter().zip(read("billing_transaction").await.iter().zip(&before)) {
        match column.as_str() {
            "status" => assert_eq!(narrow, "ARCHIVED"),
            column if stay.contains(&column) => assert_eq!(narrow, before, "{column}"),
            column => assert!(["none", "", "0", "0.000000"].contains(&narrow.as_str()), "{column}: {narrow}"),
        }
    }
    all.sort();
    assert_eq!(archived, all);
}
