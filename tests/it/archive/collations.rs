//! The view compares texts of both tables, also where the server's default collation has changed since the first migration.

use billing_service::service::proto::GetStatementRequest;

use super::{a_year, move_all_but};
use crate::harness::MySql;

const MIGRATION: &str = include_str!("../../../migrations/mysql/0035_transaction_archive.sql");

#[tokio::test]
async fn transactions_of_another_collation_are_archived_and_read() {
    let service = a_year(MySql).await;
    // As on a server whose default was another one when the table was made.
    let other = "CHARACTER SET utf8mb4 COLLATE utf8mb4_swedish_ci";
    let old = format!(
        "DROP VIEW settled_transaction; DROP TABLE billing_transaction_archive, transactions_archived; \
         ALTER TABLE billing_transaction MODIFY status VARCHAR(10) {other} NOT NULL DEFAULT 'COMMITTED', \
         MODIFY record_id VARCHAR(36) {other} NOT NULL, MODIFY quota_unit VARCHAR(6) {other} NULL;"
    );
    service.database.execute(&old).await;
    service.database.execute(MIGRATION).await;
    let statement = async || {
        let request = GetStatementRequest { user_id: "ann".into(), month: "2026-01".into() };
        format!("{:?}", service.public.clone().get_statement(request).await.unwrap().into_inner())
    };
    let before = statement().await;
    service.assert_audit_is_clean().await;
    assert_eq!(move_all_but(&service.database, &service.clock, 1).await.transactions, 18);
    assert_eq!(statement().await, before);
    service.assert_audit_is_clean().await;
}
