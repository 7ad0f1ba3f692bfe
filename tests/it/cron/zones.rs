//! Days, months and times do not depend on the time zone of the machine or the database.

use std::process::Output;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{cron, migrated, run, runs, stderr, stdout, sum, terminate};
use crate::harness::{
    Database, Sqlite, http_client,
    mariadb::OwnServer,
    process::{SERVER, ServerProcess},
    wait::until,
};

/// 25 hours apart, so the two days always differ.
const ZONES: [&str; 2] = ["Pacific/Kiritimati", "Pacific/Niue"];

async fn in_zone(database: &Database, zone: &str, arguments: &[&str]) -> Output {
    let mut cron = cron(&database.config_file(&[]), arguments);
    cron.env("TZ", zone);
    run(cron).await
}

#[tokio::test]
async fn schedules_do_not_depend_on_the_zone_of_the_machine() {
    let database = migrated(Database::create(Sqlite).await).await;
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    // The first and the last list are equal, unless a period begins meanwhile.
    loop {
        let [first, one, other, last] =
            ["UTC", ZONES[0], ZONES[1], "UTC"].map(|zone| in_zone(&database, zone, &["--list"]));
        let [first, one, other, last] = [first.await, one.await, other.await, last.await].map(|list| stdout(&list));
        if first == last {
            assert!(first.contains("reset-quotas"), "{first}");
            assert_eq!((&one, &other), (&first, &first));
            return;
        }
        assert!(Instant::now() < deadline);
    }
}

async fn call(base: &str, path: &str, body: Option<Value>) -> Value {
    let client = http_client();
    let request = match body {
        Some(body) => client.post(format!("{base}{path}")).body(body.to_string()),
        None => client.get(format!("{base}{path}")),
    };
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zones_of_the_machine_and_the_database_have_no_effect() {
    let mariadb = OwnServer::start_with(&["--default-time-zone=-11:00"]).await;
    let database = Database::on(mariadb.create_database().await);
    let conf = database.config_file(&[]);
    let zone = format!("TZ={}", ZONES[0]);
    let arguments = [&zone, SERVER, "-conf", conf.to_str().unwrap()];
    let server = ServerProcess::start_binary("env", &arguments, "serving", "grpc_addr");
    let before = Utc::now();
    let internal = "/internal/v1/billing";
    call(
        &server.grpc,
        &format!("{internal}/adjust"),
        Some(json!({"user_id": "u", "amount": 5, "reason": "x", "adjustment_id": "a"})),
    )
    .await;
    let charge = json!({"user_id": "u", "service_name": "asset", "count": 1010, "trace_id": "t"});
    assert_eq!(call(&server.grpc, &format!("{internal}/deduct"), Some(charge)).await["paid_count"], 10);
    let hold = json!({"user_id": "u", "service_name": "asset", "count": 1, "trace_id": "h"});
    assert_eq!(call(&server.grpc, &format!("{internal}/reserve"), Some(hold)).await["status"], "PENDING");

    // Missed periods are run in this zone too, and the periods are the same as on any machine.
    let mut scheduled = cron(&conf, &[]);
    let scheduled = scheduled.env("TZ", ZONES[1]).spawn().unwrap();
    let done = async |job: &'static str| runs(&database, job).await.iter().any(|run| run[2] == "1");
    until("the months are opened", async || done("reset-quotas").await && done("audit").await).await;
    terminate(&scheduled);
    let scheduled = super::output_of(scheduled).await;
    assert_eq!(scheduled.status.code(), Some(0), "{}", stderr(&scheduled));
    let after = Utc::now();
    let shanghai = |at: DateTime<Utc>| at.with_timezone(&chrono_tz::Asia::Shanghai);
    let (today, month) = (shanghai(before).date_naive(), shanghai(before).format("%Y-%m").to_string());
    if shanghai(after).date_naive() != today {
        return; // Midnight passed during the test, so the expected day is ambiguous.
    }
    let period = &runs(&database, "reset-quotas").await[0][0];
    let began: DateTime<Utc> = period.split_once(' ').unwrap().0.parse().unwrap();
    assert_eq!(shanghai(began).format("%Y-%m-%d %H:%M:%S").to_string(), format!("{month}-01 00:00:00"));

    for (column, expected) in [("reset_month", &month), ("usage_date", &today.to_string())] {
        let table = if column == "reset_month" { "free_quota WHERE used_quota > 0" } else { "usage_daily" };
        let rows = database.rows(&[column], &format!("FROM {table} GROUP BY {column}")).await;
        assert_eq!(rows, [[expected.clone()]], "{column}");
    }
    assert_every_time_is_utc(&database, before, after).await;
    for arguments in [&["--once", "reset-quotas"][..], &["--once", "audit"]] {
        let ran = in_zone(&database, ZONES[0], arguments).await;
        assert_eq!(ran.status.code(), Some(0), "{}", stderr(&ran));
        assert!(sum(&ran).contains(" 1 user"), "{}", stdout(&ran));
    }
    assert!(!done_by_hand(&database).await);
    drop(server);
}

async fn done_by_hand(database: &Database) -> bool {
    runs(database, "audit").await.iter().any(|run| run[0].ends_with("by hand"))
}

/// Checks every time in every table.
async fn assert_every_time_is_utc(database: &Database, before: DateTime<Utc>, after: DateTime<Utc>) {
    let of_schema = "FROM information_schema.columns WHERE table_schema = DATABASE() \
                     AND data_type IN ('datetime', 'timestamp') AND column_name <> 'installed_on'";
    let mut seen = 0;
    for column in database.rows(&["table_name", "column_name"], of_schema).await {
        let (table, name) = (&column[0], &column[1]);
        let times = database.rows(&[name], &format!("FROM {table} WHERE {name} IS NOT NULL")).await;
        for time in times {
            let time = NaiveDateTime::parse_from_str(&time[0], "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc();
            // Columns with whole seconds drop the fraction. Holds and leases end later.
            let (from, to) = (before - TimeDelta::seconds(2), after + TimeDelta::minutes(11));
            assert!((from..to).contains(&time), "{table}.{name}: {time}, now {after}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
