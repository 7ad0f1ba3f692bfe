//! Deaths at the statements of changes other than charges, each of which leaves one event, and of the reads that give
//! positions. Then the caller repeats the change.

use std::path::PathBuf;

use billing_service::{
    sandbox::{Sandbox, Switches},
    service::proto::{ListEventsRequest, RechargeCallbackRequest, SetAccountStatusRequest},
};
use chrono::Utc;
use rstest::rstest;
use tonic::Code;

use super::{
    all, client_of, data, events_of,
    gate::{Death, Gate, SlowGate},
    types,
};
use crate::{
    harness::{
        Database, Sqlite,
        caller::Client,
        charge,
        load::credit,
        mariadb::OwnServer,
        payments::{failed, sandbox, settings, signed, success},
        process::ServerProcess,
        traced,
        wait::until,
    },
    refunds::refund,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// A charge that is refused for money.
    Refused,
    Refunded,
    Frozen,
    Credited,
    Failed,
    /// Money of a credited order goes back, and is charged back.
    Returned,
    ChargedBack,
    /// A payment of an order that nobody knows.
    Unapplied,
    /// A read that gives positions to the events of a change.
    Read,
}

const CHANGES: [Change; 9] = [
    Change::Refused,
    Change::Refunded,
    Change::Frozen,
    Change::Credited,
    Change::Failed,
    Change::Returned,
    Change::ChargedBack,
    Change::Unapplied,
    Change::Read,
];

impl Change {
    /// The statements to die at, in no order.
    fn statements(self) -> &'static [&'static str] {
        match self {
            Self::Refused | Self::Frozen => &["AFTER INSERT ON event", "BEFORE UPDATE ON user_balance"],
            Self::Refunded => &["AFTER INSERT ON event", "BEFORE INSERT ON charge_refund"],
            Self::Credited => &["AFTER INSERT ON event", "BEFORE UPDATE ON recharge_order"],
            Self::Failed => &["BEFORE INSERT ON event", "BEFORE UPDATE ON recharge_order"],
            Self::Returned => &["AFTER INSERT ON event", "BEFORE INSERT ON recharge_refund"],
            Self::ChargedBack => &["BEFORE INSERT ON event", "BEFORE UPDATE ON user_balance"],
            Self::Unapplied => &["BEFORE INSERT ON event", "BEFORE INSERT ON unapplied_payment"],
            Self::Read => &["BEFORE UPDATE ON event", "BEFORE UPDATE ON event_feed"],
        }
    }

    fn leaves(self) -> &'static str {
        match self {
            Self::Refused => "balance.exhausted",
            Self::Refunded => "charge.refunded",
            Self::Frozen | Self::Read => "account.status",
            Self::Credited => "recharge.succeeded",
            Self::Failed => "recharge.failed",
            Self::Returned => "recharge.refunded",
            Self::ChargedBack => "recharge.charged_back",
            Self::Unapplied => "payment.unapplied",
        }
    }

    async fn prepare(self, client: &mut Client, database: &Database, user: &str) {
        match self {
            // A new account is inserted in place of an update.
            Self::Refused | Self::Frozen => drop(client.adjust_balance(credit(user, 1.0)).await.unwrap()),
            Self::Unapplied => {}
            Self::Refunded => {
                client.adjust_balance(credit(user, 10.0)).await.unwrap();
                client.deduct_quota(traced("paid", charge(user, "asset", 100))).await.unwrap();
            }
            Self::Credited | Self::Failed => database.pending_order(&order_of(user), user, 5).await,
            Self::Returned | Self::ChargedBack => {
                database.pending_order(&order_of(user), user, 5).await;
                let credit = signed(success(&order_of(user), user, 5.0), Utc::now());
                client.recharge_callback(credit).await.unwrap();
            }
            Self::Read => drop(client.set_account_status(frozen(user)).await.unwrap()),
        }
    }

    /// Makes the change, or makes it again. Returns whether there is an answer.
    async fn make(self, mut client: Client, user: &str) -> bool {
        let made = match self {
            Self::Refused => client.deduct_quota(traced("dear", charge(user, "asset", 5_000))).await.map(drop),
            Self::Refunded => client.refund_charge(refund(user, "paid", "r", None)).await.map(drop),
            Self::Frozen => client.set_account_status(frozen(user)).await.map(drop),
            Self::Credited | Self::Unapplied => {
                client.recharge_callback(signed(success(&order_of(user), user, 5.0), Utc::now())).await.map(drop)
            }
            Self::Failed => {
                client.recharge_callback(signed(failed(&order_of(user), user, 5.0), Utc::now())).await.map(drop)
            }
            Self::Returned | Self::ChargedBack => {
                let status = if self == Self::Returned { "REFUNDED" } else { "CHARGEBACK" };
                let back = RechargeCallbackRequest {
                    status: status.into(),
                    refund_id: format!("back-{user}"),
                    ..success(&order_of(user), user, 5.0)
                };
                client.recharge_callback(signed(back, Utc::now())).await.map(drop)
            }
            Self::Read => client.list_events(ListEventsRequest::default()).await.map(drop),
        };
        match (self, made.map_err(|error| error.code())) {
            (Self::Refused, made) => made == Err(Code::FailedPrecondition),
            // The callback is of an unknown order.
            (Self::Unapplied, made) => made == Err(Code::NotFound),
            (_, made) => made.is_ok(),
        }
    }

    /// Makes the change until it has an answer, and checks that it left one event.
    async fn assert_once(self, client: Client, user: &str, death: &str) {
        until("the change has an answer", async || self.make(client.clone(), user).await).await;
        assert!(self.make(client.clone(), user).await);
        let events = match self {
            Self::Unapplied => {
                let of_payment = |event: &_| data(event)["payment_order_id"] == user;
                all(&client).await.into_iter().filter(of_payment).collect()
            }
            _ => events_of(&client, user).await,
        };
        let mut expected = vec![self.leaves()];
        if matches!(self, Self::Returned | Self::ChargedBack) {
            expected.insert(0, "recharge.succeeded");
        }
        assert_eq!(types(&events), expected, "{self:?} after a death at {death}");
    }
}

fn order_of(user: &str) -> String {
    format!("order-{user}")
}

fn frozen(user: &str) -> SetAccountStatusRequest {
    SetAccountStatusRequest { user_id: user.into(), status: "FROZEN".into(), reason: "for a test".into() }
}

/// Takes what callbacks say if they are signed.
async fn configuration(database: &Database) -> (PathBuf, Sandbox) {
    let sandbox = sandbox(Switches::default()).await;
    (database.config_file(&settings(&sandbox, &[("server.grpc.timeout", "5s")])), sandbox)
}

fn send(change: Change, client: &Client, user: &str) -> tokio::task::JoinHandle<()> {
    let (client, user) = (client.clone(), user.to_owned());
    tokio::spawn(async move {
        change.make(client, &user).await;
    })
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_a_statement_of_any_change_leaves_each_event_once_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
) {
    let mut mariadb = OwnServer::start().await;
    let database = Database::on(mariadb.create_database().await);
    let (conf, _sandbox) = configuration(&database).await;
    let mut server = ServerProcess::start_beside(&conf).await;
    for change in CHANGES {
        for (number, statement) in change.statements().iter().enumerate() {
            let user = format!("{change:?}-{number}");
            let mut client = client_of(&server).await;
            change.prepare(&mut client, &database, &user).await;
            let gate = Gate::close(&database, statement, &user).await;
            let sent = send(change, &client, &user);
            gate.die(death, &mut mariadb, &database, &mut server, &conf).await;
            sent.await.unwrap();
            change.assert_once(client_of(&server).await, &user, statement).await;
        }
    }
    database.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_the_server_at_a_statement_of_any_change_leaves_each_event_once_in_a_file() {
    let database = Database::create(Sqlite).await;
    let (conf, _sandbox) = configuration(&database).await;
    let mut server = ServerProcess::start_beside(&conf).await;
    SlowGate::prepare(&database).await;
    for change in CHANGES {
        for (number, statement) in change.statements().iter().enumerate() {
            let user = format!("{change:?}-{number}");
            let mut client = client_of(&server).await;
            change.prepare(&mut client, &database, &user).await;
            let gate = SlowGate::close(&database, statement).await;
            let sent = send(change, &client, &user);
            gate.die(&mut server, &conf).await;
            sent.await.unwrap();
            change.assert_once(client_of(&server).await, &user, statement).await;
        }
    }
    database.assert_audit_is_clean().await;
}
