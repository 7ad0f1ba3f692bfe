//! Databases that release 0.1.0 filled. `release_0_1_0` has a dump of each, and the replies of that release.

use billing_service::{app, biz::values::calendar::Clock, sandbox::Switches};
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    archive::move_all_but,
    harness::{
        Backend, Database, MySql, Service, Sqlite, TestClock,
        payments::{sandbox, settings, signed, success},
    },
    refunds::refund,
    schema::definitions,
};

/// The configuration of the release, beside that of all tests.
pub(super) const SETTINGS: [(&str, &str); 3] = [
    ("billing.free_quotas.llm", "1000"),
    ("billing.model_services", "{llm: tokens}"),
    ("billing.models", "{gpt-4.1: {input: 15, cached_input: 4, output: 60}}"),
];
/// The release gave the replies to the reads then. Two reservations were pending.
pub(super) const LAST_READ: &str = "2026-10-20T06:00:00Z";
/// The months of the release are closed.
const LATER: &str = "2027-01-05T04:00:00Z";
/// The newest migration of the release.
pub(super) const NEWEST: i64 = 13;

/// The dump, and the replies.
pub(super) fn fixture(on: Backend) -> (String, Value) {
    let name = match on {
        MySql => "mariadb",
        Sqlite => "sqlite",
    };
    let [dump, replies] = ["sql", "json"].map(|kind| {
        let file = format!("{}/tests/it/upgrade/release_0_1_0/{name}.{kind}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(file).unwrap()
    });
    (dump, serde_json::from_str(&replies).unwrap())
}

pub(super) async fn filled(on: Backend) -> Database {
    let database = Database::empty(on).await;
    if on == Sqlite {
        std::fs::File::create(&database.source).unwrap();
    }
    database.execute(&fixture(on).0).await;
    database
}

/// Fails if a field of an old reply is missing in the new one, or has another value. The new one may have more fields.
fn assert_kept(old: &Value, new: &Value, path: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                assert_kept(value, new.get(name).unwrap_or(&Value::Null), &format!("{path} {name}"));
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            assert_eq!(old.len(), new.len(), "{path}: {new:?}");
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                assert_kept(old, new, &format!("{path} {at}"));
            }
        }
        _ => assert_eq!(new, old, "{path}"),
    }
}

impl Service {
    /// Makes each of the calls again. Returns the status and the reply of each.
    pub(super) async fn repeated(&self, calls: &Value) -> Vec<(u16, Value)> {
        let mut replies = Vec::new();
        for call in calls.as_array().unwrap() {
            replies.push(self.post(call["path"].as_str().unwrap(), call["body"].to_string()).await);
        }
        replies
    }

    pub(super) async fn read_again(&self, reads: &Value) -> Vec<(u16, Value)> {
        let mut replies = Vec::new();
        for read in reads.as_array().unwrap() {
            let path = read["path"].as_str().unwrap();
            replies.push(if read["public"] == true { self.get(path).await } else { self.internal_get(path).await });
        }
        replies
    }

    async fn post_json(&self, path: &str, body: Value) -> Value {
        let (status, reply) = self.post(&format!("/internal/v1/billing/{path}"), body.to_string()).await;
        assert_eq!(status, 200, "{path}: {reply}");
        reply
    }

    /// Refunds paid units of a charge of ann.
    async fn refund_old(&self, trace: &str, count: i32, amount: f64) {
        let before = self.account("ann").await.balance;
        let request = refund("ann", trace, &format!("refund-{trace}"), count);
        let reply = self.internal.clone().refund_charge(request).await.unwrap().into_inner();
        assert_eq!((reply.paid_count, reply.amount), (count, amount), "{trace}");
        let after = self.account("ann").await.balance;
        assert_eq!((after * 100.0).round(), ((before + amount) * 100.0).round(), "{trace}");
    }

    /// Used requests, tokens and amount of the API key.
    async fn use_of_the_key(&self) -> [f64; 3] {
        let (_, reply) = self.internal_get("/internal/v1/billing/api-keys/key-1/quota").await;
        ["requests", "tokens", "amount"].map(|kind| {
            let mut quotas = reply["quotas"].as_array().unwrap().iter();
            quotas.find(|quota| quota["quota_type"] == kind).unwrap()["used"].as_f64().unwrap()
        })
    }
}

pub(super) fn assert_all_kept(old: &Value, new: &[(u16, Value)]) {
    let old = old.as_array().unwrap();
    assert!(old.len() > 5 && old.len() == new.len());
    for (old, (status, reply)) in old.iter().zip(new) {
        let what = format!("{} {}", old["path"], old["body"]);
        assert_eq!(old["status"], *status, "{what}: {reply}");
        assert_kept(&old["reply"], reply, &what);
    }
}

#[rstest]
#[tokio::test]
async fn a_database_of_release_0_1_0_keeps_its_replies_and_its_history_goes_on(#[values(MySql, Sqlite)] on: Backend) {
    let database = filled(on).await;
    let sandbox = sandbox(Switches::default()).await;
    let (config, clock) = (database.config(&settings(&sandbox, &SETTINGS)), TestClock::real());
    clock.set(LAST_READ);
    let service = Service::start_with_clock(database, config, clock).await;
    service.assert_audit_is_clean().await;

    // Repeated calls change nothing, and the same ids with other content are refused.
    let (_, release) = fixture(on);
    let expected: [&Value; 3] = [&release["reads"], &release["replays"], &release["conflicts"]];
    assert_all_kept(expected[0], &service.read_again(expected[0]).await);
    assert_all_kept(expected[1], &service.repeated(expected[1]).await);
    assert_all_kept(expected[2], &service.repeated(expected[2]).await);
    assert_all_kept(expected[0], &service.read_again(expected[0]).await);

    pending_reservations_are_committed(&service).await;
    // One of a month whose records the release moved to the archive, and one of this month.
    for (trace, count, amount) in [("paid-1", 2, 0.1), ("mixed-2", 4, 0.2)] {
        service.refund_old(trace, count, amount).await;
    }
    a_pending_top_up_is_credited(&service).await;
    limits_go_on(&service).await;
    service.assert_audit_is_clean().await;

    let before = (service.read_again(expected[0]).await, service.repeated(expected[1]).await);
    service.clock.set(LATER);
    let sealed = service.seal().await;
    // The account of fay has no history.
    assert_eq!((sealed.accounts, sealed.left, sealed.lacking), (5, 0, 0));
    service.assert_seals_hold().await;
    // The release had moved the records of August.
    let moved = move_all_but(&service.database, &service.clock, 1).await;
    assert!(moved.records > 0 && moved.transactions > 0, "{moved:?}");
    service.assert_seals_hold().await;
    let left = "FROM billing_transaction WHERE status NOT IN ('ARCHIVED', 'RELEASED', 'EXPIRED')";
    assert_eq!(service.database.rows(&["COUNT(*)"], left).await, [["0"]]);
    service.clock.set(LAST_READ);
    let after = (service.read_again(expected[0]).await, service.repeated(expected[1]).await);
    assert_eq!(after, before);
    service.clock.set(LATER);
    service.refund_old("mixed-1", 1, 0.05).await;
    service.assert_seals_hold().await;
}

async fn pending_reservations_are_committed(service: &Service) {
    let ann = service.account("ann").await;
    let reply = service.post_json("commit", json!({"user_id": "ann", "trace_id": "pending-1", "count": 12})).await;
    assert_eq!((&reply["free_count"], &reply["paid_count"], &reply["amount"]), (&json!(0), &json!(12), &json!(0.6)));
    let now = service.account("ann").await;
    assert_eq!((now.held, ann.held), (0.0, 1.5));
    assert_eq!((now.balance * 100.0).round(), ((ann.balance - 0.6) * 100.0).round());

    // The prices of the reserve: a row of price_version.
    let usage = json!({"input_tokens": 500, "output_tokens": 500});
    let reply = service.post_json("commit", json!({"user_id": "dan", "trace_id": "pending-2", "usage": usage})).await;
    assert_eq!((&reply["paid_count"], &reply["amount"]), (&json!(1000), &json!(0.03)));
    assert_eq!(service.account("dan").await.held, 0.0);
}

async fn a_pending_top_up_is_credited(service: &Service) {
    let (_, list) = service.get("/api/v1/billing/recharges?user_id=eve&status=pending").await;
    let [order, payment] = ["order_id", "payment_order_id"].map(|name| list["orders"][0][name].as_str().unwrap());
    let callback = signed(success(order, payment, 8.5), service.clock.now());
    service.internal.clone().recharge_callback(callback).await.unwrap();
    assert_eq!(service.account("eve").await.balance, 58.2);
}

async fn limits_go_on(service: &Service) {
    let [requests, tokens, amount] = service.use_of_the_key().await;
    let charge =
        json!({"user_id": "ann", "service_name": "asset", "count": 2, "trace_id": "new-1", "api_key_id": "key-1"});
    assert_eq!(service.post_json("deduct", charge).await["paid_count"], 2);
    let micros = |amount: f64| (amount * 1e6).round();
    let now = service.use_of_the_key().await;
    assert_eq!([now[0], now[1], micros(now[2])], [requests + 1.0, tokens, micros(amount + 0.1)]);

    // A third request of the day is the last one.
    let charge = |trace| json!({"user_id": "cai", "service_name": "passport", "count": 1, "trace_id": trace});
    service.post_json("deduct", charge("new-2")).await;
    let (status, reply) = service.post("/internal/v1/billing/deduct", charge("new-3").to_string()).await;
    assert_eq!((status, &reply["reason"]), (429, &json!("INSUFFICIENT_QUOTA")));
}

#[rstest]
#[tokio::test]
async fn an_upgrade_of_release_0_1_0_that_stops_in_each_migration_has_the_usual_result(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let straight = filled(on).await;
    app::connect(&straight.config(&SETTINGS)).await.unwrap().close().await;
    let stopped = filled(on).await;
    let newer = format!("FROM _sqlx_migrations WHERE version > {NEWEST} ORDER BY version");
    let newer = straight.rows(&["version"], &newer).await.concat();
    assert!(newer.len() > 15, "{newer:?}");
    for version in &newer {
        stopped.execute(&stop_at(on, version)).await;
        // It runs the migration before once more.
        let Err(error) = app::connect(&stopped.config(&SETTINGS)).await else { panic!("{version} did not stop") };
        assert!(format!("{error:#}").contains("stopped by the test"), "{version}: {error:#}");
        let done = "FROM _sqlx_migrations WHERE success = TRUE";
        let done: i64 = stopped.rows(&["MAX(version)"], done).await[0][0].parse().unwrap();
        assert!(done < version.parse().unwrap(), "{version} is marked as finished");
        stopped.execute("DROP TRIGGER stop").await;
    }
    app::connect(&stopped.config(&SETTINGS)).await.unwrap().close().await;
    stopped.assert_audit_is_clean().await;
    let expected = contents(&straight).await;
    assert!(expected.len() > 20);
    assert_same(&contents(&stopped).await, &expected);
}

/// Stops a migration after its statements, before it is marked as finished.
pub(super) fn stop_at(on: Backend, version: &str) -> String {
    match on {
        MySql => format!(
            "CREATE TRIGGER stop BEFORE UPDATE ON _sqlx_migrations FOR EACH ROW IF NEW.version = {version} THEN \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'stopped by the test'; END IF"
        ),
        Sqlite => format!(
            "CREATE TRIGGER stop BEFORE INSERT ON _sqlx_migrations WHEN NEW.version = {version} \
             BEGIN SELECT RAISE(ABORT, 'stopped by the test'); END"
        ),
    }
}

/// Compared in parts, because the whole content is too long to print.
pub(super) fn assert_same(found: &[Contents], expected: &[Contents]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

/// The name of a table, and its rows.
pub(super) type Contents = (String, Vec<Vec<String>>);

/// The definition of each table, key and view, and the rows of each table, without random ids and times of the upgrade.
pub(super) async fn contents(database: &Database) -> Vec<Contents> {
    let (tables, columns) = match database.backend {
        MySql => (
            "FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'",
            "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ",
        ),
        Sqlite => ("FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'", "FROM pragma_table_info("),
    };
    let mut all = vec![(
        "the definitions".to_owned(),
        match database.backend {
            MySql => definitions(database).await,
            Sqlite => database.rows(&["name", "COALESCE(sql, '')"], "FROM sqlite_schema ORDER BY type, name").await,
        },
    )];
    let name = if database.backend == MySql { "table_name" } else { "name" };
    for table in database.rows(&[name], &format!("{tables} ORDER BY 1")).await.concat() {
        let columns: Vec<String> = match (database.backend, table.as_str()) {
            (_, "_sqlx_migrations") => ["version", "success"].map(str::to_owned).to_vec(),
            (_, "database_identity") => ["currency", "time_zone"].map(str::to_owned).to_vec(),
            (_, "schema_lease") => continue,
            (MySql, _) => {
                database.rows(&["column_name"], &format!("{columns}'{table}' ORDER BY ordinal_position")).await.concat()
            }
            (Sqlite, _) => database.rows(&["name"], &format!("{columns}'{table}') ORDER BY cid")).await.concat(),
        };
        let value = |column: &String| match column.as_str() {
            // Times of the upgrade.
            "day_since" | "month_since" | "total_since" | "changed_at" => format!("{column} IS NULL"),
            _ => format!("QUOTE({column})"),
        };
        let columns: Vec<String> = columns.iter().map(value).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut rows = database.rows(&columns, &format!("FROM {table}")).await;
        rows.sort_unstable();
        all.push((table, rows));
    }
    all
}
