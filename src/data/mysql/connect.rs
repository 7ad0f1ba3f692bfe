//! Opens one connection with the settings that all connections have.

use sqlx::{Connection, MySqlConnection, mysql::MySqlConnectOptions};

use super::{statement::Statement, variables::Variables};
use crate::{
    biz::values::error::StoreError,
    data::{
        error::store_error,
        tls::{ClientIdentity, ClientTls},
    },
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

/// The variables that a new connection asks for.
const VARIABLES: &str = "; SHOW VARIABLES WHERE Variable_name IN ('wsrep_on', 'read_only', 'innodb_read_only')";

/// The settings of a connection to a Galera node. A read waits until the node has applied all
/// commits that other nodes have acknowledged. A node that lost its cluster refuses it.
const GALERA_CURRENT: &str = "SET SESSION wsrep_sync_wait = 1, wsrep_dirty_reads = OFF";
/// As [`GALERA_CURRENT`], but a read does not wait.
const GALERA_OF_NODE: &str = "SET SESSION wsrep_sync_wait = 0, wsrep_dirty_reads = OFF";

/// The settings of a connection beyond those of all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Session {
    /// Statements, each behind a semicolon.
    pub settings: &'static str,
    /// The commits that a read on a node of a cluster sees.
    pub reads: Reads,
}

/// The commits that a read on a node of a cluster sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reads {
    /// Every commit that any node has acknowledged.
    #[default]
    Current,
    /// The commits that the node has applied. Nothing may be decided on them.
    OfNode,
}

/// Adds the authorities and the certificate for TLS. The driver trusts its own list of public
/// authorities too.
pub fn with_tls(options: MySqlConnectOptions, tls: &ClientTls) -> MySqlConnectOptions {
    let options = options.ssl_ca_from_pem(tls.authorities.clone());
    match &tls.identity {
        Some(ClientIdentity { cert, key }) => options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key),
        None => options,
    }
}

/// Opens a connection with the common settings.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection, StoreError> {
    connect_with(options, Session::default()).await.map(|opened| opened.connection)
}

/// A new connection.
pub(super) struct Opened {
    pub connection: MySqlConnection,
    /// Whether the server took no writes when the connection was opened.
    pub is_read_only: bool,
    /// Whether the server is a node of a Galera cluster.
    pub is_galera: bool,
}

/// As [`connect`], with the further settings of `session`.
///
/// # Errors
/// As [`connect`].
pub(super) async fn connect_with(options: &MySqlConnectOptions, session: Session) -> Result<Opened, StoreError> {
    let mut connection = MySqlConnection::connect_with(options).await.map_err(store_error)?;
    let mut settings = Statement::new(SESSION);
    settings.push(session.settings).push(VARIABLES);
    let variables = Variables::of(&settings.fetch(&mut connection).await?)?;
    let is_galera = variables.is("wsrep_on", "ON");
    if is_galera {
        let reads = match session.reads {
            Reads::Current => GALERA_CURRENT,
            Reads::OfNode => GALERA_OF_NODE,
        };
        Statement::new(reads).execute(&mut connection).await?;
    }
    Ok(Opened { is_read_only: variables.are_read_only(), is_galera, connection })
}
