//! Reads the tables directly, as text, in the same way on both databases.

use sqlx::{AssertSqlSafe, Row};

use super::{Database, MySql, Sqlite};

impl Database {
    /// The values of `columns` in the rows of `from`, as text. `MICROS(amount)` stands for an amount in
    /// whole millionths.
    pub async fn rows(&self, columns: &[&str], from: &str) -> Vec<Vec<String>> {
        let columns: Vec<String> = columns.iter().map(|column| format!("CAST({column} AS CHAR)")).collect();
        let sql = format!("SELECT {} {from}", columns.join(", "));
        match self.backend {
            MySql => {
                let sql = AssertSqlSafe(sql.replace("MICROS(", "ROUND(1000000 * "));
                let rows = sqlx::query(sql).fetch_all(&mut self.mysql().await).await.unwrap();
                let text = |row: &sqlx::mysql::MySqlRow, at| String::from_utf8(row.get(at)).unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect()
            }
            Sqlite => {
                let sql = AssertSqlSafe(sql.replace("MICROS(", "("));
                let rows = sqlx::query(sql).fetch_all(&mut self.sqlite().await).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect()
            }
        }
    }
}
