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
    all, data, events_of,
    gate::Death,
    rounds::{DeathRounds, Dies, Round},
    types,
};
use crate::{
    harness::{
        Backend, Database,
        caller::Client,
        charge,
        load::credit,
        payments::{failed, sandbox, settings, signed, success},
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
}

impl Dies for Change {
    type Open = ();

    fn statements(self, _: Backend) -> Vec<&'static str> {
        let statements = match self {
            Self::Refused | Self::Frozen => ["AFTER INSERT ON event", "BEFORE UPDATE ON user_balance"],
            Self::Refunded => ["AFTER INSERT ON event", "BEFORE INSERT ON charge_refund"],
            Self::Credited => ["AFTER INSERT ON event", "BEFORE UPDATE ON recharge_order"],
            Self::Failed => ["BEFORE INSERT ON event", "BEFORE UPDATE ON recharge_order"],
            Self::Returned => ["AFTER INSERT ON event", "BEFORE INSERT ON recharge_refund"],
            Self::ChargedBack => ["BEFORE INSERT ON event", "BEFORE UPDATE ON user_balance"],
            Self::Unapplied => ["BEFORE INSERT ON event", "BEFORE INSERT ON unapplied_payment"],
            Self::Read => ["BEFORE UPDATE ON event", "BEFORE UPDATE ON event_feed"],
        };
        statements.into()
    }

    async fn prepare(self, round: &Round<'_>) {
        let Round { database, user, .. } = *round;
        let mut client = round.client.clone();
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

    async fn attempt(self, round: &Round<'_>, (): ()) {
        self.make(round.client.clone(), round.user).await;
    }

    async fn assert_once(self, round: &Round<'_>, _: Death, statement: &str) {
        let Round { client, user, .. } = round;
        until("the change has an answer", async || self.make(client.clone(), user).await).await;
        assert!(self.make(client.clone(), user).await);
        let events = match self {
            Self::Unapplied => {
                let of_payment = |event: &_| data(event)["payment_order_id"] == *user;
                all(client).await.into_iter().filter(of_payment).collect()
            }
            _ => events_of(client, user).await,
        };
        let mut expected = vec![self.leaves()];
        if matches!(self, Self::Returned | Self::ChargedBack) {
            expected.insert(0, "recharge.succeeded");
        }
        assert_eq!(types(&events), expected, "{self:?} after a death at {statement}");
    }
}

fn order_of(user: &str) -> String {
    format!("order-{user}")
}

fn frozen(user: &str) -> SetAccountStatusRequest {
    SetAccountStatusRequest { user_id: user.into(), status: "FROZEN".into(), reason: "for a test".into() }
}

/// Takes what callbacks say if they are signed.
fn configuration(database: &Database, sandbox: &Sandbox) -> PathBuf {
    database.config_file(&settings(sandbox, &[("server.grpc.timeout", "5s")]))
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_a_statement_of_any_change_leaves_each_event_once_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
) {
    let sandbox = sandbox(Switches::default()).await;
    DeathRounds::in_mariadb(death, |database| configuration(database, &sandbox)).await.run(&CHANGES).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_the_server_at_a_statement_of_any_change_leaves_each_event_once_in_a_file() {
    let sandbox = sandbox(Switches::default()).await;
    DeathRounds::in_a_file(|database| configuration(database, &sandbox)).await.run(&CHANGES).await;
}
