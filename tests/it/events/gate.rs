//! Gates that hold a transaction at one statement, by a trigger, and deaths of the server or the database meanwhile.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, Row};

use crate::harness::{
    Database,
    mariadb::OwnServer,
    process::ServerProcess,
    wait::{soon, until},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The database dies. The server goes on, and makes the change again.
    Database,
    /// The server dies, and its transaction is rolled back.
    Server,
    /// The server dies, and its packet goes on to the end.
    ServerBeforeCommit,
}

/// Holds a transaction on MariaDB at a statement, by a lock of the session of the test.
pub struct Gate(MySqlConnection);

impl Gate {
    /// A settlement that comes again after the death of the database keeps the lock of its gate, so each user has one
    /// of its own.
    pub async fn close(database: &Database, statement: &str, user: &str) -> Self {
        let mut session = database.mysql().await;
        let lock = AssertSqlSafe(format!("SELECT GET_LOCK('{user}', 0)"));
        let taken: i64 = sqlx::query(lock).fetch_one(&mut session).await.unwrap().get(0);
        assert_eq!(taken, 1);
        let trigger = format!("CREATE TRIGGER gate {statement} FOR EACH ROW SET @gate = GET_LOCK('{user}', 600)");
        session.execute(AssertSqlSafe(trigger)).await.unwrap();
        Self(session)
    }

    /// Waits until a session stands before the gate. Returns its number.
    async fn waiting(&mut self) -> i64 {
        let mut found = None;
        until("a transaction stands at the statement", async || {
            let waiting = "SELECT id FROM information_schema.processlist WHERE state = 'User lock'";
            found = sqlx::query(waiting).fetch_optional(&mut self.0).await.unwrap().map(|row| row.get(0));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn kill(&mut self, session: i64) {
        self.0.execute(AssertSqlSafe(format!("KILL {session}"))).await.unwrap();
    }

    /// Lets the transaction go on, waits for its end, and removes the gate.
    async fn open(mut self) {
        self.0.execute("DO RELEASE_ALL_LOCKS()").await.unwrap();
        self.remove().await;
    }

    /// The trigger waits for the end of transactions that have fired it.
    async fn remove(&mut self) {
        soon(self.0.execute("DROP TRIGGER gate")).await.unwrap();
    }

    /// Waits until a transaction stands before the gate. Then the database or the server dies and starts again, and the
    /// gate is removed.
    pub async fn die(
        self,
        death: Death,
        mariadb: &mut OwnServer,
        database: &Database,
        server: &mut ServerProcess,
        conf: &Path,
    ) {
        self.die_by(death, mariadb, database, || server.kill()).await;
        if death != Death::Database {
            *server = ServerProcess::start_beside(conf).await;
        }
    }

    /// As [`Self::die`], of any process. It is not started again.
    pub async fn die_by(
        mut self,
        death: Death,
        mariadb: &mut OwnServer,
        database: &Database,
        kill: impl FnOnce() + Send,
    ) {
        let waiting = self.waiting().await;
        if death == Death::Database {
            mariadb.kill_and_start_again().await;
            return Self(database.mysql().await).remove().await;
        }
        kill();
        if death == Death::Server {
            self.kill(waiting).await;
        }
        self.open().await;
    }
}

/// A view that takes hours, because SQLite has no locks to wait for.
const SLOW: &str = "CREATE VIEW slow AS WITH RECURSIVE number(value) AS \
    (SELECT 1 UNION ALL SELECT value + 1 FROM number LIMIT 1000000000000) SELECT COUNT(*) AS count FROM number";
/// Failed attempts to write in a row after which the server is taken to stand at the statement.
const BUSY: usize = 20;

/// Holds a transaction on SQLite at a statement.
pub struct SlowGate<'d>(&'d Database);

impl<'d> SlowGate<'d> {
    pub async fn prepare(database: &Database) {
        database.sqlite().await.execute(SLOW).await.unwrap();
    }

    pub async fn close(database: &'d Database, statement: &str) -> Self {
        let trigger = format!("CREATE TRIGGER gate {statement} BEGIN SELECT count FROM slow; END");
        database.sqlite().await.execute(AssertSqlSafe(trigger)).await.unwrap();
        Self(database)
    }

    /// Waits until a transaction stands before the gate. Then the server dies and starts again, and the gate is removed.
    pub async fn die(self, server: &mut ServerProcess, conf: &Path) {
        self.die_by(|| server.kill()).await;
        *server = ServerProcess::start_beside(conf).await;
    }

    /// As [`Self::die`], of any process. It is not started again.
    pub async fn die_by(self, kill: impl FnOnce() + Send) {
        stands(self.0).await;
        kill();
        self.0.sqlite().await.execute("DROP TRIGGER gate").await.unwrap();
    }
}

/// Waits until another process holds the lock of the file, and goes on holding it.
async fn stands(database: &Database) {
    let mut session = database.sqlite().await;
    session.execute("PRAGMA busy_timeout = 0").await.unwrap();
    let mut refused = 0;
    until("a transaction stands at the statement", async || {
        match session.execute("BEGIN IMMEDIATE").await {
            Ok(_) => {
                session.execute("ROLLBACK").await.unwrap();
                refused = 0;
            }
            Err(_) => refused += 1,
        }
        refused == BUSY
    })
    .await;
    session.close().await.unwrap();
}
