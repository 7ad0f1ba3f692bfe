//! System variables and status variables of a server, as `SHOW` lists them.

use std::collections::BTreeMap;

use sqlx::mysql::MySqlRow;

use crate::{biz::values::error::StoreError, data::row::Columns};

/// Values by lower-case name.
pub(super) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// From rows of a name and a value.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub(super) fn of(sets: &[Vec<MySqlRow>]) -> Result<Self, StoreError> {
        let pair = |row: &MySqlRow| Ok((row.text(0)?.to_ascii_lowercase(), row.text(1)?));
        sets.iter().flatten().map(pair).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.0.get(name).is_some_and(|found| found == value)
    }

    /// Whether the server takes no writes. A server may lack a variable. Each other value than the two
    /// of an open server means read-only.
    pub(super) fn are_read_only(&self) -> bool {
        let is_off = |name| self.0.get(name).is_none_or(|value| matches!(value.as_str(), "0" | "OFF"));
        !(is_off("read_only") && is_off("innodb_read_only"))
    }
}
