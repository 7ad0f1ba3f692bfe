//! Deaths at each statement of the steps of reservations and of batches. Then the caller repeats its call with the same
//! trace id, and the account has changed once.

mod calls;
mod states;

use std::path::PathBuf;

use billing_service::{
    biz::settlement::sweep::JOB,
    service::proto::{GetTransactionRequest, ReleaseReservationRequest, ReserveQuotaRequest},
};
use rstest::rstest;
use tonic::Code;

use self::{
    calls::{
        answer, before, before_known, call, committed, finish, finished, items, items_of_known, limit, outcome,
        outcome_of_items, stream, until_durable,
    },
    states::state,
};
use crate::{
    cron::end_lease,
    events::{
        gate::Death,
        rounds::{DeathRounds, Dies, Round, end_lookups, zone_at_noon},
        set_alerts,
    },
    harness::{
        Backend::{self, MySql, Sqlite},
        Database,
        load::credit,
        wait::until,
    },
    metering::{Gateway, models_with},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The reserve of a new user, which opens the account.
    Opened,
    /// A reserve of a known account, in one packet.
    Reserved,
    /// A reserve of an account with a cap and an API key with quotas, which is locked and read before.
    ReservedLimited,
    Committed,
    /// Less is delivered than held.
    CommittedLess,
    /// More is delivered than held, and than the balance covers.
    CommittedMore,
    Released,
    /// The sweep of the server ends the reservation.
    Expired,
    /// A stream delivers more than it holds, and its report extends the hold.
    Reported,
    /// A stream finishes with more than it holds.
    Finished,
    /// A batch of charges of several users, which are locked and read before.
    Charged,
    /// A batch of charges of several known accounts, in one packet.
    ChargedKnown,
}

const STEPS: [Step; 12] = [
    Step::Opened,
    Step::Reserved,
    Step::ReservedLimited,
    Step::Committed,
    Step::CommittedLess,
    Step::CommittedMore,
    Step::Released,
    Step::Expired,
    Step::Reported,
    Step::Finished,
    Step::Charged,
    Step::ChargedKnown,
];

const OF_COMMITS: [&str; 6] = [
    "BEFORE UPDATE ON billing_transaction",
    "BEFORE INSERT ON billing_record",
    "BEFORE INSERT ON usage_daily",
    "BEFORE UPDATE ON free_quota",
    "AFTER INSERT ON event",
    "AFTER UPDATE ON user_balance",
];
const OF_THE_EXPIRY: &str = "BEFORE INSERT ON reservation_expiry";
const OF_THE_NEXT_SWEEP: &str = "BEFORE DELETE ON reservation_expiry";

/// The definite answer to a call.
#[derive(Debug, PartialEq)]
struct Answer {
    /// Absent if the answer does not say so.
    replayed: Option<bool>,
    /// The rest of the answer.
    reply: String,
}

impl Step {
    /// Makes the step, or makes it again. `None` without a definite answer.
    async fn make(self, round: &Round<'_>, open: Option<Gateway>) -> Option<Answer> {
        let (mut client, user) = (round.client.clone(), round.user);
        match self {
            Self::Opened | Self::Reserved | Self::ReservedLimited => {
                // A new user can pay nothing.
                let count = if self == Self::Opened { 600 } else { 1_050 };
                let reserve = ReserveQuotaRequest { count, ..call(user) };
                let reply = answer(client.reserve_quota(reserve).await)?;
                Some(outcome(reply, |reply| std::mem::take(&mut reply.replayed)))
            }
            Self::Committed | Self::CommittedLess | Self::CommittedMore => {
                let count = match self {
                    Self::CommittedLess => Some(600),
                    Self::CommittedMore => Some(1_300),
                    _ => None,
                };
                let reply = answer(client.commit_reservation(committed(user, count)).await)?;
                Some(outcome(reply, |reply| std::mem::take(&mut reply.replayed)))
            }
            Self::Released => {
                let request = ReleaseReservationRequest { user_id: user.into(), trace_id: "call".into() };
                let reply = answer(client.release_reservation(request).await)?;
                Some(outcome(reply, |reply| std::mem::take(&mut reply.replayed)))
            }
            Self::Expired => {
                end_lease(round.database, JOB).await;
                let request = GetTransactionRequest { user_id: user.into(), trace_id: "call".into() };
                let reply = answer(client.get_transaction(request).await)?;
                (reply.status == "EXPIRED").then(|| Answer { replayed: None, reply: format!("{reply:?}") })
            }
            Self::Reported => {
                let mut gateway = match open {
                    Some(gateway) => gateway,
                    None => Gateway::try_open(client, stream(user)).await.ok()?.0,
                };
                let reply = format!("{:?}", until_durable(&mut gateway).await?);
                Some(Answer { replayed: None, reply })
            }
            Self::Finished => {
                let opened = match open {
                    Some(gateway) => Ok(gateway),
                    None => Gateway::try_open(client.clone(), stream(user)).await.map(|(gateway, _)| gateway),
                };
                let mut reply = match opened {
                    Ok(mut gateway) => gateway.finish(finish()).await.ok()?,
                    // The stream has ended. The commit of its usage says how.
                    Err(ended) if ended.code() == Code::FailedPrecondition => {
                        answer(client.commit_reservation(finished(user)).await)?
                    }
                    Err(_) => return None,
                };
                reply.replayed = false;
                Some(Answer { replayed: None, reply: format!("{reply:?}") })
            }
            Self::Charged => {
                let reply = answer(client.batch_deduct_quota(items(user)).await)?;
                let (replayed, reply) = outcome_of_items(reply)?;
                assert!(replayed[0], "the charge before");
                Some(Answer { replayed: Some(replayed[1]), reply })
            }
            Self::ChargedKnown => {
                let reply = answer(client.batch_deduct_quota(items_of_known(user)).await)?;
                let (replayed, reply) = outcome_of_items(reply)?;
                assert!(replayed.iter().all(|of_item| *of_item == replayed[0]), "committed in part: {replayed:?}");
                Some(Answer { replayed: Some(replayed[0]), reply })
            }
        }
    }

    /// Whether the first packet that goes on after the death of the server makes the step.
    fn is_one_packet(self) -> bool {
        self != Self::Opened
    }
}

impl Dies for Step {
    /// The stream.
    type Open = Option<Gateway>;

    fn statements(self, on: Backend) -> Vec<&'static str> {
        let of_limits = ["BEFORE UPDATE ON tenant_quota", "BEFORE UPDATE ON api_key_quota"];
        let mut statements = match self {
            Self::Opened => vec!["AFTER INSERT ON user_balance", "BEFORE INSERT ON free_quota"],
            Self::Reserved => vec![
                "BEFORE UPDATE ON user_balance",
                "BEFORE INSERT ON billing_transaction",
                OF_THE_EXPIRY,
                "BEFORE UPDATE ON free_quota",
            ],
            Self::ReservedLimited => {
                let of_account = [
                    "BEFORE INSERT ON billing_transaction",
                    OF_THE_EXPIRY,
                    "BEFORE UPDATE ON free_quota",
                    "AFTER UPDATE ON user_balance",
                ];
                [of_account.as_slice(), &of_limits].concat()
            }
            // As much is charged as was held, so no count of the API key changes.
            Self::Committed => OF_COMMITS.into(),
            Self::CommittedLess | Self::CommittedMore | Self::Finished => {
                [OF_COMMITS.as_slice(), &of_limits[1..]].concat()
            }
            Self::Released | Self::Expired => {
                let of_account = [
                    "BEFORE UPDATE ON billing_transaction",
                    "BEFORE UPDATE ON free_quota",
                    "AFTER UPDATE ON user_balance",
                ];
                let of_next_sweep = [OF_THE_NEXT_SWEEP];
                let after = if self == Self::Expired { of_next_sweep.as_slice() } else { &[] };
                [of_account.as_slice(), &of_limits, after].concat()
            }
            Self::Reported => vec![
                "BEFORE UPDATE ON billing_transaction",
                "BEFORE UPDATE ON free_quota",
                "BEFORE UPDATE ON api_key_quota",
                "AFTER UPDATE ON user_balance",
            ],
            Self::Charged => {
                let of_charge = ["BEFORE INSERT ON billing_transaction"];
                [of_charge.as_slice(), &OF_COMMITS[1..], &of_limits].concat()
            }
            // A file has no packets.
            Self::ChargedKnown if on == Sqlite => Vec::new(),
            Self::ChargedKnown => [&["BEFORE INSERT ON billing_transaction"], &OF_COMMITS[1..]].concat(),
        };
        // A file lists no expiries.
        statements.retain(|statement| on == MySql || ![OF_THE_EXPIRY, OF_THE_NEXT_SWEEP].contains(statement));
        statements
    }

    async fn prepare(self, round: &Round<'_>) -> Option<Gateway> {
        let (mut client, database, user) = (round.client.clone(), round.database, round.user);
        if self == Self::Opened {
            return None;
        }
        if self == Self::Expired {
            states::hold_lease(database).await;
        }
        if [Self::Reserved, Self::ChargedKnown].contains(&self) {
            end_lookups(round).await;
        }
        set_alerts(&client, user, &[9.0], &[50, 80, 100]).await;
        client.adjust_balance(credit(user, 10.0)).await.unwrap();
        if ![Self::Reserved, Self::ChargedKnown].contains(&self) {
            limit(&mut client, user).await;
        }
        match self {
            Self::Opened | Self::Reserved | Self::ReservedLimited => {}
            Self::Reported | Self::Finished => {
                let (mut gateway, _) = Gateway::try_open(client, stream(user)).await.unwrap();
                if self == Self::Finished {
                    until_durable(&mut gateway).await.unwrap();
                }
                return Some(gateway);
            }
            Self::Charged => before(&mut client, user).await,
            Self::ChargedKnown => before_known(&mut client, user).await,
            _ => drop(client.reserve_quota(call(user)).await.unwrap()),
        }
        if self == Self::Expired {
            states::expire(database, user).await;
        }
        None
    }

    async fn attempt(self, round: &Round<'_>, open: Option<Gateway>) {
        self.make(round, open).await;
    }

    async fn assert_once(self, round: &Round<'_>, death: Death, statement: &str) {
        let after = format!("{self:?} after a death at {statement}");
        let mut first = None;
        until(&after, async || {
            first = self.make(round, None).await;
            first.is_some()
        })
        .await;
        let (first, again) = (first.unwrap(), self.make(round, None).await.unwrap());
        assert_eq!(again.reply, first.reply, "{after}");
        assert!(again.replayed != Some(false), "{after}");
        match death {
            Death::ServerBeforeCommit => assert!(first.replayed != Some(!self.is_one_packet()), "{after}"),
            Death::Server => assert!(first.replayed != Some(true), "{after}"),
            // The server may have settled it again before.
            Death::Database => {}
        }
        if statement == OF_THE_NEXT_SWEEP {
            until(&after, async || {
                end_lease(round.database, JOB).await;
                states::is_forgotten(round).await
            })
            .await;
        }
        assert_eq!(state(round).await, self.leaves(), "{after}");
        if self == Self::Reported {
            let (mut gateway, _) = Gateway::try_open(round.client.clone(), stream(round.user)).await.unwrap();
            gateway.finish(finish()).await.unwrap();
            assert_eq!(state(round).await, Self::Finished.leaves(), "{after}, and the finish");
        }
    }
}

fn configuration(database: &Database) -> PathBuf {
    let zone = zone_at_noon();
    let changes = [
        ("server.grpc.timeout", "5s"),
        // So that the charges of several users are one batch.
        ("billing.settlement.lanes", "1"),
        ("billing.sweep_interval", "1s"),
        ("billing.timezone", &zone),
    ];
    // A stream that was opened again ends its old connection, which must change nothing.
    let models = models_with("billing.streams", "{progress: 20ms, grace: 60s, idle_timeout: 60s}");
    database.config_file(&[models.as_slice(), &changes].concat())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_statement_of_a_step_leaves_it_made_once_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
) {
    DeathRounds::in_mariadb(death, configuration).await.run(&STEPS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_the_server_at_any_statement_of_a_step_leaves_it_made_once_in_a_file() {
    DeathRounds::in_a_file(configuration).await.run(&STEPS).await;
}
