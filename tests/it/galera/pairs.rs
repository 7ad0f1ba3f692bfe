//! A call to one node, and right after it a call to another node, which must see the first one.

use std::{future::Future, time::Duration};

use billing_service::service::proto::{
    AdjustBalanceRequest, CommitReservationRequest, GetAccountRequest, GetTransactionRequest, ReserveQuotaRequest,
    SetAccountStatusRequest,
};
use futures_util::{StreamExt, stream};
use rstest::rstest;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status};
use tonic_types::StatusExt;

use self::Pair::{
    AccountOfCharge, ChargeOfCredit, ChargeOfFrozen, CheckOfCharge, CommitOfReserve, TransactionOfCharge,
};
use super::{Rounds, shared};
use crate::harness::{Service, charge, code_of, galera::Galera, load::credit, traced, wait::until};

const PAIRS: usize = 500;
/// Concurrent pairs.
const AT_ONCE: usize = 8;
/// Pairs with a lagging node.
const LAGGING: usize = 3;
/// The node lags for this time, unless the call is answered before. An answer within this time can't
/// contain the changes that the node has not applied.
const LAG: Duration = Duration::from_millis(500);
/// Time limit for a definite answer.
const CERTAINTY: Duration = Duration::from_secs(60);

/// Each account of the pairs has 1,000 free units of `asset`. Further units cost 0.05 each.
#[derive(Debug, Clone, Copy)]
pub enum Pair {
    CommitOfReserve,
    TransactionOfCharge,
    ChargeOfCredit,
    /// Refused.
    ChargeOfFrozen,
    AccountOfCharge,
    /// The check may see the charge a moment later.
    CheckOfCharge,
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_to_another_node_sees_the_call_before(
    #[values(CommitOfReserve, TransactionOfCharge, ChargeOfCredit, ChargeOfFrozen, AccountOfCharge)] pair: Pair,
) {
    let servers = two_servers(shared().await, &[]).await;
    let rounds = Rounds::begin();
    let (mut sent, mut wrong) = (0, Vec::new());
    while sent == 0 || !rounds.are_done() {
        let answers = stream::iter(sent..sent + PAIRS).map(|number| {
            let servers = &servers;
            async move {
                let user = format!("u{number}");
                pair.first(&servers[0], &user).await;
                pair.second(&servers[1], &user).await
            }
        });
        wrong.extend(
            answers.buffer_unordered(AT_ONCE).filter_map(async |answer| answer.err()).collect::<Vec<_>>().await,
        );
        sent += PAIRS;
    }
    println!("{pair:?}: {sent} pairs, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{pair:?}: {} of {sent} are wrong, such as {}", wrong.len(), wrong[0]);
    shared().await.catch_up().await;
    servers[0].assert_audit_is_clean().await;
}

/// A table lock on the second node blocks the replicated writes of the first node.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lags_gives_no_wrong_answer(
    #[values(CommitOfReserve, TransactionOfCharge, ChargeOfCredit, ChargeOfFrozen, AccountOfCharge, CheckOfCharge)]
    pair: Pair,
) {
    let servers = two_servers(shared().await, &[]).await;
    let mut wrong = Vec::new();
    for number in 0..LAGGING {
        let user = format!("u{number}");
        // Opens the account. No cache has read it.
        servers[0].deduct(charge(&user, "passport", 1)).await;
        shared().await.catch_up().await;
        let mut lock = servers[1].database.mysql().await;
        // Each first call writes one of these tables, and no second call reads them.
        let tables = "usage_daily READ, reservation_expiry READ, balance_adjustment READ, audit_event READ";
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("LOCK TABLES {tables}"))).execute(&mut lock).await.unwrap();
        pair.first(&servers[0], &user).await;
        let second = pair.second(&servers[1], &user);
        tokio::pin!(second);
        let at_once = timeout(LAG, &mut second).await;
        sqlx::raw_sql("UNLOCK TABLES").execute(&mut lock).await.unwrap();
        let answer = match at_once {
            Ok(answer) => answer,
            Err(_) => second.await,
        };
        wrong.extend(answer.err());
        shared().await.catch_up().await;
        // The shared cache must not have a stale entry either.
        let left = servers[0].check(&user, "asset", 1).await.free_remaining;
        if left != pair.free_left() {
            wrong.push(format!("{left} free units in the cache"));
        }
    }
    assert!(wrong.is_empty(), "{pair:?}: {} answers are wrong: {wrong:#?}", wrong.len());
    servers[0].assert_audit_is_clean().await;
}

impl Pair {
    /// Makes the first call.
    pub async fn first(self, server: &Service, user: &str) {
        let client = server.internal.clone();
        let done = match self {
            CommitOfReserve => definite(|| {
                let (mut client, request) = (client.clone(), reserve(user));
                async move { client.reserve_quota(request).await }
            })
            .await
            .map(drop),
            ChargeOfCredit => definite(|| {
                let (mut client, request) = (client.clone(), AdjustBalanceRequest { ..credit(user, 10.0) });
                async move { client.adjust_balance(request).await }
            })
            .await
            .map(drop),
            ChargeOfFrozen => definite(|| {
                let (mut client, user_id) = (client.clone(), user.to_owned());
                let (status, reason) = ("FROZEN".to_owned(), "for a test".to_owned());
                async move { client.set_account_status(SetAccountStatusRequest { user_id, status, reason }).await }
            })
            .await
            .map(drop),
            TransactionOfCharge | AccountOfCharge | CheckOfCharge => definite(|| {
                let (mut client, request) = (client.clone(), traced("t", charge(user, "asset", 7)));
                async move { client.deduct_quota(request).await }
            })
            .await
            .map(drop),
        };
        done.unwrap();
    }

    /// Makes the second call.
    ///
    /// # Errors
    /// The answer shows that the second node did not see the first call.
    pub async fn second(self, server: &Service, user: &str) -> Result<(), String> {
        let client = server.internal.clone();
        let (user_id, trace_id) = (user.to_owned(), "t".to_owned());
        match self {
            CommitOfReserve => {
                let request = CommitReservationRequest { user_id, trace_id, ..Default::default() };
                let committed = definite(|| {
                    let (mut client, request) = (client.clone(), request.clone());
                    async move { client.commit_reservation(request).await }
                });
                expect(committed.await.map(|reply| reply.free_count), 7)
            }
            TransactionOfCharge => {
                let request = GetTransactionRequest { user_id, trace_id };
                let found = definite(|| {
                    let (mut client, request) = (client.clone(), request.clone());
                    async move { client.get_transaction(request).await }
                });
                expect(found.await.map(|reply| (reply.status, reply.free_count)), ("COMMITTED".to_owned(), 7))
            }
            ChargeOfCredit => {
                let charged = definite(|| {
                    let (mut client, request) = (client.clone(), traced("t", charge(user, "asset", 1100)));
                    async move { client.deduct_quota(request).await }
                });
                expect(charged.await.map(|reply| (reply.paid_count, reply.balance)), (100, 5.0))
            }
            ChargeOfFrozen => {
                let charged = definite(|| {
                    let (mut client, request) = (client.clone(), traced("t", charge(user, "asset", 1)));
                    async move { client.deduct_quota(request).await }
                });
                let refused = charged.await.map_err(|status| code_of(&status).1);
                expect(Ok(refused.map(drop)), Err("10015".to_owned()))
            }
            AccountOfCharge => {
                let read = definite(|| {
                    let (mut client, request) = (server.public.clone(), GetAccountRequest { user_id: user_id.clone() });
                    async move { client.get_account(request).await }
                });
                let used = |name: &str, quotas: Vec<billing_service::service::proto::FreeQuota>| {
                    quotas.into_iter().find(|quota| quota.service_name == name).map(|quota| quota.used_quota)
                };
                expect(read.await.map(|reply| used("asset", reply.quotas)), Some(7))
            }
            // The warm-up of this server may have the account from before the charge. Redis tells the server of the charge
            // a moment after the reply.
            CheckOfCharge => {
                until("the check sees the charge", async || {
                    server.check(user, "asset", 1).await.free_remaining == self.free_left()
                })
                .await;
                Ok(())
            }
        }
    }

    /// Free units after both calls.
    fn free_left(self) -> i32 {
        match self {
            ChargeOfCredit => 0,
            ChargeOfFrozen => 1000,
            _ => 993,
        }
    }
}

/// In-process servers on the first two nodes.
pub async fn two_servers(cluster: &Galera, changes: &[(&str, &str)]) -> [Service; 2] {
    let [first, second, _] = cluster.create_database().await;
    let first = Service::start_on(first, changes).await;
    cluster.catch_up().await;
    [first, Service::start_on(second, changes).await]
}

fn reserve(user: &str) -> ReserveQuotaRequest {
    let (user_id, trace_id, service_name) = (user.into(), "t".into(), "asset".into());
    ReserveQuotaRequest { user_id, trace_id, service_name, count: 7, ..Default::default() }
}

/// Repeats a call until it has a definite answer.
pub async fn definite<T, F>(call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + CERTAINTY;
    loop {
        match call().await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) => {
                let details = status.get_error_details();
                let is_definite = details.error_info().is_some_and(|info| info.metadata["error_code"] != "10014");
                if is_definite || Instant::now() > deadline {
                    return Err(status);
                }
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(answer: Result<T, Status>, expected: T) -> Result<(), String> {
    match answer {
        Ok(answer) if answer == expected => Ok(()),
        Ok(answer) => Err(format!("got {answer:?}, expected {expected:?}")),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}
