//! A bounded pool of connections. A connection is reused only if its last user gave it back clean.
//!
//! The pool of sqlx takes every connection back, rolls a cancelled transaction back, and pings the
//! server: two round trips per use. This pool closes a connection whose user failed or was cancelled,
//! and the server then ends the transaction.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use sqlx::{
    Connection, Execute, MySql, MySqlConnection, SqlStr,
    mysql::{MySqlArguments, MySqlRow},
    query::Query,
};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::Span;

pub(super) use super::connect::connect;
use super::{
    connect::{Opened, Session, connect_with},
    nodes::{InUse, Nodes},
    server::Server,
    statement::{OnNode, Statement, round_trip},
};
use crate::{
    biz::values::{error::StoreError, spans},
    data::{
        error::store_error,
        spans::{Address, operation},
    },
};

/// Idle time after which a connection is tested before its use.
const FRESH: Duration = Duration::from_secs(1);
/// Deadline of the test.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Age at which a connection is replaced, so that the load follows changes of a cluster.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A pool of connections for one purpose.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    nodes: Nodes,
    /// Settings of the connections, beyond those of all pools.
    session: Session,
    /// Known from the first connection on.
    server: OnceCell<Server>,
    /// The number of connections that were opened so far.
    opened: AtomicU64,
    permits: Arc<Semaphore>,
    /// Idle connections. The last used one is used next.
    idle: Mutex<Vec<Idle>>,
    acquire_timeout: Duration,
}

struct Idle {
    connection: NodeConnection,
    is_galera: bool,
    generation: u64,
    made: Instant,
    since: Instant,
}

/// A connection that knows its server.
pub(super) struct NodeConnection {
    connection: MySqlConnection,
    server: Arc<Address>,
}

impl NodeConnection {
    /// The connection, and the span of one round trip on it.
    fn in_span(&mut self, sql: &str) -> (&mut MySqlConnection, Span) {
        let operation = operation(sql);
        (&mut self.connection, round_trip(operation, operation, Some(&self.server)))
    }
}

impl OnNode for NodeConnection {
    fn parts(&mut self) -> (&mut MySqlConnection, Option<&Address>) {
        (&mut self.connection, Some(&self.server))
    }
}

impl OnNode for Lease {
    fn parts(&mut self) -> (&mut MySqlConnection, Option<&Address>) {
        self.connection.parts()
    }
}

impl Deref for NodeConnection {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        &self.connection
    }
}

impl DerefMut for NodeConnection {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }
}

impl Connections {
    /// A pool of at most `size` connections, which are opened when needed. A caller waits for a free
    /// one for `acquire_timeout` at most.
    pub(super) fn new(nodes: Nodes, session: Session, size: usize, acquire_timeout: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(size.max(1)));
        let (server, opened, idle) = (OnceCell::new(), AtomicU64::new(0), Mutex::default());
        Self(Arc::new(Shared { nodes, session, server, opened, permits, idle, acquire_timeout }))
    }

    /// A connection that is in no transaction.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: no connection was free or opened in time.
    /// [`StoreError::Failed`]: the server refuses.
    pub(super) async fn take(&self) -> Result<Lease, StoreError> {
        timeout(self.0.acquire_timeout, self.take_or_connect())
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no connection in time".into())))
    }

    /// A connection, and the result of `first` on it. If the connection was closed while idle, for
    /// example by `wait_timeout` or a restart of the server, it is replaced once and `first` runs
    /// again. So `first` must commit nothing or be repeatable.
    ///
    /// # Errors
    /// The errors of [`Self::take`] and of `first`.
    pub(super) async fn take_with<T>(
        &self,
        first: impl for<'c> Fn(&'c mut NodeConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    ) -> Result<(Lease, T), StoreError> {
        let mut lease = self.take().await?;
        let answer = match lease.unless_lost(&first).await {
            Err(StoreError::Unavailable(_)) if lease.was_idle => {
                // The server was restarted, or another took over: the other idle connections are
                // dead too.
                self.0.idle().clear();
                drop(lease);
                lease = self.take().await?;
                lease.unless_lost(&first).await
            }
            answer => answer,
        };
        match answer {
            Ok(answer) => Ok((lease, answer)),
            Err(error) => {
                self.0.nodes.renew_if_read_only(lease.generation, &error);
                if matches!(error, StoreError::Unavailable(_)) {
                    self.0.idle().clear();
                }
                Err(error)
            }
        }
    }

    async fn take_or_connect(&self) -> Result<Lease, StoreError> {
        let permit = self.0.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
        let nodes = &self.0.nodes;
        let in_use = nodes.in_use();
        loop {
            // A lock in the head of the loop would be held through its body.
            let rested = self.0.next_idle(in_use.generation());
            let Some(Idle { mut connection, is_galera, generation, made, since }) = rested else { break };
            if made.elapsed() > LIFETIME {
                continue;
            }
            let lives =
                since.elapsed() < FRESH || matches!(timeout(TRIAL_TIMEOUT, connection.ping()).await, Ok(Ok(())));
            if lives {
                return Ok(Lease {
                    connection,
                    generation,
                    made,
                    was_idle: true,
                    is_read_only: false,
                    is_galera,
                    shared: self.0.clone(),
                    _permit: permit,
                });
            }
        }
        let (Opened { connection, is_read_only, is_galera }, in_use) = self.connect().await?;
        self.0.opened.fetch_add(1, Relaxed);
        let (generation, made, shared) = (in_use.generation(), Instant::now(), self.0.clone());
        let connection = NodeConnection { connection, server: shared.nodes.address(in_use) };
        Ok(Lease { connection, generation, made, was_idle: false, is_read_only, is_galera, shared, _permit: permit })
    }

    /// Connects to the node in use. Begins again if that node is lost meanwhile.
    async fn connect(&self) -> Result<(Opened, InUse), StoreError> {
        let Shared { nodes, session, server, .. } = &*self.0;
        loop {
            let in_use = nodes.in_use();
            let connecting = async {
                let mut opened = connect_with(nodes.options(in_use), *session).await?;
                server.get_or_try_init(|| Server::of(&mut opened.connection)).await?;
                Ok((opened, in_use))
            };
            tokio::select! {
                biased;
                connected = connecting => return connected,
                _ = nodes.lost(in_use.generation()) => {}
            }
        }
    }

    /// All rows of one repeatable query that commits by itself.
    ///
    /// # Errors
    /// The errors of [`Self::take`] and of the query.
    pub(super) async fn fetch_all(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<Vec<MySqlRow>, StoreError> {
        let (sql, arguments) = parts(query)?;
        let (lease, rows) = self
            .take_with(|connection| {
                let query = sqlx::query_with(sql.clone(), arguments.clone());
                let (connection, span) = connection.in_span(sql.as_str());
                let fetching = async move { query.fetch_all(connection).await.map_err(store_error) };
                spans::traced(span, fetching).boxed()
            })
            .await?;
        lease.give_back();
        Ok(rows)
    }

    /// Runs one repeatable statement that commits by itself. Returns the number of matched rows.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub(super) async fn execute(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<u64, StoreError> {
        let (sql, arguments) = parts(query)?;
        let (lease, done) = self
            .take_with(|connection| {
                let query = sqlx::query_with(sql.clone(), arguments.clone());
                let (connection, span) = connection.in_span(sql.as_str());
                let executing = async move { query.execute(connection).await.map_err(store_error) };
                spans::traced(span, executing).boxed()
            })
            .await?;
        lease.give_back();
        Ok(done.rows_affected())
    }

    /// As [`Self::fetch_all`], for statements of variable length. Returns the rows of each.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub(super) async fn fetch(&self, statement: Statement) -> Result<Vec<Vec<MySqlRow>>, StoreError> {
        let fetched = self.take_with(|connection| statement.clone().fetch(connection).boxed());
        let (lease, sets) = fetched.await?;
        lease.give_back();
        Ok(sets)
    }

    /// As [`Self::fetch`], for a statement that takes long: it runs once. A repeat after its time limit would take
    /// as long again. The ping replaces a connection that was closed while idle.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub(super) async fn fetch_once(&self, statement: Statement) -> Result<Vec<Vec<MySqlRow>>, StoreError> {
        let taken = self.take_with(|connection| async move { connection.ping().await.map_err(store_error) }.boxed());
        let (mut lease, ()) = taken.await?;
        let sets = lease.unless_lost(|connection| statement.clone().fetch(connection).boxed()).await?;
        lease.give_back();
        Ok(sets)
    }

    /// Runs repeatable statements that leave no transaction open.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub(super) async fn run(&self, statement: Statement) -> Result<(), StoreError> {
        let (lease, ()) = self.take_with(|connection| statement.clone().execute(connection).boxed()).await?;
        lease.give_back();
        Ok(())
    }

    /// Closes the idle connections, after the node in use has changed. Those in use are closed when
    /// they are given back.
    pub(super) fn close_idle(&self) {
        self.0.idle().clear();
    }

    /// Closes the pool and its idle connections. No connection can be taken any more.
    pub(super) async fn close(&self) {
        self.0.permits.close();
        let idle = std::mem::take(&mut *self.0.idle());
        for Idle { connection, .. } in idle {
            // An idle connection may be dead.
            let _ = connection.connection.close().await;
        }
    }
}

/// The parts of a query, from which it can be built again.
fn parts(mut query: Query<'_, MySql, MySqlArguments>) -> Result<(SqlStr, MySqlArguments), StoreError> {
    let arguments = query.take_arguments().map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok((query.sql(), arguments.unwrap_or_default()))
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the idle connection that was used last. Closes those of other generations.
    fn next_idle(&self, generation: u64) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|idle| idle.generation == generation);
        idle.pop()
    }
}

/// A connection in use. It is closed when dropped, unless it is given back.
pub(super) struct Lease {
    connection: NodeConnection,
    /// The generation of the node in use when the connection was opened.
    generation: u64,
    made: Instant,
    /// Whether the connection was idle in the pool, so that the server may have closed it.
    was_idle: bool,
    /// The server took no writes when the connection was opened. It may be a old primary that its
    /// name will soon not lead to, so the connection is used once.
    is_read_only: bool,
    /// The server is a node of a Galera cluster.
    is_galera: bool,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The kind of the server.
    pub(super) fn server(&self) -> Server {
        self.shared.server.get().copied().unwrap_or_default()
    }

    /// Whether a settlement may write behind guards in place of a read. On a node of a cluster they could miss a
    /// limit that another node has just set.
    pub(super) fn takes_guards(&self) -> bool {
        self.server().takes_compounds() && !self.is_galera
    }

    /// The number of connections that its pool has opened so far.
    pub(super) fn epoch(&self) -> u64 {
        self.shared.opened.load(Relaxed)
    }

    /// Returns the connection to the pool. Its statements must have ended, without an open
    /// transaction.
    pub(super) fn give_back(self) {
        let Lease { connection, generation, made, is_read_only, is_galera, shared, .. } = self;
        let mut idle = shared.idle();
        // Under the lock, so that `close` and `close_idle` find the connection, or this sees the closed
        // pool or the new node.
        if !is_read_only && !shared.permits.is_closed() && shared.nodes.is_current(generation) {
            idle.push(Idle { connection, is_galera, generation, made, since: Instant::now() });
        }
    }

    /// Runs `work`, but does not wait for the answer of a node that is lost.
    async fn unless_lost<T>(
        &mut self,
        work: impl for<'c> Fn(&'c mut NodeConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (nodes, generation) = (self.shared.nodes.clone(), self.generation);
        tokio::select! {
            biased;
            answer = work(&mut self.connection) => answer,
            lost = nodes.lost(generation) => Err(lost),
        }
    }
}

impl Deref for Lease {
    type Target = NodeConnection;

    fn deref(&self) -> &NodeConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut NodeConnection {
        &mut self.connection
    }
}
