//! The nodes of a database by preference, and the node in use.
//!
//! All connections of a process use one node, because charges of one user through two nodes
//! conflict. With several nodes [`watch`] changes the node in use.

pub(super) mod check;
pub(super) mod ledger;
pub(super) mod watch;

use std::{sync::Arc, time::Duration};

use sqlx::{ConnectOptions, Connection, MySqlConnection, mysql::MySqlConnectOptions};
use tokio::{sync::watch as channel, time::timeout};

use self::check::Fault;
use super::connect::connect;
use crate::{biz::values::error::StoreError, data::spans::Address};

/// Time for which a preferred node must have been well before it is used again. A node that comes and
/// goes must not take all servers along.
const RETURN_AFTER: Duration = Duration::from_secs(60);
/// Each process waits up to this much longer, so that not all servers connect at once.
const RETURN_JITTER: Duration = Duration::from_secs(10);

/// The waits before a return to a preferred node. Tests have shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub return_after: Duration,
    /// Upper limit of a random further wait.
    pub return_jitter: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { return_after: RETURN_AFTER, return_jitter: RETURN_JITTER }
    }
}

/// The nodes of a database, the preferred one first. Clones share the node in use.
#[derive(Clone)]
pub struct Nodes(Arc<Shared>);

struct Shared {
    /// Never empty.
    nodes: Vec<Node>,
    in_use: channel::Sender<InUse>,
    pace: Pace,
}

struct Node {
    options: MySqlConnectOptions,
    /// For traces.
    address: Arc<Address>,
    /// For logs.
    name: String,
}

/// The node in use. Each change and each renewal has a number of its own, so that a connection from
/// before it is known, even after the return to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InUse {
    index: usize,
    generation: u64,
    /// The last generation whose node was left because it failed; 0 for none.
    lost: u64,
}

impl InUse {
    pub(super) fn generation(self) -> u64 {
        self.generation
    }
}

impl Nodes {
    /// The options of each node, by preference.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: there is none.
    pub fn new(options: Vec<MySqlConnectOptions>) -> Result<Self, StoreError> {
        Self::with_pace(options, Pace::default())
    }

    /// As [`Self::new`], with other times for the watch.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_pace(options: Vec<MySqlConnectOptions>, pace: Pace) -> Result<Self, StoreError> {
        if options.is_empty() {
            return Err(StoreError::Failed("the database has no host".into()));
        }
        let node = |options: MySqlConnectOptions| {
            let name = format!("{}:{}", options.get_host(), options.get_port());
            let address = Address { host: options.get_host().to_owned(), port: options.get_port() };
            Node { options: options.disable_statement_logging(), address: address.into(), name }
        };
        let nodes = options.into_iter().map(node).collect();
        let in_use = channel::Sender::new(InUse { index: 0, generation: 1, lost: 0 });
        Ok(Self(Arc::new(Shared { nodes, in_use, pace })))
    }

    pub(super) fn are_several(&self) -> bool {
        self.0.nodes.len() > 1
    }

    /// The node in use at this moment.
    pub(super) fn in_use(&self) -> InUse {
        *self.0.in_use.borrow()
    }

    /// Whether the preferred node is in use.
    pub(super) fn is_first_in_use(&self) -> bool {
        self.in_use().index == 0
    }

    /// Whether the connections of `generation` may be used again.
    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.in_use().generation == generation
    }

    pub(super) fn options(&self, in_use: InUse) -> &MySqlConnectOptions {
        &self.0.nodes[in_use.index].options
    }

    pub(super) fn address(&self, in_use: InUse) -> Arc<Address> {
        self.0.nodes[in_use.index].address.clone()
    }

    /// Opens a connection to the node in use, outside of the pools.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    pub(super) async fn connect(&self) -> Result<MySqlConnection, StoreError> {
        connect(self.options(self.in_use())).await
    }

    /// Takes the first usable node into use, and opens a connection to it. A single node is always
    /// in use and is not checked. Each node has `time_limit` to answer.
    ///
    /// # Errors
    /// The errors of all nodes. [`StoreError::Failed`] if each of them refuses, otherwise
    /// [`StoreError::Unavailable`].
    pub(super) async fn choose(&self, time_limit: Duration) -> Result<MySqlConnection, StoreError> {
        let no_answer = |_| StoreError::Unavailable("no answer while connecting".into());
        if !self.are_several() {
            return timeout(time_limit, self.connect()).await.map_err(no_answer)?;
        }
        let (mut faults, mut can_recover) = (Vec::new(), false);
        for (index, node) in self.0.nodes.iter().enumerate() {
            let usable = timeout(time_limit, connect_if_usable(&node.options)).await;
            let fault = match usable.map_err(no_answer).map_err(Fault::Silent).flatten() {
                Ok(connection) => {
                    if index > 0 {
                        let faults = faults.join("; ");
                        tracing::warn!(host = node.name, faults, "hosts of the database not usable; using the next");
                    }
                    self.change(index, false);
                    return Ok(connection);
                }
                Err(fault) => fault,
            };
            can_recover |= !matches!(fault, Fault::Refused(_));
            faults.push(format!("{}: {fault}", node.name));
        }
        let faults = format!("no host of the database is usable: {}", faults.join("; "));
        Err(if can_recover { StoreError::Unavailable(faults.into()) } else { StoreError::Failed(faults) })
    }

    /// From now on another node is in use. `was_lost`: the old one failed, so no answer can be
    /// expected on its connections. A Galera node that lost its cluster answers the checks, but no
    /// commit.
    fn change(&self, index: usize, was_lost: bool) {
        self.0.in_use.send_if_modified(|in_use| {
            if in_use.index == index {
                return false;
            }
            let lost = if was_lost { in_use.generation } else { in_use.lost };
            *in_use = InUse { index, generation: in_use.generation + 1, lost };
            true
        });
    }

    /// From now on no connection from before is used again, because the name of the host may lead to
    /// another server. `generation` is that of the connection that showed it: connections that were
    /// opened later are kept.
    pub(super) fn renew(&self, generation: u64) {
        self.0.in_use.send_if_modified(|in_use| {
            let is_current = in_use.generation == generation;
            in_use.generation += u64::from(is_current);
            is_current
        });
    }

    /// [`Self::renew`] after the refusal of a read-only server. Behind the name of a managed database
    /// it is the old primary, whose reads are stale.
    pub(super) fn renew_if_read_only(&self, generation: u64, error: &StoreError) {
        if error.is_read_only() {
            self.renew(generation);
        }
    }

    /// Returns when the node of a connection has failed and another is in use, with the error for the
    /// work on that connection.
    pub(super) async fn lost(&self, generation: u64) -> StoreError {
        // A single node is never lost, because there is no better one.
        if self.are_several() && self.0.in_use.subscribe().wait_for(|in_use| in_use.lost >= generation).await.is_ok() {
            return StoreError::Unavailable("the database host failed, and another is in use".into());
        }
        std::future::pending().await
    }
}

async fn connect_if_usable(options: &MySqlConnectOptions) -> Result<MySqlConnection, Fault> {
    let mut connection = connect(options).await?;
    match check::settings(&mut connection).await {
        Ok(()) => Ok(connection),
        Err(fault) => {
            // The fault stands, however the connection ends.
            let _ = connection.close().await;
            Err(fault)
        }
    }
}
