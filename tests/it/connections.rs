//! Connections that the database closed, frozen processes, and wrong clocks.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use billing_service::{
    app::{self, App, cron::Job},
    biz::{
        jobs::audit,
        values::calendar::{Calendar, Clock, SystemClock},
    },
    service::proto::{GetTransactionRequest, SetUserLimitsRequest},
};
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use sqlx::{AssertSqlSafe, Connection};
use tokio_util::sync::CancellationToken;

use crate::{
    cron::{Counted, runner},
    harness::{Backend, Database, MySql, Service, Sqlite, TestClock, charge, progress::Unwatched, traced, wait::until},
};

/// Ends every connection to a database except this one, like `wait_timeout` or a restart.
async fn end_connections(database: &Database) {
    let mut own = database.mysql().await;
    let others = async |own: &mut sqlx::MySqlConnection| -> Vec<u64> {
        let found = "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist \
            WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        sqlx::query_scalar(found).fetch_all(own).await.unwrap()
    };
    // A regular job may open another one meanwhile.
    until("all connections have ended", async || {
        let found = others(&mut own).await;
        for id in &found {
            // Fails if the connection has ended meanwhile.
            let _ = sqlx::raw_sql(AssertSqlSafe(format!("KILL {id}"))).execute(&mut own).await;
        }
        found.is_empty()
    })
    .await;
    own.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_after_the_database_closed_idle_connections_is_answered() {
    let service = Service::start(MySql).await;
    service.adjust("u", 10.0).await;
    service.deduct(traced("t", charge("u", "asset", 1))).await;
    let transaction = GetTransactionRequest { user_id: "u".into(), trace_id: "t".into() };
    let limits = SetUserLimitsRequest { user_id: "u".into(), daily_limit: Some(1_000), ..Default::default() };
    for round in 0..3 {
        end_connections(&service.database).await;
        assert_eq!(service.get("/api/v1/billing/account?user_id=u").await.0, 200);
        end_connections(&service.database).await;
        let found = service.internal.clone().get_transaction(transaction.clone()).await.unwrap();
        assert_eq!(found.into_inner().trace_id, "t");
        for path in ["records?user_id=u", "stats/month?user_id=u", "usage?user_id=u", "recharges?user_id=u"] {
            end_connections(&service.database).await;
            assert_eq!(service.get(&format!("/api/v1/billing/{path}")).await.0, 200, "{path}");
        }
        end_connections(&service.database).await;
        service.internal.clone().set_user_limits(limits.clone()).await.unwrap();
        end_connections(&service.database).await;
        assert!(service.check(&format!("new-{round}"), "asset", 1).await.allowed);
        end_connections(&service.database).await;
        service.deduct(charge("u", "asset", 1)).await;
        end_connections(&service.database).await;
        assert_eq!(service.internal_get("/ready").await.0, 200);
    }
    service.assert_audit_is_clean().await;
}

/// Number of connections that are ended during an audit.
const ENDS: usize = 3;

/// Like `idle_transaction_timeout`, if the process freezes during a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_whose_snapshot_is_ended_goes_on() {
    let service = Service::start(MySql).await;
    service.deduct(charge("u", "asset", 1)).await;
    let database = &service.database;
    // Many users, so that each snapshot takes some time.
    let users = "INSERT INTO user_balance (user_balance_id, user_id, balance) \
        SELECT UUID(), CONCAT('many-', seq), 0 FROM seq_1_to_6000";
    database.execute(users).await;
    let config = database.config(&[]);
    let store = app::connect(&config).await.unwrap();
    let mut killer = database.mysql().await;
    let ended = Mutex::new(0);
    let kill = async {
        while *ended.lock().unwrap() < ENDS {
            // The audit is reading the rows of some users.
            let open = "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist \
                WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '%user_id BETWEEN%'";
            let open: Vec<u64> = sqlx::query_scalar(open).fetch_all(&mut killer).await.unwrap();
            for id in open {
                if sqlx::raw_sql(AssertSqlSafe(format!("KILL {id}"))).execute(&mut killer).await.is_ok() {
                    *ended.lock().unwrap() += 1;
                }
            }
        }
    };
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, TestClock::real());
    let audits = async {
        loop {
            let report =
                audit::audit(audit::Sources::new(&*store, &calendar), &Unwatched).await.expect("the audit goes on");
            assert_eq!((report.users, report.difference_count), (6_001, 0));
            if *ended.lock().unwrap() >= ENDS {
                return;
            }
        }
    };
    tokio::join!(kill, audits);
    app::close(&*store).await;
}

/// A machine clock with an offset.
struct Wrong(TimeDelta);

impl Clock for Wrong {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + self.0
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }

    fn is_of_machine(&self) -> bool {
        true
    }
}

#[rstest]
#[case::ahead(TimeDelta::hours(1), "ahead of the clock of the database")]
#[case::behind(TimeDelta::days(-1), "behind the clock of the database")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_far_from_the_clock_of_the_database_is_refused(#[case] off: TimeDelta, #[case] says: &str) {
    let database = Database::create(MySql).await;
    let refused = App::start_with_clock(database.config(&[]), Wrong(off)).await.err().expect("the clock is refused");
    let said = format!("{refused:#}");
    assert!(said.contains(says) && said.contains("data.database.max_clock_skew"), "{said}");
    // A running cron whose clock is set wrong runs no job.
    let config = Arc::new(database.config(&[]));
    let store = app::connect(&config).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Wrong(off));
    let jobs = app::cron::Runner::new(config, store, clock, CancellationToken::new());
    for job in [Job::ExpireReservations, Job::ResetQuotas, Job::Audit] {
        let display = Counted::all();
        for error in [
            jobs.run_now(job, false, &display).await.err(),
            jobs.run_due(job, &display).await.err(),
            jobs.dry_run(job, &display).await.err(),
        ] {
            assert!(error.expect("the clock is refused").to_string().contains(says), "{job}");
        }
    }
    // Within the configured limit, the service starts.
    let config = database.config(&[("data.database.max_clock_skew", "100000s")]);
    App::start_with_clock(config, Wrong(off)).await.unwrap().stop().await;
}

/// A SQLite file has the clock of the machine.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_is_measured_against_mysql_and_shown(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let metrics = service.metrics().await;
    assert!(metrics.contains("billing_clock_skew_seconds 0\n"), "a test clock is not measured: {metrics}");
    let database = Database::create(on).await;
    let app = App::start_with_clock(database.config(&[]), Wrong(TimeDelta::seconds(-3))).await.unwrap();
    let url = format!("http://{}/metrics", app.grpc_addr);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let skew = text.lines().find_map(|line| line.strip_prefix("billing_clock_skew_seconds ")).unwrap();
    let skew: f64 = skew.parse().unwrap();
    match on {
        MySql => assert!((skew + 3.0).abs() < 1.0, "{skew}"),
        Sqlite => assert_eq!(skew, 0.0),
    }
    app.stop().await;
    let clock = TestClock::real();
    clock.advance(TimeDelta::days(2));
    let report = runner(database.config(&[]), &clock, CancellationToken::new()).await;
    assert!(report.run_now(Job::Audit, false, &Counted::all()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_an_empty_password_logs_in() {
    let mut database = Database::create(MySql).await;
    let user = format!("nopw_{}", std::process::id());
    database
        .execute(&format!(
            "CREATE OR REPLACE USER '{user}'@'127.0.0.1' IDENTIFIED BY ''; GRANT ALL ON *.* TO '{user}'@'127.0.0.1'"
        ))
        .await;
    for login in [format!("{user}:@tcp"), format!("{user}@tcp")] {
        database.source = format!("{login}{}", &database.source[database.source.find('(').unwrap()..]);
        let source = database.source.clone();
        let same = Database::on(source);
        let store = app::connect(&same.config(&[])).await.unwrap();
        app::close(&*store).await;
    }
    // A user with a password is refused without it, and no text shows the password.
    database.execute(&format!("ALTER USER '{user}'@'127.0.0.1' IDENTIFIED BY 'topsecret'")).await;
    let conf = database.config(&[("data.database.connect_timeout", "200ms")]);
    let refused = format!("{:#}", app::connect(&conf).await.err().expect("the clock is refused"));
    assert!(refused.contains("Access denied") && !refused.contains("topsecret"), "{refused}");
}
