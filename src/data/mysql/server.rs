//! The servers whose SQL differs where this service notices.

use sqlx::MySqlConnection;

use super::statement::LockMode;
use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, row::Columns},
};

/// The kind of a server, from the version it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::data) enum Server {
    #[default]
    MySql,
    MariaDb,
    TiDb,
}

impl Server {
    /// Asks the server.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    pub(in crate::data) async fn of(connection: &mut MySqlConnection) -> Result<Self, StoreError> {
        let row = sqlx::query("SELECT VERSION()").fetch_one(connection).await.map_err(store_error)?;
        Ok(Self::of_version(&row.text(0)?))
    }

    fn of_version(version: &str) -> Self {
        match version {
            _ if version.contains("TiDB") => Self::TiDb,
            _ if version.contains("MariaDB") => Self::MariaDb,
            _ => Self::MySql,
        }
    }

    /// How a settlement locks that need not wait. TiDB accepts SKIP LOCKED and then locks nothing.
    pub(super) fn skip_locked(self) -> LockMode {
        match self {
            Self::MySql | Self::MariaDb => LockMode::Skip,
            Self::TiDb => LockMode::Wait,
        }
    }

    /// Whether a packet may be a compound statement. MySQL has them only in stored programs.
    pub(super) fn takes_compounds(self) -> bool {
        self == Self::MariaDb
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settlement_never_skips_locks_on_tidb() {
        for (version, mode) in [
            ("8.0.11-TiDB-v8.5.6", LockMode::Wait),
            ("10.11.11-MariaDB-0+deb12u1", LockMode::Skip),
            ("8.4.3", LockMode::Skip),
        ] {
            assert_eq!(Server::of_version(version).skip_locked(), mode, "{version}");
        }
    }
}
