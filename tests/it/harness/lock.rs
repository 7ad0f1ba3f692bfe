//! Blocks settlement.

use sqlx::Connection;

use super::{Database, MySql, Sqlite};

/// A lock that blocks all settlement until it is dropped or released. Reads go on.
pub enum Lock {
    MySql(sqlx::MySqlConnection),
    Sqlite(sqlx::SqliteConnection),
}

impl Lock {
    pub async fn take(database: &Database) -> Self {
        match database.backend {
            MySql => {
                let mut connection = database.mysql().await;
                // Not a row lock: the service waits two seconds for a row, and until its retry_timeout for a table.
                sqlx::raw_sql("LOCK TABLES user_balance READ").execute(&mut connection).await.unwrap();
                Lock::MySql(connection)
            }
            Sqlite => {
                let mut connection = database.sqlite().await;
                sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
                Lock::Sqlite(connection)
            }
        }
    }

    pub async fn release(self) {
        match self {
            Lock::MySql(connection) => connection.close().await.unwrap(),
            Lock::Sqlite(connection) => connection.close().await.unwrap(),
        }
    }
}
