//! Two processes that use up the same limit.

use billing_service::service::proto::CheckQuotaReply;
use futures_util::future::join_all;
use rstest::rstest;
use tonic::Code;

use super::servers::{bind_key, cap, check, keyed_call, keyed_charge, within_a_second};
use crate::harness::{Backend, Database, MySql, Sqlite, caller::Client, charge, code_of, load, process::ServerProcess};

/// A limit that covers fifty calls.
#[derive(Clone, Copy)]
enum Limit {
    Balance,
    DailyCap,
    ApiKey,
}

const CALLS: usize = 200;
const COVERED: usize = 50;

async fn prepare(client: &Client, limit: Limit) {
    match limit {
        Limit::Balance => {
            client.clone().deduct_quota(charge("u", "asset", 1_000)).await.unwrap();
            client.clone().adjust_balance(load::credit("u", 2.5)).await.unwrap();
        }
        Limit::DailyCap => cap(client, Some(50), None).await,
        Limit::ApiKey => bind_key(client, "requests", 50.0).await,
    }
}

/// The reply of a check that follows from the tables.
async fn by_the_database(database: &Database, limit: Limit) -> CheckQuotaReply {
    let number = async |column: &str, from: &str| -> i32 {
        let rows = database.rows(&[column], from).await;
        rows.first().map_or(0, |row| row[0].parse::<f64>().unwrap() as i32)
    };
    let used = number("used_quota", "FROM free_quota WHERE service_name = 'asset'").await;
    let micros = number("MICROS(balance)", "FROM user_balance").await;
    let (reason, error_code) = match limit {
        Limit::Balance => ("insufficient balance", "10001"),
        Limit::DailyCap => ("daily limit", "10002"),
        Limit::ApiKey => ("api key quota", "10002"),
    };
    let daily_remaining = match limit {
        Limit::DailyCap => Some(50 - number("daily_used", "FROM tenant_quota").await),
        _ => None,
    };
    CheckQuotaReply {
        allowed: false,
        reason: reason.into(),
        free_remaining: 1_000 - used,
        free_remaining_units: i64::from(1_000 - used),
        balance: f64::from(micros) / 1e6,
        daily_remaining,
        monthly_remaining: None,
        estimated_cost: if used == 1_000 { 0.05 } else { 0.0 },
        error_code: error_code.into(),
        ..Default::default()
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_use_up_a_limit_exactly_and_both_show_it(
    #[values(MySql, Sqlite)] on: Backend,
    #[values(Limit::Balance, Limit::DailyCap, Limit::ApiKey)] limit: Limit,
) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
    let processes = [ServerProcess::start_beside(&conf).await, ServerProcess::start_beside(&conf).await];
    let clients = join_all(processes.iter().map(|process| Client::connect(process.grpc.clone()))).await;
    let clients: Vec<Client> = clients.into_iter().map(Result::unwrap).collect();
    prepare(&clients[0], limit).await;
    for client in &clients {
        within_a_second("both let the call pass", async || check(client, keyed_call()).await.allowed).await;
    }

    let charges = (0..CALLS).map(|number| {
        let mut client = clients[number % 2].clone();
        async move { client.deduct_quota(keyed_charge()).await }
    });
    let (made, refused): (Vec<_>, Vec<_>) = join_all(charges).await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (COVERED, CALLS - COVERED));
    let refusal = match limit {
        Limit::Balance => (Code::FailedPrecondition, "10001".to_owned()),
        Limit::DailyCap | Limit::ApiKey => (Code::ResourceExhausted, "10002".to_owned()),
    };
    for answer in refused {
        assert_eq!(code_of(&answer.unwrap_err()), refusal);
    }
    let truth = by_the_database(&database, limit).await;
    for client in &clients {
        within_a_second("its checks agree with the database", async || check(client, keyed_call()).await == truth)
            .await;
    }
    database.assert_audit_is_clean().await;
}
