//! Kills under load: of the server, of the database, of connections and of calls. Each acknowledged
//! request counts once, and every request gets a definite answer.

use std::time::Duration;

use rstest::rstest;
use tokio::{sync::watch, task::JoinSet};

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite,
    abandon::{Abandoned, abandon_calls},
    caller::{Caller, Dice, connections},
    charge,
    load::Load,
    mariadb::{OwnServer, is_tidb},
    process::ServerProcess,
    traced,
};

/// Fewest acknowledged charges and steps of reservations between two kills.
const BETWEEN_KILLS: usize = 200;

/// Number of kills: `usual`, or the value of BILLING_CRASH_ROUNDS.
fn rounds(usual: usize) -> usize {
    std::env::var("BILLING_CRASH_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_charge_survives_kills_of_the_server(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
    let mut server = ServerProcess::start_beside(&conf).await;
    let mut load = Load::start(&[&server.grpc]).await;
    for _ in 0..rounds(20) {
        load.acknowledges(BETWEEN_KILLS).await;
        assert!(load.in_flight() > 0);
        server.kill();
        server = ServerProcess::start_beside(&conf).await;
        load.send_to(&[&server.grpc]);
    }
    load.acknowledges(BETWEEN_KILLS).await;
    assert!(load.unanswered() > 0, "no call was without an answer");
    load.finish().await.assert_kept_in(&database).await;
}

/// With a long retry_timeout, lanes wait for the database, while callers may retry. With a short one, lanes
/// give up with an unknown outcome.
#[rstest]
#[case::waited_for("10s", false)]
#[case::given_up("0.1s", true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_charge_survives_kills_of_the_database(
    #[case] retry_timeout: &str,
    #[case] callers_notice: bool,
) {
    let mut mariadb = OwnServer::start().await;
    let database = Database::on(mariadb.create_database().await);
    let conf =
        database.config_file(&[("server.grpc.timeout", "0.3s"), ("billing.settlement.retry_timeout", retry_timeout)]);
    let server = ServerProcess::start_beside(&conf).await;
    let mut load = Load::start(&[&server.grpc]).await;
    for _ in 0..rounds(20).div_ceil(2) {
        load.acknowledges(BETWEEN_KILLS).await;
        assert!(load.in_flight() > 0);
        mariadb.kill_and_start_again().await;
    }
    load.acknowledges(BETWEEN_KILLS).await;
    assert!(!callers_notice || load.unanswered() > 0, "no call was without an answer");
    load.finish().await.assert_kept_in(&database).await;
}

/// The open transaction of a killed server still holds locks, and the other server waits for them. A caller
/// without an answer retries on the other server.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_all_users_while_one_of_them_is_killed(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[("server.grpc.timeout", "2s")]);
    let stays = ServerProcess::start_beside(&conf).await;
    let mut dies = ServerProcess::start_beside(&conf).await;
    let mut load = Load::start(&[&stays.grpc, &dies.grpc]).await;
    for _ in 0..rounds(20).div_ceil(4) {
        load.acknowledges(BETWEEN_KILLS).await;
        assert!(load.in_flight() > 0);
        dies.kill();
        load.send_to(&[&stays.grpc]);
        dies = ServerProcess::start_beside(&conf).await;
        load.send_to(&[&stays.grpc, &dies.grpc]);
    }
    load.acknowledges(BETWEEN_KILLS).await;
    load.finish().await.assert_kept_in(&database).await;
}

/// Kills the connections of the server at any moment. Every other time, it only kills their statements, and
/// the connections stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_under_load_lose_and_double_nothing() {
    let database = Database::create(MySql).await;
    let server = ServerProcess::start_beside(&database.config_file(&[])).await;
    let mut load = Load::start(&[&server.grpc]).await;
    let mut killed = 0;
    for round in 0..rounds(20) * 3 {
        load.acknowledges(BETWEEN_KILLS / 10).await;
        let what = if round % 2 == 0 { "CONNECTION" } else { "QUERY" };
        let others = "FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        for id in database.rows(&["id"], others).await {
            // Fails if the connection has ended meanwhile.
            let kill = sqlx::AssertSqlSafe(format!("KILL {what} {}", id[0]));
            killed += usize::from(sqlx::raw_sql(kill).execute(&mut database.mysql().await).await.is_ok());
        }
    }
    assert!(killed >= rounds(20) * 3, "{killed}");
    load.finish().await.assert_kept_in(&database).await;
}

/// The first server has a short retry_timeout, so that it also gives up in the middle of transactions. A slow
/// machine gives up all of them, so half of the calls go to a server that makes them. All calls are then
/// repeated on the latter.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_aborted_calls_leave_no_connection_inside_a_transaction(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[("billing.settlement.retry_timeout", "0.02s")]);
    let server = ServerProcess::start_beside(&conf).await;
    let mut abandoned = abandon_calls("hasty", &server.grpc, 5000).await;
    assert_no_transaction_stays_open(&database).await;

    // The first server still charges, and other connections see the acknowledged charge.
    let servers = watch::Sender::new(connections(&[&server.grpc]));
    let mut caller = Caller::new(servers.subscribe(), Dice(0));
    caller.charge(traced("after", charge("after", "asset", 1))).await;
    let charged = database.rows(&["used_quota"], "FROM free_quota WHERE user_id = 'after' AND used_quota > 0").await;
    assert_eq!(charged, [["1"]]);
    assert_no_transaction_stays_open(&database).await;

    drop(server);
    let server = ServerProcess::start_beside(&database.config_file(&[])).await;
    abandoned.append(abandon_calls("patient", &server.grpc, 5000).await);
    assert_no_transaction_stays_open(&database).await;

    servers.send_replace(connections(&[&server.grpc]));
    ask_again(&caller, abandoned).await;
    let (found, all) = caller.books.found_of_all();
    println!("{found} of {all} abandoned charges were made");
    assert!(found > 0 && found < all, "{found} of {all}");
    caller.books.assert_kept_in(&database).await;
}

/// Their locks would block every other process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_write_nothing_leave_no_transaction_open() {
    let service = Service::start(MySql).await;
    service.deduct(traced("t", charge("u", "asset", 1000))).await;
    assert!(service.deduct(traced("t", charge("u", "asset", 1000))).await.replayed);
    assert_no_transaction_stays_open(&service.database).await;
    assert!(service.try_deduct(charge("u", "asset", 1)).await.is_err());
    assert_no_transaction_stays_open(&service.database).await;
    service.check("new", "asset", 1).await;
    assert_no_transaction_stays_open(&service.database).await;
}

/// Sends all abandoned requests again with a few concurrent callers, until each has a definite answer.
async fn ask_again(caller: &Caller, abandoned: Abandoned) {
    let mut callers = JoinSet::new();
    for credits in abandoned.credits.chunks(200) {
        let (mut caller, credits) = (caller.clone(), credits.to_vec());
        callers.spawn(async move {
            for credit in credits {
                caller.credit(credit).await;
            }
        });
    }
    for charges in abandoned.charges.chunks(200) {
        let (mut caller, charges) = (caller.clone(), charges.to_vec());
        callers.spawn(async move {
            for charge in charges {
                caller.charge_again(charge).await;
            }
        });
    }
    callers.join_all().await;
}

/// Waits until the service has no open transaction and makes no charge.
async fn assert_no_transaction_stays_open(database: &Database) {
    let open = async || match database.backend {
        MySql if is_tidb() => {
            let of_service = "FROM information_schema.tidb_trx WHERE db = DATABASE() AND session_id <> CONNECTION_ID()";
            database.rows(&["session_id", "state", "start_time"], of_service).await
        }
        MySql => {
            let of_service = "FROM information_schema.innodb_trx JOIN information_schema.processlist \
                 ON id = trx_mysql_thread_id WHERE db = DATABASE()";
            database.rows(&["id", "command", "trx_started"], of_service).await
        }
        Sqlite => {
            let begun = sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut database.sqlite().await).await;
            begun.err().map(|error| vec![error.to_string()]).into_iter().collect()
        }
    };
    let made = async || database.rows(&["COUNT(*)"], "FROM billing_transaction").await;
    let mut last = (open().await, made().await);
    for _ in 0..100 {
        // InnoDB refreshes its list of transactions at most once in 100 ms.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let now = (open().await, made().await);
        if last == now && now.0.is_empty() {
            return;
        }
        last = now;
    }
    panic!("a transaction stays open: {:?}", last.0);
}
