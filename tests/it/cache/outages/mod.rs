//! Redis is slow, down, flushed, or restarted from an old snapshot. Checks stay fast and right. Soon
//! after the outage, Redis agrees with the database.

mod account;
mod agreement;
mod load;
mod servers;

use std::time::Duration;

use rstest::rstest;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::sleep,
};

use self::{
    agreement::{Room, assert_agree},
    load::{Load, assert_shared_kept_limits},
    servers::{
        Layout::{self, Cluster, Replicated, Sentinel, Single},
        Servers, fill_memory, info, slow_proxy,
    },
};
use crate::harness::{
    Database, Service, mariadb,
    redis::{OwnRedis, Proxy},
    wait::until,
};

/// A private Redis, a service that uses it, and its callers.
struct Fixture {
    servers: Servers,
    service: Service,
    load: Load,
    /// Checks are timed, so only a few tests run at the same time.
    _permit: SemaphorePermit<'static>,
}

impl Fixture {
    async fn on(layout: Layout) -> Self {
        Self::of(Servers::start(layout).await).await
    }

    async fn of(servers: Servers) -> Self {
        let config = servers.config();
        Self::with(servers, &config).await
    }

    async fn with(servers: Servers, redis: &str) -> Self {
        static PERMITS: Semaphore = Semaphore::const_new(2);
        let permit = PERMITS.acquire().await.unwrap();
        let database = Database::on(mariadb::create_database().await);
        // The limits are too high to refuse a call. They make the service count in Redis.
        let rates = [("billing.rate_limits.user.minute", "1000000"), ("billing.rate_limits.api_key.minute", "1000000")];
        let changes = [&rates[..], &[("data.redis", redis)]].concat();
        let service = Service::start_on(database, &changes).await;
        let load = Load::start(&service).await;
        let mut fixture = Self { servers, service, load, _permit: permit };
        fixture.load.goes_on().await;
        fixture
    }

    /// To be called right after the end of the last outage.
    async fn assert_all_is_well(self) {
        self.assert_is_well(Room::ForAll).await;
    }

    async fn assert_is_well(mut self, room: Room) {
        self.load.goes_on().await;
        self.load.until_enough_checks().await;
        let accounts = self.load.stop().await;
        assert_agree(&self.service, &self.servers, &accounts, room).await;
        self.load.assert_checks_were_fast();
        assert_shared_kept_limits(&self.load.books);
        self.load.repeat_all().await;
        self.load.books.assert_kept_in(&self.service.database).await;
    }

    async fn reads_of_redis(&self) -> u64 {
        let metrics = self.service.metrics().await;
        let count = "billing_check_reads_total{source=\"redis\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(count)).unwrap().parse().unwrap()
    }

    fn single(&mut self) -> &mut OwnRedis {
        match &mut self.servers {
            Servers::Single(server) => server,
            _ => panic!("Redis has several servers"),
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_is_killed_and_comes_back_empty(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut fixture = Fixture::of(Servers::start_watchful(on).await).await;
    // A master that sentinels watch does not come back.
    for _ in 0..if on == Sentinel { 1 } else { 3 } {
        fixture.servers.kill_one().await;
        fixture.load.goes_on().await;
    }
    fixture.assert_all_is_well().await;
}

/// In the second round, the node that was killed in the first round takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_come_from_the_cluster_again_after_a_replica_has_taken_over() {
    let mut fixture = Fixture::on(Replicated).await;
    for round in 0..2 {
        if round > 0 {
            fixture.servers.take_back().await;
            fixture.load.goes_on().await;
        }
        fixture.servers.fail_over().await;
        assert_used_soon(fixture.servers.master_that_took_over().await).await;
        fixture.load.goes_on().await;
    }
    let reads = fixture.reads_of_redis().await;
    until("checks come from the cluster", async || fixture.reads_of_redis().await > reads).await;
    fixture.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_is_dead_for_a_while() {
    let mut fixture = Fixture::on(Single).await;
    for _ in 0..3 {
        fixture.single().kill();
        fixture.load.goes_on_for(Duration::from_secs(1)).await;
        fixture.single().start_again().await;
        fixture.load.goes_on().await;
    }
    fixture.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_redis_saved_before_a_kill_are_not_used() {
    let mut fixture = Fixture::on(Single).await;
    for _ in 0..3 {
        fixture.single().save().await;
        fixture.load.goes_on().await;
        fixture.single().kill_and_start_again().await;
        fixture.load.goes_on().await;
    }
    fixture.assert_all_is_well().await;
}

/// Each snapshot has the marker of an earlier run of Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_snapshot_is_not_used() {
    let mut fixture = Fixture::on(Single).await;
    let first = fixture.single().keep_snapshot().await;
    fixture.load.goes_on().await;
    fixture.single().restart_with_snapshot(&first).await;
    fixture.load.goes_on_for(Duration::from_secs(1)).await;
    let second = fixture.single().keep_snapshot().await;
    for snapshot in [&first, &second, &first] {
        fixture.load.goes_on().await;
        fixture.single().restart_with_snapshot(snapshot).await;
        fixture.load.goes_on().await;
    }
    fixture.assert_all_is_well().await;
}

/// With sentinels, the replica becomes the master meanwhile.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_is_frozen(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut fixture = Fixture::of(Servers::start_watchful(on).await).await;
    fixture.servers.stop_one();
    fixture.load.goes_on_for(Duration::from_secs(10)).await;
    fixture.servers.go_on().await;
    fixture.assert_all_is_well().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_is_flushed_repeatedly(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut fixture = Fixture::on(on).await;
    for _ in 0..4 {
        fixture.servers.flushall().await;
        fixture.load.goes_on().await;
    }
    fixture.servers.flushall().await;
    fixture.assert_all_is_well().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_loses_its_scripts(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut fixture = Fixture::on(on).await;
    for _ in 0..4 {
        fixture.servers.script_flush().await;
        fixture.load.goes_on().await;
    }
    fixture.servers.script_flush().await;
    fixture.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_sentinels_change_a_healthy_master() {
    let mut fixture = Fixture::on(Sentinel).await;
    for _ in 0..2 {
        let Servers::Sentinel(servers) = &mut fixture.servers else { panic!("sentinels were started") };
        servers.failover().await;
        servers.until_failed_over().await;
        assert_used_soon(servers.master()).await;
        fixture.load.goes_on().await;
    }
    fixture.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_evicts_entries() {
    let small = ["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"];
    let mut fixture = Fixture::of(Servers::Single(OwnRedis::start_with(&small).await)).await;
    let database = fixture.single().database();
    for _ in 0..4 {
        fill_memory(&database).await;
        fixture.load.goes_on().await;
    }
    let evicted = info(&database, "evicted_keys").await.unwrap();
    assert!(evicted.parse::<u32>().unwrap() > 500, "{evicted}");
    fixture.assert_is_well(Room::ForSome).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_has_no_memory_for_writes() {
    let full = ["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"];
    let mut fixture = Fixture::of(Servers::Single(OwnRedis::start_with(&full).await)).await;
    let database = fixture.single().database();
    fill_memory(&database).await;
    fixture.load.goes_on_for(Duration::from_secs(3)).await;
    assert!(info(&database, "errorstat_OOM").await.is_some());
    let mut connection = database.connection().await;
    let () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).query_async(&mut connection).await.unwrap();
    fixture.assert_all_is_well().await;
}

/// The outcome of the commands in flight is unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_connections_to_redis_break() {
    let (mut fixture, mut proxy) = behind_proxy().await;
    for _ in 0..5 {
        proxy.reset_after_request();
        fixture.load.goes_on().await;
        proxy.reset_all().await;
        fixture.load.goes_on().await;
        proxy.refuse(true).await;
        proxy.reset_all().await;
        fixture.load.goes_on().await;
        proxy.refuse(false).await;
    }
    fixture.assert_all_is_well().await;
}

/// Commands that were sent during a stall arrive after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_the_network_to_redis_stalls() {
    let (mut fixture, proxy) = behind_proxy().await;
    for _ in 0..5 {
        proxy.stall(true);
        fixture.load.goes_on_for(Duration::from_millis(700)).await;
        proxy.stall(false);
        fixture.load.goes_on().await;
    }
    fixture.assert_all_is_well().await;
}

/// The service soon sets its marker on this server, so it uses the entries of this server.
async fn assert_used_soon(server: &OwnRedis) {
    let run = info(&server.database(), "run_id").await;
    let mut connection = server.connection().await;
    for _ in 0..agreement::SOON {
        let markers = redis::cmd("KEYS").arg("billing:*:marker").to_owned();
        for marker in markers.query_async::<Vec<String>>(&mut connection).await.unwrap() {
            let marked = redis::cmd("GET").arg(marker).to_owned();
            if marked.query_async::<Option<String>>(&mut connection).await.unwrap() == run {
                return;
            }
        }
        sleep(agreement::PAUSE).await;
    }
    panic!("the service uses another server");
}

/// Every answer of Redis comes later than a check waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_fast_while_redis_is_slow() {
    let servers = Servers::start(Single).await;
    let Servers::Single(server) = &servers else { panic!("a single server was started") };
    let delay = watch::Sender::new(Duration::ZERO);
    let redis = format!("{{addr: '{}'}}", slow_proxy(server.addr(), delay.subscribe()).await);
    let mut fixture = Fixture::with(servers, &redis).await;
    delay.send_replace(Duration::from_millis(60));
    fixture.load.goes_on_for(Duration::from_secs(5)).await;
    delay.send_replace(Duration::ZERO);
    fixture.assert_all_is_well().await;
}

async fn behind_proxy() -> (Fixture, Proxy) {
    let servers = Servers::start(Single).await;
    let Servers::Single(server) = &servers else { panic!("a single server was started") };
    let proxy = Proxy::start(server.addr()).await;
    let redis = format!("{{addr: '{}'}}", proxy.addr());
    (Fixture::with(servers, &redis).await, proxy)
}

/// A full disk, or too few replicas, makes Redis refuse writes. Then its entries may be stale, and
/// can't be dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refuses_writes_is_not_read() {
    let fixture = Fixture::on(Single).await;
    let Servers::Single(server) = &fixture.servers else { unreachable!() };
    let set = async |replicas: &str| {
        let mut connection = server.connection().await;
        let set = redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(replicas).to_owned();
        connection.send_packed_command(&set).await.unwrap();
    };
    let is_up = async |expected: &str| {
        let ready = fixture.service.internal_get("/ready").await.1;
        ready["status"] == "UP" && ready["redis"] == expected
    };
    set("1").await;
    until("redis is not used", async || is_up("DOWN").await).await;
    set("0").await;
    until("redis is used again", async || is_up("UP").await).await;
    fixture.assert_all_is_well().await;
}
