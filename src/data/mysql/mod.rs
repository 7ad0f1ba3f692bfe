//! The store on MySQL 8, MariaDB 10.6+, TiDB, and clusters that speak their protocol.
//!
//! Amounts are `DECIMAL(20,6)`, times `DATETIME(6)` in UTC. Columns with a binary collation arrive
//! as bytes, so [`text`] decodes all text. Instants are bound as naive times: sqlx sends other
//! times as TIMESTAMP, whose range is 1970 to 2038.

mod account;
mod audit_trail;
mod connect;
mod connections;
mod deliveries;
mod events;
mod exports;
mod identity;
mod jobs;
mod legacy;
mod limits;
mod nodes;
mod prices;
mod recharge;
mod record_transactions;
mod reports;
mod row;
mod schema_lock;
mod server;
mod settlement;
mod statement;
mod statements;
mod transaction;
mod unapplied;
mod usage;
mod variables;
mod webhooks;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::Connection;
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::server::Server;
use self::{
    connect::Session,
    connections::Connections,
    nodes::{check, ledger::OnNodeInUse, watch},
    settlement::recent::RecentAccounts,
    transaction::{SESSION, SHARED_SESSION},
};
pub use self::{
    connect::{Reads, with_tls},
    legacy::UpgradeOptions,
    nodes::{Nodes, Pace},
};
use super::{
    Store,
    error::store_error,
    plan::{Announce, UpgradePlan},
};
use crate::biz::{
    settlement::{ledger::Ledger, lookup::FullLookups},
    values::error::StoreError,
};

/// A MySQL-compatible database.
pub struct MySqlStore {
    nodes: Nodes,
    /// Changes the node in use; `None` for a single node.
    watch: Option<AbortOnDropHandle<()>>,
    /// Connections for single statements that commit by themselves.
    reader: Connections,
    /// Connections for reads that only show. They may be those of `reader`.
    viewer: Connections,
    /// Connections for transactions that do not wait for locks.
    writer: Connections,
    /// Connections for transactions that wait for the locks of others, for changes of limits, and for
    /// jobs.
    waiter: Connections,
    /// Connections for transactions that write the rollup by service, model and API key, so that these take
    /// none from settlements.
    summer: Connections,
    full_lookups: FullLookups,
    recent: RecentAccounts,
}

/// Most transactions that write the rollup by service, model and API key at once.
const SUMMERS: usize = 2;

/// The number of connections of a store, and the longest wait for one.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Connections for reads that decide. Reads that only show have as many more if they may lag.
    pub readers: usize,
    /// The commits that reads which only show must see.
    pub show_reads: Reads,
    pub writers: usize,
    /// Most settlements that wait for a lock at once.
    pub waiters: usize,
    pub acquire_timeout: Duration,
    /// The number of batches with full look-ups after a repeated id, see [`FullLookups`].
    pub full_lookups: u32,
}

impl MySqlStore {
    /// A store on a schema that is up to date, see [`bring_up_to_date`]. Connects at the first use.
    /// Several nodes are watched from now on.
    pub fn new(nodes: Nodes, limits: PoolLimits) -> Self {
        let pool = |session, size| Connections::new(nodes.clone(), session, size, limits.acquire_timeout);
        let reads = |reads| pool(Session { settings: "", reads }, limits.readers);
        let transactions = |settings, size| pool(Session { settings, reads: Reads::Current }, size);
        let reader = reads(Reads::Current);
        let viewer = match limits.show_reads {
            Reads::Current => reader.clone(),
            Reads::OfNode => reads(Reads::OfNode),
        };
        let writer = transactions(SHARED_SESSION, limits.writers);
        let waiter = transactions(SESSION, limits.waiters);
        let summer = transactions(SESSION, SUMMERS);
        let all = [&reader, &viewer, &writer, &waiter, &summer].map(Clone::clone);
        Self {
            watch: watch::start(&nodes, all.into()),
            reader,
            viewer,
            writer,
            waiter,
            summer,
            nodes,
            full_lookups: FullLookups::new(limits.full_lookups),
            recent: RecentAccounts::default(),
        }
    }
}

/// Takes the first usable node into use and migrates the schema, also from the legacy service. Calls `announce` with the plan before any
/// change.
///
/// # Errors
/// [`StoreError::Unavailable`]: the server is unavailable, or another process migrates.
/// [`StoreError::Failed`]: the server refuses, a migration failed, or the data of the legacy service
/// can't be converted.
pub async fn bring_up_to_date(
    nodes: &Nodes,
    connect_timeout: Duration,
    upgrade: &UpgradeOptions,
    announce: &Announce,
) -> Result<(), StoreError> {
    let mut connection = nodes.choose(connect_timeout).await?;
    legacy::bring_up_to_date(&mut connection, nodes.options(nodes.in_use()), upgrade, announce).await?;
    connection.close().await.map_err(store_error)
}

/// The plan of [`bring_up_to_date`]. Changes nothing.
///
/// # Errors
/// As [`bring_up_to_date`].
pub async fn plan(
    nodes: &Nodes,
    connect_timeout: Duration,
    upgrade: &UpgradeOptions,
) -> Result<UpgradePlan, StoreError> {
    let mut connection = nodes.choose(connect_timeout).await?;
    let plan = legacy::plan(&mut connection, upgrade).await?;
    connection.close().await.map_err(store_error)?;
    Ok(plan)
}

#[async_trait]
impl Store for MySqlStore {
    async fn was_changed_elsewhere(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let generation = self.nodes.in_use().generation();
        check::ensure_fit(&self.reader.fetch(check::state()).await?).inspect_err(|fault| {
            if fault.is_unfit() {
                self.nodes.renew(generation);
            }
        })?;
        self.reader.fetch(check::identity()).await.map(|_| ())
    }

    fn ledger(self: Arc<Self>) -> Arc<dyn Ledger> {
        Arc::new(OnNodeInUse { nodes: self.nodes.clone(), ledger: self })
    }

    fn is_on_first_host(&self) -> bool {
        self.nodes.is_first_in_use()
    }

    async fn close(&self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        self.writer.close().await;
        self.waiter.close().await;
        self.summer.close().await;
        self.reader.close().await;
        self.viewer.close().await;
    }
}
