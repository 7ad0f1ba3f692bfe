//! Holding settlement up.

use sqlx::Connection;

use super::{Database, MySql, Sqlite};

/// Holds the lock that settling an account of `u` needs, until dropped or rolled back.
pub enum Lock {
    MySql(sqlx::MySqlConnection),
    Sqlite(sqlx::SqliteConnection),
}

impl Lock {
    pub async fn take(database: &Database) -> Self {
        match database.backend {
            MySql => {
                let mut connection = database.mysql().await;
                let sql = "BEGIN; SELECT * FROM user_balance WHERE user_id = 'u' FOR UPDATE";
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
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
