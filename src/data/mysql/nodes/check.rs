//! The check of one node: whether it takes writes and is a full member of its cluster.

use std::fmt;

use sqlx::{MySqlConnection, mysql::MySqlRow};

use crate::{
    biz::values::error::StoreError,
    data::{
        mysql::{statement::Statement, variables::Variables},
        row::Columns,
    },
};

/// The `wsrep_local_state` of a Galera node that has applied all writes of its cluster.
const GALERA_SYNCED: &str = "4";

/// The reason why a node can't be used.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No answer. The next check may get one.
    Silent(StoreError),
    /// The node says that it is read-only, or no full member of its cluster.
    Unfit(&'static str),
    /// The server refuses the login, or has not this database.
    Refused(String),
}

impl Fault {
    /// Whether the node itself says that it can't be used.
    pub(crate) fn is_unfit(&self) -> bool {
        matches!(self, Self::Unfit(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(error) => error.fmt(f),
            Self::Unfit(why) => f.write_str(why),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed(why) => Self::Refused(why),
            error => Self::Silent(error),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Silent(error) => error,
            Fault::Unfit(why) => Self::Unavailable(why.into()),
            Fault::Refused(why) => Self::Failed(why),
        }
    }
}

/// Reads the state of a node for [`ensure_fit`]. Reads no table, so that a new database has it too.
pub(crate) fn state() -> Statement {
    Statement::new(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'innodb_read_only', 'wsrep_on'); \
         SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status', 'wsrep_local_state', 'wsrep_ready')",
    )
}

/// Reads the id of the database from a table, because a cluster node without a majority still answers
/// statements without tables.
pub(crate) fn identity() -> Statement {
    Statement::new("SELECT id FROM database_identity")
}

/// Judges the rows of [`state`]. Servers without Galera have no state of a cluster.
pub(crate) fn ensure_fit(sets: &[Vec<MySqlRow>]) -> Result<(), Fault> {
    let variables = Variables::of(sets)?;
    match () {
        () if variables.are_read_only() => Err(Fault::Unfit("the database is read-only")),
        () if !variables.is("wsrep_on", "ON") => Ok(()),
        () if !variables.is("wsrep_cluster_status", "Primary") => {
            Err(Fault::Unfit("the database node is not in the primary component of its cluster"))
        }
        () if !variables.is("wsrep_local_state", GALERA_SYNCED) => {
            Err(Fault::Unfit("the database node is not synced with its cluster"))
        }
        () if !variables.is("wsrep_ready", "ON") => Err(Fault::Unfit("the database node is not ready")),
        () => Ok(()),
    }
}

/// Checks the state of a node.
pub(super) async fn settings(connection: &mut MySqlConnection) -> Result<(), Fault> {
    ensure_fit(&state().fetch(connection).await?)
}

/// Checks a node with the tables of the service. Returns the id of its database; `None` before the
/// first start has written it.
pub(super) async fn database(connection: &mut MySqlConnection) -> Result<Option<String>, Fault> {
    settings(connection).await?;
    let sets = identity().fetch(connection).await?;
    Ok(sets.iter().flatten().next().map(|row| row.text(0)).transpose()?)
}
