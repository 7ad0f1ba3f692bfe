//! Several hosts of one database, in order of preference. If both hosts need the same data, the hosts are
//! proxies to one server.

use std::time::Duration;

use billing_service::app::{self, App};
use futures_util::future::join_all;
use rstest::rstest;
use sqlx::Row;

use crate::harness::{
    Database, Service, charge,
    load::Load,
    mariadb::OwnServer,
    redis::Proxy,
    traced,
    wait::{soon, until},
};

/// Acknowledged charges and steps of reservations before and after each change.
const BETWEEN_CHANGES: usize = 200;
/// The health check keeps one connection to each host.
const WATCH: usize = 1;
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);

fn address(source: &str) -> &str {
    let (_, rest) = source.split_once("@tcp(").unwrap();
    rest.split_once(')').unwrap().0
}

fn list(hosts: &[&str]) -> String {
    format!("['{}']", hosts.join("', '"))
}

/// A database behind two hosts.
struct Pair {
    first: Proxy,
    second: Proxy,
    service: Service,
    _mariadb: OwnServer,
}

impl Pair {
    async fn start(return_after: Duration) -> Self {
        Self::start_with(return_after, &[]).await
    }

    async fn start_with(return_after: Duration, changes: &[(&str, &str)]) -> Self {
        let mariadb = OwnServer::start().await;
        let source = mariadb.create_database().await;
        let (first, second) = (Proxy::start(address(&source)).await, Proxy::start(address(&source)).await);
        let hosts = list(&[&first.addr(), &second.addr()]);
        let database = Database::on(source);
        // With this retry_timeout, the test fails if the lanes wait for a silent host.
        let own = [("data.database.hosts", hosts.as_str()), ("billing.settlement.retry_timeout", "600s")];
        let mut config = database.config(&[&own, changes].concat());
        config.data.database.return_to_host_after = Some(return_after);
        Self { first, second, service: Service::start_configured(database, config).await, _mariadb: mariadb }
    }

    fn url(&self) -> String {
        format!("http://{}", self.service.app.grpc_addr)
    }

    async fn uses_first_alone(&self) {
        until("all pools use the first host", async || {
            self.first.open_connections() > WATCH && self.second.open_connections() <= WATCH
        })
        .await;
        assert!(self.service.metrics().await.contains("billing_database_first_host 1\n"));
    }

    async fn uses_second_alone(&self) {
        until("all pools use the second host", async || {
            self.second.open_connections() > WATCH && self.first.open_connections() <= WATCH
        })
        .await;
        assert!(self.service.metrics().await.contains("billing_database_first_host 0\n"));
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Connections break, and new ones are refused.
    Cut,
    /// Connections stay open, and get no answer.
    Silent,
}

impl Fault {
    async fn begin(self, host: &mut Proxy) {
        match self {
            Self::Cut => {
                host.refuse(true).await;
                host.reset_all().await;
            }
            Self::Silent => host.stall(true),
        }
    }

    async fn end(self, host: &mut Proxy) {
        match self {
            Self::Cut => host.refuse(false).await,
            Self::Silent => host.stall(false),
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charges_go_on_with_the_next_host_and_none_is_lost_or_doubled(
    #[values(Fault::Cut, Fault::Silent)] fault: Fault,
) {
    let mut pair = Pair::start(NEVER).await;
    let mut load = Load::start(&[&pair.url()]).await;
    load.acknowledges(BETWEEN_CHANGES).await;
    pair.uses_first_alone().await;
    assert!(load.in_flight() > 0);
    fault.begin(&mut pair.first).await;
    load.acknowledges(BETWEEN_CHANGES).await;
    // Requests that the silent host has blocked reach the database late.
    fault.end(&mut pair.first).await;
    load.acknowledges(BETWEEN_CHANGES).await;
    pair.uses_second_alone().await;
    load.finish().await.assert_kept_in(&pair.service.database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pools_return_to_the_first_host_after_it_was_healthy_for_some_time() {
    let mut pair = Pair::start(Duration::from_secs(2)).await;
    let mut load = Load::start(&[&pair.url()]).await;
    for _ in 0..2 {
        load.acknowledges(BETWEEN_CHANGES).await;
        pair.uses_first_alone().await;
        Fault::Cut.begin(&mut pair.first).await;
        load.acknowledges(BETWEEN_CHANGES).await;
        pair.uses_second_alone().await;
        Fault::Cut.end(&mut pair.first).await;
        pair.uses_first_alone().await;
    }
    load.acknowledges(BETWEEN_CHANGES).await;
    load.finish().await.assert_kept_in(&pair.service.database).await;
}

/// A session that blocks reads of the records.
struct Gate(sqlx::MySqlConnection);

impl Gate {
    async fn close(database: &Database) -> Self {
        let mut session = database.mysql().await;
        sqlx::raw_sql("LOCK TABLES billing_record WRITE").execute(&mut session).await.unwrap();
        Self(session)
    }

    async fn has_reader(&mut self) -> bool {
        let count = "SELECT COUNT(*) FROM information_schema.processlist \
            WHERE db = DATABASE() AND state LIKE 'Waiting for table metadata lock'";
        sqlx::query(count).fetch_one(&mut self.0).await.unwrap().get::<i64, _>(0) > 0
    }

    async fn open(mut self) {
        sqlx::raw_sql("UNLOCK TABLES").execute(&mut self.0).await.unwrap();
    }
}

/// A return to the first host does not end queries. Their connections belong to the host before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_from_before_a_return_is_answered_and_its_connection_is_closed() {
    // Only the calls of the test take connections. Any other use would find the old connection and close it.
    let quiet = [("billing.price_refresh", "600s"), ("server.http.timeout", "60s")];
    let mut pair = Pair::start_with(Duration::from_millis(100), &quiet).await;
    pair.service.deduct(traced("t", charge("u", "asset", 1))).await;
    Fault::Cut.begin(&mut pair.first).await;
    until("the second host is in use", async || {
        pair.service.metrics().await.contains("billing_database_first_host 0\n")
            && pair.service.get("/ready").await.0 == 200
    })
    .await;
    let mut gate = Gate::close(&pair.service.database).await;
    let url = format!("http://{}/api/v1/billing/records?user_id=u", pair.service.app.http_addr);
    let reading = tokio::spawn(reqwest::get(url));
    until("a read waits on the second host", async || gate.has_reader().await).await;
    Fault::Cut.end(&mut pair.first).await;
    until("the first host is in use again", async || {
        pair.service.metrics().await.contains("billing_database_first_host 1\n")
    })
    .await;
    assert!(!reading.is_finished() && pair.second.open_connections() == WATCH + 1);
    gate.open().await;
    assert_eq!(soon(reading).await.unwrap().unwrap().status(), 200);
    soon(until("the connection is closed", async || pair.second.open_connections() <= WATCH)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_checks_no_hosts() {
    let mariadb = OwnServer::start().await;
    let source = mariadb.create_database().await;
    let (first, second) = (Proxy::start(address(&source)).await, Proxy::start(address(&source)).await);
    let hosts = list(&[&first.addr(), &second.addr()]);
    let store = app::connect(&Database::on(source).config(&[("data.database.hosts", &hosts)])).await.unwrap();
    until("the second host is watched", async || second.open_connections() == WATCH).await;
    app::close(&*store).await;
    until("all connections are closed", async || first.open_connections() + second.open_connections() == 0).await;
    drop(store);
}

const IDENTITY: &str = "0195f1f0-0000-7000-8000-000000000001";
const OTHER_IDENTITY: &str = "0195f1f0-0000-7000-8000-000000000002";

/// A server with a database named `replicated` and this identity. Databases with the same identity stand
/// for replicas.
async fn server_with(identity: &str) -> (OwnServer, Database) {
    let server = OwnServer::start().await;
    let other = server.create_database().await;
    let database = Database::on(format!("root@tcp({})/replicated", address(&other)));
    let mut maker = Database::on(other).mysql().await;
    sqlx::raw_sql("CREATE DATABASE replicated CHARACTER SET utf8mb4").execute(&mut maker).await.unwrap();
    let store = app::connect(&database.config(&[])).await.unwrap();
    app::close(&*store).await;
    database.execute(&format!("UPDATE database_identity SET id = '{identity}'")).await;
    (server, database)
}

async fn records(database: &Database) -> i64 {
    let count = "SELECT COUNT(*) FROM billing_record";
    sqlx::query(count).fetch_one(&mut database.mysql().await).await.unwrap().get(0)
}

/// The number of connections to a database, without the one of this query.
async fn open(database: &Database) -> usize {
    let count = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
    let open: i64 = sqlx::query(count).fetch_one(&mut database.mysql().await).await.unwrap().get(0);
    usize::try_from(open).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pools_leave_a_read_only_host_and_skip_one_with_another_database() {
    let (_one, first) = server_with(IDENTITY).await;
    let (_other, foreign) = server_with(OTHER_IDENTITY).await;
    let (_two, second) = server_with(IDENTITY).await;
    let hosts = list(&[address(&first.source), address(&foreign.source), address(&second.source)]);
    let config = Database::on(first.source.clone());
    let service = Service::start_on(config, &[("data.database.hosts", &hosts)]).await;
    let charge_some = async |trace: &str| {
        for user in 0..20 {
            service.deduct(traced(trace, charge(&format!("user-{user}"), "asset", 1))).await;
        }
        [records(&first).await, records(&foreign).await, records(&second).await]
    };
    assert_eq!(charge_some("before").await, [20, 0, 0]);
    assert!(open(&first).await > WATCH);
    first.execute("SET GLOBAL read_only = ON").await;
    until("the service is ready on the last host", async || {
        service.metrics().await.contains("billing_database_first_host 0\n") && service.get("/ready").await.0 == 200
    })
    .await;
    // Sooner than the database closes idle connections.
    soon(until("no pool has a connection to the first host", async || open(&first).await <= WATCH)).await;
    assert_eq!(charge_some("after").await, [20, 0, 20]);
    assert!(open(&first).await <= WATCH && open(&foreign).await <= WATCH);
    service.app.stop().await;
    until("a stopped server checks no hosts", async || {
        open(&first).await + open(&foreign).await + open(&second).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_uses_the_first_writable_host() {
    let (_one, read_only) = server_with(IDENTITY).await;
    read_only.execute("SET GLOBAL read_only = ON").await;
    let (_two, usable) = server_with(IDENTITY).await;
    let mut gone = Proxy::start(address(&usable.source)).await;
    gone.refuse(true).await;
    let silent = Proxy::start(address(&usable.source)).await;
    silent.stall(true);
    let unusable = [gone.addr(), silent.addr(), address(&read_only.source).to_owned()];
    let unusable: Vec<&str> = unusable.iter().map(String::as_str).collect();
    let timeouts = [("data.database.acquire_timeout", "0.5s"), ("data.database.connect_timeout", "1s")];
    let start = async |hosts: &[&str]| {
        let hosts = list(hosts);
        let changes: Vec<_> = timeouts.into_iter().chain([("data.database.hosts", hosts.as_str())]).collect();
        // `hosts` overrides the host of the source.
        App::start(Database::on("root@tcp(127.0.0.1:1)/replicated".into()).config(&changes)).await
    };
    let message = format!("{:#}", start(&unusable).await.err().expect("no host is usable"));
    for part in unusable.iter().chain(&["data.database.source", "read-only"]) {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    let app = start(&[unusable.as_slice(), &[address(&usable.source)]].concat()).await.unwrap();
    let reply = reqwest::get(format!("http://{}/ready", app.http_addr)).await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(open(&usable).await > WATCH);
    app.stop().await;
}

/// Concurrent calls, so that they use several idle connections.
const AT_ONCE: usize = 6;

/// A managed database: a primary, the next primary, and a proxy. The proxy stands for the host name, and the
/// service only knows the proxy.
struct Managed {
    endpoint: Proxy,
    old: Database,
    next: Database,
    service: Service,
    _servers: [OwnServer; 2],
}

impl Managed {
    async fn start(retry_timeout: &str) -> Self {
        let ((one, old), (two, next)) = (server_with(IDENTITY).await, server_with(IDENTITY).await);
        for database in [&old, &next] {
            // A user without SUPER, so that `read_only` applies to it.
            let user = "CREATE USER billing@'127.0.0.1'; GRANT ALL ON replicated.* TO billing@'127.0.0.1'";
            database.execute(user).await;
        }
        let endpoint = Proxy::start(address(&old.source)).await;
        let source = Database::on(format!("billing@tcp({})/replicated", endpoint.addr()));
        let service = Service::start_on(source, &[("billing.settlement.retry_timeout", retry_timeout)]).await;
        Self { endpoint, old, next, service, _servers: [one, two] }
    }

    async fn charge(&self, trace: &str) {
        self.service.deduct(traced(trace, charge("u", "asset", 1))).await;
    }

    /// The used units of the user in several concurrent reads.
    async fn used(&self) -> Vec<i32> {
        join_all((0..AT_ONCE).map(|_| self.service.state("u"))).await.into_iter().map(|(_, used)| used[2]).collect()
    }

    fn move_name(&self) {
        self.endpoint.lead_to(address(&self.next.source));
    }
}

#[derive(Debug, Clone, Copy)]
enum First {
    NameMoves,
    PrimaryIsReadOnly,
}

/// The connections to the old primary stay open, and the old primary still answers reads.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_comes_from_the_old_primary_after_a_charge_on_the_next(
    #[values(First::NameMoves, First::PrimaryIsReadOnly)] first: First,
) {
    // In the first case, the charge is retried until it succeeds. In the second case, it is given up.
    let retry_timeout = match first {
        First::NameMoves => "60s",
        First::PrimaryIsReadOnly => "1s",
    };
    let managed = Managed::start(retry_timeout).await;
    for trace in ["one", "two"] {
        managed.charge(trace).await;
    }
    assert_eq!(managed.used().await, [2; AT_ONCE]);
    let read_only = managed.old.execute("SET GLOBAL read_only = ON");
    let third = traced("three", charge("u", "asset", 1));
    match first {
        First::NameMoves => {
            managed.move_name();
            read_only.await;
            managed.charge("three").await;
        }
        First::PrimaryIsReadOnly => {
            read_only.await;
            managed.service.try_deduct(third.clone()).await.unwrap_err();
            // On new connections to the same server.
            assert_eq!(managed.used().await, [2; AT_ONCE]);
            managed.move_name();
            until("the charge is made", async || managed.service.try_deduct(third.clone()).await.is_ok()).await;
        }
    }
    // The next primary has only this charge, because the test has no replication.
    assert_eq!(managed.used().await, [1; AT_ONCE]);
    assert_eq!([records(&managed.old).await, records(&managed.next).await], [2, 1]);
    until("no connection to the old primary is left", async || open(&managed.old).await == 0).await;
}

/// No charge comes to a server that is not ready, so the server must notice the next primary by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_charges_becomes_ready_on_the_next_primary() {
    let managed = Managed::start("60s").await;
    managed.charge("one").await;
    managed.old.execute("SET GLOBAL read_only = ON").await;
    assert_eq!(managed.service.get("/ready").await.0, 503);
    managed.move_name();
    until("the server is ready", async || managed.service.get("/ready").await.0 == 200).await;
    assert_eq!(managed.used().await, [0; AT_ONCE]);
}
