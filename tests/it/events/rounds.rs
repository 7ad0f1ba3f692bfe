//! Deaths at each statement of changes, one after another on one database and one server.

use std::{fmt::Debug, path::PathBuf};

use billing_service::service::proto::AdjustBalanceRequest;
use chrono::{Timelike, Utc};

use super::{
    client_of,
    gate::{Death, Gate, SlowGate},
};
use crate::harness::{
    Backend, Database, Sqlite, caller::Client, load::credit, mariadb::OwnServer, process::ServerProcess,
};

/// A change that dies at each of its statements.
pub trait Dies: Copy + Debug {
    /// Lives from the preparation to the change, such as an open stream.
    type Open;

    /// The statements to die at, in no order.
    fn statements(self, on: Backend) -> Vec<&'static str>;

    /// Prepares the account.
    async fn prepare(self, round: &Round<'_>) -> Self::Open;

    /// Makes the change for the first time. Something dies meanwhile.
    async fn attempt(self, round: &Round<'_>, open: Self::Open);

    /// Repeats the change until it has an answer, and checks that it was made once.
    async fn assert_once(self, round: &Round<'_>, death: Death, statement: &str);
}

/// A billing zone in which it is about noon. The servers have the clock of the machine, and in this zone no month turns
/// and no free quota begins anew during the test.
pub fn zone_at_noon() -> String {
    // The zones to the east of Greenwich have a minus.
    let west = i64::from(Utc::now().hour()) - 12;
    format!("Etc/GMT{west:+}")
}

/// Batches after a repeated trace id in which a server looks every id up, and settles no known account behind a guard.
const FULL_LOOKUPS: usize = 32;

/// Settles so many batches, of an account of their own. The repeats of the last change would keep the next one from the
/// guard.
pub async fn end_lookups(round: &Round<'_>) {
    let mut client = round.client.clone();
    for number in 0..=FULL_LOOKUPS {
        let credit = credit(&format!("idle-{}", round.user), 0.01);
        client.adjust_balance(AdjustBalanceRequest { adjustment_id: number.to_string(), ..credit }).await.unwrap();
    }
}

/// The account of one change.
pub struct Round<'r> {
    pub client: Client,
    pub database: &'r Database,
    pub user: &'r str,
}

pub struct DeathRounds {
    death: Death,
    /// Absent if the database is a file.
    mariadb: Option<OwnServer>,
    database: Database,
    conf: PathBuf,
    server: ServerProcess,
}

impl DeathRounds {
    pub async fn in_mariadb(death: Death, configure: impl FnOnce(&Database) -> PathBuf) -> Self {
        let mariadb = OwnServer::start().await;
        let database = Database::on(mariadb.create_database().await);
        let conf = configure(&database);
        let server = ServerProcess::start_beside(&conf).await;
        Self { death, mariadb: Some(mariadb), database, conf, server }
    }

    /// Only the server dies.
    pub async fn in_a_file(configure: impl FnOnce(&Database) -> PathBuf) -> Self {
        let database = Database::create(Sqlite).await;
        let conf = configure(&database);
        let server = ServerProcess::start_beside(&conf).await;
        SlowGate::prepare(&database).await;
        Self { death: Death::Server, mariadb: None, database, conf, server }
    }

    /// Dies at each statement of each change. Each has a user of its own.
    pub async fn run<C: Dies>(mut self, changes: &[C]) {
        for change in changes {
            for (number, statement) in change.statements(self.database.backend).into_iter().enumerate() {
                let user = format!("{change:?}-{number}");
                self.die(*change, statement, &user).await;
                let client = client_of(&self.server).await;
                let round = Round { client, database: &self.database, user: &user };
                change.assert_once(&round, self.death, statement).await;
            }
        }
        self.database.assert_audit_is_clean().await;
    }

    async fn die<C: Dies>(&mut self, change: C, statement: &str, user: &str) {
        let Self { death, mariadb, database, conf, server } = self;
        let round = Round { client: client_of(server).await, database, user };
        let open = change.prepare(&round).await;
        match mariadb {
            Some(mariadb) => {
                let gate = Gate::close(database, statement, user).await;
                tokio::join!(change.attempt(&round, open), gate.die(*death, mariadb, database, server, conf));
            }
            None => {
                let gate = SlowGate::close(database, statement).await;
                tokio::join!(change.attempt(&round, open), gate.die(server, conf));
            }
        }
    }
}
