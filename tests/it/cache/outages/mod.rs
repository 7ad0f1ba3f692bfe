//! Redis slow, down, emptied, older than it was: checks go on, fast and right, and soon
//! after the end of it Redis has nothing that the database does not have.

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
        Servers, crowd, info, long_way,
    },
};
use crate::harness::{
    Database, Service, mariadb,
    redis::{OwnRedis, Proxy},
    wait::until,
};

/// A Redis of the test's own, a service that uses it, and its callers.
struct Town {
    servers: Servers,
    service: Service,
    load: Load,
    /// Checks are timed: not too many tests at once.
    _place: SemaphorePermit<'static>,
}

impl Town {
    async fn on(layout: Layout) -> Self {
        Self::of(Servers::start(layout).await).await
    }

    async fn of(servers: Servers) -> Self {
        let config = servers.config();
        Self::with(servers, &config).await
    }

    async fn with(servers: Servers, redis: &str) -> Self {
        static PLACES: Semaphore = Semaphore::const_new(2);
        let place = PLACES.acquire().await.unwrap();
        let database = Database::on(mariadb::create_database().await);
        // So high that they refuse nobody: they are counted in Redis.
        let rates = [("billing.rate_limits.user.minute", "1000000"), ("billing.rate_limits.api_key.minute", "1000000")];
        let changes = [&rates[..], &[("data.redis", redis)]].concat();
        let service = Service::start_on(database, &changes).await;
        let load = Load::start(&service).await;
        let mut town = Self { servers, service, load, _place: place };
        town.load.goes_on().await;
        town
    }

    /// The end of the last outage was now.
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
            _ => panic!("there are several servers"),
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_is_killed_and_comes_back_empty(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut town = Town::of(Servers::start_watchful(on).await).await;
    // What sentinels watch does not come back.
    for _ in 0..if on == Sentinel { 1 } else { 3 } {
        town.servers.kill_one().await;
        town.load.goes_on().await;
    }
    town.assert_all_is_well().await;
}

/// The second time the node that was killed first takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_come_from_the_cluster_again_after_a_replica_has_taken_over() {
    let mut town = Town::on(Replicated).await;
    for round in 0..2 {
        if round > 0 {
            town.servers.take_back().await;
            town.load.goes_on().await;
        }
        town.servers.fail_over().await;
        assert_used_soon(town.servers.master_that_took_over().await).await;
        town.load.goes_on().await;
    }
    let reads = town.reads_of_redis().await;
    until("checks come from the cluster", async || town.reads_of_redis().await > reads).await;
    town.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_is_dead_for_a_while() {
    let mut town = Town::on(Single).await;
    for _ in 0..3 {
        town.single().kill();
        town.load.goes_on_for(Duration::from_secs(1)).await;
        town.single().start_again().await;
        town.load.goes_on().await;
    }
    town.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_saved_last_is_not_believed_after_a_kill() {
    let mut town = Town::on(Single).await;
    for _ in 0..3 {
        town.single().save().await;
        town.load.goes_on().await;
        town.single().kill_and_start_again().await;
        town.load.goes_on().await;
    }
    town.assert_all_is_well().await;
}

/// Of the run before, too: its marker is that of the next but one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_snapshot_is_not_believed() {
    let mut town = Town::on(Single).await;
    let first = town.single().keep_snapshot().await;
    town.load.goes_on().await;
    town.single().restart_with_snapshot(&first).await;
    town.load.goes_on_for(Duration::from_secs(1)).await;
    let second = town.single().keep_snapshot().await;
    for snapshot in [&first, &second, &first] {
        town.load.goes_on().await;
        town.single().restart_with_snapshot(snapshot).await;
        town.load.goes_on().await;
    }
    town.assert_all_is_well().await;
}

/// With sentinels another becomes the master meanwhile.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_stands_still(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut town = Town::of(Servers::start_watchful(on).await).await;
    town.servers.stop_one();
    town.load.goes_on_for(Duration::from_secs(10)).await;
    town.servers.go_on().await;
    town.assert_all_is_well().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_is_emptied_again_and_again(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut town = Town::on(on).await;
    for _ in 0..4 {
        town.servers.flushall().await;
        town.load.goes_on().await;
    }
    town.servers.flushall().await;
    town.assert_all_is_well().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_forgets_the_scripts(#[values(Single, Cluster, Sentinel)] on: Layout) {
    let mut town = Town::on(on).await;
    for _ in 0..4 {
        town.servers.script_flush().await;
        town.load.goes_on().await;
    }
    town.servers.script_flush().await;
    town.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_sentinels_change_the_master_for_no_reason() {
    let mut town = Town::on(Sentinel).await;
    for _ in 0..2 {
        let Servers::Sentinel(servers) = &mut town.servers else { panic!("sentinels were started") };
        servers.failover().await;
        servers.until_failed_over().await;
        assert_used_soon(servers.master()).await;
        town.load.goes_on().await;
    }
    town.assert_all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_drops_what_was_not_used_for_long() {
    let small = ["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"];
    let mut town = Town::of(Servers::Single(OwnRedis::start_with(&small).await)).await;
    let place = town.single().place();
    for _ in 0..4 {
        crowd(&place).await;
        town.load.goes_on().await;
    }
    let evicted = info(&place, "evicted_keys").await.unwrap();
    assert!(evicted.parse::<u32>().unwrap() > 500, "{evicted}");
    town.assert_is_well(Room::ForSome).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_redis_takes_nothing_more() {
    let full = ["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"];
    let mut town = Town::of(Servers::Single(OwnRedis::start_with(&full).await)).await;
    let place = town.single().place();
    crowd(&place).await;
    town.load.goes_on_for(Duration::from_secs(3)).await;
    assert!(info(&place, "errorstat_OOM").await.is_some());
    let mut connection = place.connection().await;
    let () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).query_async(&mut connection).await.unwrap();
    town.assert_all_is_well().await;
}

/// Whether what was on its way has been carried out, nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_connections_to_redis_break() {
    let (mut town, mut proxy) = behind_proxy().await;
    for _ in 0..5 {
        proxy.reset_after_request();
        town.load.goes_on().await;
        proxy.reset_all().await;
        town.load.goes_on().await;
        proxy.refuse(true).await;
        proxy.reset_all().await;
        town.load.goes_on().await;
        proxy.refuse(false).await;
    }
    town.assert_all_is_well().await;
}

/// What was sent before arrives when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_go_on_while_the_way_to_redis_is_blocked() {
    let (mut town, proxy) = behind_proxy().await;
    for _ in 0..5 {
        proxy.stall(true);
        town.load.goes_on_for(Duration::from_millis(700)).await;
        proxy.stall(false);
        town.load.goes_on().await;
    }
    town.assert_all_is_well().await;
}

/// That the service takes this server for the one whose entries are true.
async fn assert_used_soon(server: &OwnRedis) {
    let run = info(&server.place(), "run_id").await;
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
    panic!("the service stays with another");
}

/// All answers come, and later than a check may wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_fast_while_redis_is_slow() {
    let servers = Servers::start(Single).await;
    let Servers::Single(server) = &servers else { panic!("one was started") };
    let delay = watch::Sender::new(Duration::ZERO);
    let redis = format!("{{addr: '{}'}}", long_way(server.addr(), delay.subscribe()).await);
    let mut town = Town::with(servers, &redis).await;
    delay.send_replace(Duration::from_millis(60));
    town.load.goes_on_for(Duration::from_secs(5)).await;
    delay.send_replace(Duration::ZERO);
    town.assert_all_is_well().await;
}

async fn behind_proxy() -> (Town, Proxy) {
    let servers = Servers::start(Single).await;
    let Servers::Single(server) = &servers else { panic!("one was started") };
    let proxy = Proxy::start(server.addr()).await;
    let redis = format!("{{addr: '{}'}}", proxy.addr());
    (Town::with(servers, &redis).await, proxy)
}

/// As with a full disk, or with fewer replicas than it must have: what is read may be old,
/// and nobody could drop it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_changes_is_not_read() {
    let town = Town::on(Single).await;
    let Servers::Single(server) = &town.servers else { unreachable!() };
    let set = async |replicas: &str| {
        let mut connection = server.connection().await;
        let set = redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(replicas).to_owned();
        connection.send_packed_command(&set).await.unwrap();
    };
    let is_up = async |expected: &str| {
        let ready = town.service.internal_get("/ready").await.1;
        ready["status"] == "UP" && ready["redis"] == expected
    };
    set("1").await;
    until("it is left alone", async || is_up("DOWN").await).await;
    set("0").await;
    until("it is used again", async || is_up("UP").await).await;
    town.assert_all_is_well().await;
}
