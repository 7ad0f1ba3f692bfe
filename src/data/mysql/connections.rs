//! A bounded pool of connections. A connection is reused only if its last user gave it back clean.
//!
//! The pool of sqlx takes every connection back, rolls a cancelled transaction back, and pings the
//! server: two round trips per use. This pool closes a connection whose user failed or was cancelled,
//! and the server then ends the transaction.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use sqlx::{
    Connection, Execute, MySql, MySqlConnection, SqlStr,
    mysql::{MySqlArguments, MySqlConnectOptions, MySqlRow},
    query::Query,
};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{server::Server, statement::Statement};
use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, row::Columns},
};

/// The settings of every connection, so that the server's defaults do not matter.
/// - Read committed: no gap locks, and a read after the account's lock sees the last commit.
/// - Strict mode: a value that does not fit is an error and is never truncated.
/// - Time limits: a frozen process or lost machine does not hold its locks for hours. MySQL has such
///   a limit for idle connections only.
/// - No list of keys becomes a subquery, which would lock in another order.
/// - TiDB takes locks when a statement runs, and not at the commit.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
    autocommit = 1, innodb_lock_wait_timeout = 2, wait_timeout = 30 \
    /*M! , idle_transaction_timeout = 5, in_predicate_conversion_threshold = 0 */ \
    /*T! , tidb_txn_mode = 'pessimistic', tidb_idle_transaction_timeout = 5 */";

/// The settings of a connection to a Galera node. A read waits until the node has applied all
/// commits that other nodes have acknowledged. A node that lost its cluster refuses it.
const GALERA_SESSION: &str = "SET SESSION wsrep_sync_wait = 1, wsrep_dirty_reads = OFF";

/// Idle time after which a connection is tested before its use.
const FRESH: Duration = Duration::from_secs(1);
/// Deadline of the test.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Age at which a connection is replaced, so that the load follows changes of a cluster.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Opens a connection with the common settings.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection, StoreError> {
    connect_with(options, "").await
}

async fn connect_with(options: &MySqlConnectOptions, session: &'static str) -> Result<MySqlConnection, StoreError> {
    let mut connection = MySqlConnection::connect_with(options).await.map_err(store_error)?;
    let mut settings = Statement::new(SESSION);
    settings.push(session).push("; SHOW VARIABLES LIKE 'wsrep_on'");
    let sets = settings.fetch(&mut connection).await?;
    let wsrep_on = sets.iter().flatten().next().map(|row| row.text(1)).transpose()?;
    if wsrep_on.is_some_and(|value| value == "ON") {
        Statement::new(GALERA_SESSION).execute(&mut connection).await?;
    }
    Ok(connection)
}

/// A pool of connections for one purpose.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    options: MySqlConnectOptions,
    /// Settings of the connections, beyond those of all pools.
    session: &'static str,
    /// Known from the first connection on.
    server: OnceCell<Server>,
    permits: Arc<Semaphore>,
    /// Idle connections. The last used one is used next.
    idle: Mutex<Vec<Idle>>,
    acquire_timeout: Duration,
}

struct Idle {
    connection: MySqlConnection,
    made: Instant,
    since: Instant,
}

impl Connections {
    /// A pool of at most `size` connections, which are opened when needed. A caller waits for a free
    /// one for `acquire_timeout` at most.
    pub(super) fn new(options: MySqlConnectOptions, size: usize, acquire_timeout: Duration) -> Self {
        Self::with_session(options, "", size, acquire_timeout)
    }

    /// As [`Self::new`], with further settings.
    pub(super) fn with_session(
        options: MySqlConnectOptions,
        session: &'static str,
        size: usize,
        acquire_timeout: Duration,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(size.max(1)));
        let server = OnceCell::new();
        Self(Arc::new(Shared { options, session, server, permits, idle: Mutex::default(), acquire_timeout }))
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
        first: impl for<'c> Fn(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    ) -> Result<(Lease, T), StoreError> {
        let mut lease = self.take().await?;
        let answer = match first(&mut lease).await {
            Err(StoreError::Unavailable(_)) if lease.was_idle => {
                // The server was restarted, or another took over: the other idle connections are
                // dead too.
                self.0.idle().clear();
                drop(lease);
                lease = self.take().await?;
                first(&mut lease).await
            }
            answer => answer,
        };
        match answer {
            Ok(answer) => Ok((lease, answer)),
            Err(error) => {
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
        let lease =
            |connection, made, was_idle| Lease { connection, made, was_idle, shared: self.0.clone(), _permit: permit };
        loop {
            // A lock in the head of the loop would be held through its body.
            let rested = self.0.idle().pop();
            let Some(mut idle) = rested else { break };
            if idle.made.elapsed() > LIFETIME {
                continue;
            }
            let lives = idle.since.elapsed() < FRESH
                || matches!(timeout(TRIAL_TIMEOUT, idle.connection.ping()).await, Ok(Ok(())));
            if lives {
                return Ok(lease(idle.connection, idle.made, true));
            }
        }
        let mut connection = connect_with(&self.0.options, self.0.session).await?;
        self.0.server.get_or_try_init(|| Server::of(&mut connection)).await?;
        Ok(lease(connection, Instant::now(), false))
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
                async move { query.fetch_all(connection).await.map_err(store_error) }.boxed()
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
                async move { query.execute(connection).await.map_err(store_error) }.boxed()
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

    /// Runs repeatable statements that leave no transaction open.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub(super) async fn run(&self, statement: Statement) -> Result<(), StoreError> {
        let (lease, ()) = self.take_with(|connection| statement.clone().execute(connection).boxed()).await?;
        lease.give_back();
        Ok(())
    }

    /// Closes the pool and its idle connections. No connection can be taken any more.
    pub(super) async fn close(&self) {
        self.0.permits.close();
        let idle = std::mem::take(&mut *self.0.idle());
        for Idle { connection, .. } in idle {
            // An idle connection may be dead.
            let _ = connection.close().await;
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
}

/// A connection in use. It is closed when dropped, unless it is given back.
pub(super) struct Lease {
    connection: MySqlConnection,
    made: Instant,
    /// Whether the connection was idle in the pool, so that the server may have closed it.
    was_idle: bool,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The kind of the server.
    pub(super) fn server(&self) -> Server {
        self.shared.server.get().copied().unwrap_or_default()
    }

    /// Returns the connection to the pool. Its statements must have ended, without an open
    /// transaction.
    pub(super) fn give_back(self) {
        let Lease { connection, made, shared, .. } = self;
        let mut idle = shared.idle();
        // Under the lock, so that `close` finds the connection or this sees the closed pool.
        if !shared.permits.is_closed() {
            idle.push(Idle { connection, made, since: Instant::now() });
        }
    }
}

impl Deref for Lease {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }
}
