//! Opens one connection with the settings that all connections have.

use sqlx::{Connection, MySqlConnection, mysql::MySqlConnectOptions};

use super::statement::Statement;
use crate::{
    biz::values::error::StoreError,
    data::{
        error::store_error,
        row::Columns,
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

/// The settings of a connection to a Galera node. A read waits until the node has applied all
/// commits that other nodes have acknowledged. A node that lost its cluster refuses it.
const GALERA_SESSION: &str = "SET SESSION wsrep_sync_wait = 1, wsrep_dirty_reads = OFF";

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
    connect_with(options, "").await
}

/// As [`connect`], with the further settings of `session`.
///
/// # Errors
/// As [`connect`].
pub(super) async fn connect_with(
    options: &MySqlConnectOptions,
    session: &'static str,
) -> Result<MySqlConnection, StoreError> {
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
