//! A bounded set of connections, each of which is used again only when its last user
//! said that it left it clean.
//!
//! sqlx's own pool takes every connection back and then asks the server whether it
//! still lives; that, and the rollback that a cancelled transaction needs, are two
//! round trips to each use. Here a connection whose user failed or was cancelled is
//! closed instead, whatever state it is in, and the server ends its transaction.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    Connection, MySql, MySqlConnection,
    mysql::{MySqlArguments, MySqlConnectOptions, MySqlRow},
    query::Query,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{biz::values::error::StoreError, data::error::store_error};

/// What every connection begins with, so that the server's defaults do not matter.
/// Read committed: no gap locks, and what is read after the account's lock is what
/// its last holder committed. Strict: a value that does not fit is an error and never
/// cut to size. A process that froze, or a machine that went without a word, does not
/// hold its locks for hours; MySQL can only be told so of idle connections. And no list
/// of keys is made into a subquery, which would lock in another order.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
    autocommit = 1, innodb_lock_wait_timeout = 2, wait_timeout = 30 \
    /*M! , idle_transaction_timeout = 5, in_predicate_conversion_threshold = 0 */";

/// A connection that rested longer than this is tried before it is used.
const FRESH: Duration = Duration::from_secs(1);
/// How long the trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// An older connection is replaced, so that load follows a changed cluster.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A connection with the settings of all.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection, StoreError> {
    let mut connection = MySqlConnection::connect_with(options).await.map_err(store_error)?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await.map_err(store_error)?;
    Ok(connection)
}

/// The connections of one purpose.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    options: MySqlConnectOptions,
    permits: Arc<Semaphore>,
    /// The last one used is used next.
    idle: Mutex<Vec<Idle>>,
    acquire_timeout: Duration,
}

struct Idle {
    connection: MySqlConnection,
    made: Instant,
    since: Instant,
}

impl Connections {
    /// At most `size` at once; who finds none waits for `acquire_timeout`. Connects when needed.
    pub(super) fn new(options: MySqlConnectOptions, size: usize, acquire_timeout: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(size.max(1)));
        Self(Arc::new(Shared { options, permits, idle: Mutex::default(), acquire_timeout }))
    }

    /// A connection that is in no transaction.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none is free or made in time,
    /// [`StoreError::Failed`] when the server refuses.
    pub(super) async fn take(&self) -> Result<Lease, StoreError> {
        timeout(self.0.acquire_timeout, self.take_or_connect())
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no connection in time".into())))
    }

    async fn take_or_connect(&self) -> Result<Lease, StoreError> {
        let permit = self.0.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
        let lease = |connection, made| Lease { connection, made, shared: self.0.clone(), _permit: permit };
        loop {
            // Not in the loop's head: the lock would last for its body.
            let rested = self.0.idle().pop();
            let Some(mut idle) = rested else { break };
            if idle.made.elapsed() > LIFETIME {
                continue;
            }
            let lives = idle.since.elapsed() < FRESH
                || matches!(timeout(TRIAL_TIMEOUT, idle.connection.ping()).await, Ok(Ok(())));
            if lives {
                return Ok(lease(idle.connection, idle.made));
            }
        }
        Ok(lease(connect(&self.0.options).await?, Instant::now()))
    }

    /// All rows of one query that commits by itself.
    ///
    /// # Errors
    /// As [`Self::take`], and those of the query.
    pub(super) async fn fetch_all(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<Vec<MySqlRow>, StoreError> {
        let mut lease = self.take().await?;
        match query.fetch_all(&mut *lease).await.map_err(store_error) {
            Ok(rows) => {
                lease.give_back();
                Ok(rows)
            }
            Err(error) => {
                if matches!(error, StoreError::Unavailable(_)) {
                    // The server restarted, or another took over: the others are dead too.
                    self.0.idle().clear();
                }
                Err(error)
            }
        }
    }

    /// Runs one statement that commits by itself; how many rows it matched.
    ///
    /// # Errors
    /// As [`Self::fetch_all`].
    pub(super) async fn execute(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<u64, StoreError> {
        let mut lease = self.take().await?;
        let done = query.execute(&mut *lease).await.map_err(store_error)?;
        lease.give_back();
        Ok(done.rows_affected())
    }

    /// Lets nobody take a connection any more, and closes those at rest.
    pub(super) async fn close(&self) {
        self.0.permits.close();
        let idle = std::mem::take(&mut *self.0.idle());
        for Idle { connection, .. } in idle {
            // It may have died at rest.
            let _ = connection.close().await;
        }
    }
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
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// For the next user: its statements have ended, and it is in no transaction.
    pub(super) fn give_back(self) {
        let Lease { connection, made, shared, _permit } = self;
        let mut idle = shared.idle();
        // Under the lock, so that closing finds it or it finds the store closed.
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
