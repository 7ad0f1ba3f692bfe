//! A private Galera cluster: three MariaDB nodes on loopback. They end with the test process.

use std::{
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Database, mariadb,
    private_server::{PrivateServer, free_port, needs_installed},
    redis,
};

pub const NODES: usize = 3;

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
/// Attempts to start, because another process may take a free port first.
const ATTEMPTS: usize = 3;
/// Time limit for a node to join, including a copy of all data from another node.
const JOIN_TIMEOUT: Duration = Duration::from_secs(90);
/// A node that takes longer to answer is frozen or dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
/// The user `nobody` of Debian.
const NOBODY: u32 = 65_534;

/// The first node creates the cluster, and the others join it. A restarted node always joins, because
/// it has the state of its cluster.
const START: &str = r#"
folder=$1 first=$2
shift 2
if [ "$first" = first ] && [ ! -e "$folder/data/grastate.dat" ]; then
    set -- "$@" --wsrep-new-cluster
fi
exec mariadbd "$@"
"#;

pub struct Galera {
    nodes: Vec<Node>,
}

struct Node {
    port: u16,
    process: PrivateServer,
}

/// The ports of one node.
struct Ports {
    sql: u16,
    /// The port of group messages.
    group: u16,
    /// The port of missed changes, which a joining node receives.
    changes: u16,
    /// The port of a copy of all data.
    copy: u16,
}

impl Galera {
    /// Starts three nodes, and waits until they are in sync.
    pub async fn start() -> Self {
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            match Self::try_start().await {
                Ok(cluster) => return cluster,
                Err(said) => log = said,
            }
        }
        panic!("the Galera cluster does not start: {log}");
    }

    /// # Errors
    /// The log of the node that does not join.
    async fn try_start() -> Result<Self, String> {
        let ports = std::array::from_fn(|_| Ports::free());
        let mut cluster = Self { nodes: Vec::new() };
        cluster.nodes.push(start_node(&ports, 0).await);
        cluster.joined(0).await?;
        for node in 1..NODES {
            cluster.nodes.push(start_node(&ports, node).await);
        }
        for node in 1..NODES {
            cluster.joined(node).await?;
        }
        Ok(cluster)
    }

    /// A new database, with its source on each node. The servers of all nodes share one Redis.
    pub async fn create_database(&self) -> [Database; NODES] {
        let first = mariadb::create_database_on(self.nodes[0].port).await;
        self.catch_up().await;
        let redis = redis::shared().await;
        std::array::from_fn(|node| {
            let [from, to] = [0, node].map(|node: usize| format!(":{})", self.nodes[node].port));
            let mut database = Database::on(first.replace(&from, &to));
            database.redis = Some(redis.clone());
            database
        })
    }

    /// Kills a node. Returns when it has ended.
    pub fn kill(&self, node: usize) {
        self.nodes[node].process.kill();
    }

    /// Starts a killed node. Returns when it is in sync again.
    pub async fn start_again(&mut self, node: usize) {
        self.nodes[node].process.start_again();
        self.rejoined(node).await;
    }

    /// Freezes a node, like a machine that hangs. Its connections stay open.
    pub fn freeze(&self, node: usize) {
        self.nodes[node].process.signal("STOP");
    }

    /// Resumes a frozen node.
    pub fn thaw(&self, node: usize) {
        self.nodes[node].process.signal("CONT");
    }

    /// Waits until a node is in sync.
    pub async fn rejoined(&self, node: usize) {
        self.joined(node).await.unwrap_or_else(|log| panic!("node {node} does not join: {log}"));
    }

    /// Waits until a node sees `nodes` nodes, including itself.
    pub async fn sees(&self, node: usize, nodes: usize) {
        let deadline = Instant::now() + JOIN_TIMEOUT;
        while self.status(node, "wsrep_cluster_size").await != Some(nodes.to_string()) {
            assert!(Instant::now() < deadline, "node {node} does not see {nodes} nodes: {}", self.log(node));
            sleep(PAUSE).await;
        }
    }

    /// Waits until a node has lost the majority of its cluster.
    pub async fn is_cut_off(&self, node: usize) {
        let deadline = Instant::now() + JOIN_TIMEOUT;
        while self.status(node, "wsrep_cluster_status").await.as_deref() != Some("non-Primary") {
            assert!(Instant::now() < deadline, "node {node} keeps its majority: {}", self.log(node));
            sleep(PAUSE).await;
        }
    }

    /// Whether every node is in sync, and sees all others.
    pub async fn is_whole(&self) -> bool {
        let all = Some(NODES.to_string());
        for node in 0..NODES {
            if !self.is_in_sync(node).await || self.status(node, "wsrep_cluster_size").await != all {
                return false;
            }
        }
        true
    }

    /// Waits until every node has applied all commits of all nodes.
    pub async fn catch_up(&self) {
        for node in 0..NODES {
            self.execute(node, "SET SESSION wsrep_sync_wait = 15; SELECT 1").await;
        }
    }

    /// Runs statements on a node.
    pub async fn execute(&self, node: usize, sql: &str) {
        let mut connection = MySqlConnection::connect(&self.url(node)).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Waits until a node is in sync. Fails if it ends, or at the time limit.
    async fn joined(&self, node: usize) -> Result<(), String> {
        let deadline = Instant::now() + JOIN_TIMEOUT;
        while !self.is_in_sync(node).await {
            if Instant::now() > deadline || self.nodes[node].process.has_ended() {
                return Err(self.log(node));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn is_in_sync(&self, node: usize) -> bool {
        self.status(node, "wsrep_local_state_comment").await.as_deref() == Some("Synced")
            && self.status(node, "wsrep_ready").await.as_deref() == Some("ON")
    }

    /// A status variable; `None` while the node does not answer.
    async fn status(&self, node: usize, name: &str) -> Option<String> {
        let read = async {
            let mut connection = MySqlConnection::connect(&self.url(node)).await.ok()?;
            let show = AssertSqlSafe(format!("SHOW STATUS LIKE '{name}'"));
            let row = sqlx::raw_sql(show).fetch_one(&mut connection).await.ok()?;
            // The next call opens a new connection.
            let _ = connection.close().await;
            row.try_get("Value").ok()
        };
        timeout(ANSWER_TIMEOUT, read).await.ok().flatten()
    }

    fn url(&self, node: usize) -> String {
        format!("mysql://root@127.0.0.1:{}/", self.nodes[node].port)
    }

    fn log(&self, node: usize) -> String {
        self.nodes[node].process.log()
    }
}

impl Ports {
    fn free() -> Self {
        Self { sql: free_port(), group: free_port(), changes: free_port(), copy: free_port() }
    }
}

async fn start_node(ports: &[Ports; NODES], node: usize) -> Node {
    needs_installed("galera-4");
    assert!(Path::new(PROVIDER).exists(), "{PROVIDER} is missing; `make deps` installs it");
    let folder = PrivateServer::folder_for("galera");
    let user = prepare(&folder);
    if node == 0 {
        let (folder, user) = (folder.clone(), user.clone());
        // The other nodes get a copy of its data.
        tokio::task::spawn_blocking(move || install(&folder, user)).await.unwrap();
    }
    let role = if node == 0 { "first" } else { "joins" };
    let begin = ["sh", "-c", START, "sh", folder.to_str().unwrap(), role, "--no-defaults"];
    let mut command = begin.map(str::to_owned).to_vec();
    command.extend(user);
    command.extend(options(&folder, ports, node));
    Node { port: ports[node].sql, process: PrivateServer::start(folder, &command) }
}

/// Creates the folders of a node. Returns the user option of the server, if the server needs another user.
///
/// A joining node receives its copy through an rsync daemon. As root, the daemon would switch to `nobody`,
/// and could not write. So the whole node runs as `nobody` in this case.
fn prepare(folder: &Path) -> Option<String> {
    let is_root = std::fs::metadata(folder).unwrap().uid() == 0;
    let folders = [folder.to_owned(), folder.join("data"), folder.join("tmp")];
    for folder in &folders {
        // The temporary folder itself exists already.
        std::fs::create_dir_all(folder).unwrap();
        if is_root {
            chown(folder, Some(NOBODY), None).unwrap();
        }
    }
    is_root.then(|| "--user=nobody".to_owned())
}

fn install(folder: &Path, user: Option<String>) {
    let installed = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", folder.join("data").display()))
        .arg(LOG_SIZE)
        .args(user)
        // Each server needs its own folder: a server that starts removes the temporary tables in it.
        .env("TMPDIR", folder.join("tmp"))
        .output()
        .expect("mariadb-install-db runs; `make deps` installs it");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
}

/// Small, because a joining node copies the log.
const LOG_SIZE: &str = "--innodb-log-file-size=16M";

/// Small buffers, so that three nodes fit beside all other tests. The cache of changes holds all changes that
/// a frozen node misses, because a running node can't get a copy of all data by rsync.
fn options(folder: &Path, ports: &[Ports; NODES], node: usize) -> Vec<String> {
    let at = |name: &str| folder.join(name).display().to_string();
    let Ports { sql, group, changes, copy } = &ports[node];
    let group_of = |ports: &Ports| format!("127.0.0.1:{}", ports.group);
    let members = ports.each_ref().map(group_of).join(",");
    vec![
        "--skip-log-bin".to_owned(),
        format!("--datadir={}", at("data")),
        format!("--socket={}", at("socket")),
        format!("--tmpdir={}", at("tmp")),
        format!("--pid-file={}", at("pid")),
        format!("--port={sql}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--max-connections=300".to_owned(),
        "--innodb-buffer-pool-size=64M".to_owned(),
        LOG_SIZE.to_owned(),
        "--innodb-flush-log-at-trx-commit=2".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
        "--binlog-format=ROW".to_owned(),
        "--wsrep-on=ON".to_owned(),
        format!("--wsrep-provider={PROVIDER}"),
        "--wsrep-cluster-name=billing".to_owned(),
        format!("--wsrep-cluster-address=gcomm://{members}"),
        format!("--wsrep-node-name=node-{node}"),
        format!("--wsrep-node-address=127.0.0.1:{group}"),
        format!("--wsrep-node-incoming-address=127.0.0.1:{sql}"),
        "--wsrep-slave-threads=2".to_owned(),
        "--wsrep-sst-method=rsync".to_owned(),
        format!("--wsrep-sst-receive-address=127.0.0.1:{copy}"),
        format!(
            "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{group};base_port={group};\
             ist.recv_addr=127.0.0.1:{changes};gcache.size=128M"
        ),
    ]
}
