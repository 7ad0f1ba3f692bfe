//! Transactions as text: packets of several statements that commit as a whole or not at all.
//!
//! A replicated write of another Galera node can abort a transaction between two statements of a
//! packet. MariaDB then goes on with the rest of the packet outside of the transaction. Two guards
//! keep that rest from being committed:
//! - The savepoint that begins a transaction ends with it. Its release stands before the COMMIT,
//!   fails in any other transaction, and stops the packet. Connections for transactions have
//!   `autocommit = 0`, so no statement commits alone before that.
//! - On MariaDB a packet that commits is one compound statement, which ends at the first error. An
//!   abort between the release and the COMMIT can't go unnoticed. The comments hide the compound
//!   statement from other servers.

use super::statement::{LockMode, Statement};

const BEGIN: &str = "START TRANSACTION; SAVEPOINT whole; ";
/// Statements of [`Statement::begin`]. They have no rows.
pub(super) const BEGINNING: usize = 2;

/// Settings of a connection for transactions, see above.
pub(super) const SESSION: &str = "; SET SESSION autocommit = 0";
/// As [`SESSION`], where all accounts share the connections. MySQL has no shorter wait for a lock
/// than a second. MariaDB has none with [`LockMode::Skip`].
pub(super) const SHARED_SESSION: &str = "; SET SESSION autocommit = 0 /*!80000 , innodb_lock_wait_timeout = 1 */";

/// From here on a statement that would wait for a lock fails at once. Not for the whole session:
/// MariaDB then refuses SKIP LOCKED, too. For other servers the statement sets what is set already.
const NO_WAIT: &str = "SET SESSION /*M! innodb_lock_wait_timeout = 0, */ autocommit = 0; ";
/// Ends [`NO_WAIT`], with the wait of every session.
const WAIT_AGAIN: &str = "SET SESSION /*M! innodb_lock_wait_timeout = 2, */ autocommit = 0; ";

impl Statement {
    /// Begins a transaction that goes on in later packets. [`Self::committing`] ends it.
    pub(super) fn begin(&mut self) -> &mut Self {
        self.push(BEGIN)
    }

    /// A packet of [`Self::begin`].
    pub(super) fn beginning(mode: LockMode) -> Self {
        let mut statement = Self::new("").named("begin");
        statement.push_mode(mode).begin();
        statement
    }

    /// A packet that goes on with the transaction of [`Self::begin`], by the statements that
    /// `write` pushes, and commits it. Each statement ends with a semicolon.
    pub(super) fn committing(mode: LockMode, write: impl FnOnce(&mut Self)) -> Self {
        Self::compound("", mode, write)
    }

    /// A packet that is a transaction of its own.
    pub(super) fn transaction(write: impl FnOnce(&mut Self)) -> Self {
        Self::compound(BEGIN, LockMode::Wait, write)
    }

    /// As [`Self::transaction`], but it waits for no lock. `write` may push statements that only a compound
    /// statement can have.
    pub(super) fn guarded(write: impl FnOnce(&mut Self)) -> Self {
        Self::compound(BEGIN, LockMode::Skip, write)
    }

    /// Ends a transaction without a trace.
    pub(super) fn rolling_back() -> Self {
        let mut statement = Self::new(WAIT_AGAIN).named("roll back");
        statement.push("ROLLBACK");
        statement
    }

    /// Statements that each commit by themselves. `write` pushes them with their COMMITs.
    pub(super) fn separate(mode: LockMode, write: impl FnOnce(&mut Self)) -> Self {
        let mut statement = Self::new("").named("separate commits");
        write(statement.push_mode(mode));
        statement.push(WAIT_AGAIN).push("COMMIT");
        statement
    }

    fn compound(begin: &'static str, mode: LockMode, write: impl FnOnce(&mut Self)) -> Self {
        let mut statement = Self::new("/*M! BEGIN NOT ATOMIC */ ").named("write and commit");
        write(statement.push_mode(mode).push(begin));
        if mode == LockMode::Skip {
            statement.push(WAIT_AGAIN);
        }
        // No server takes an empty statement behind the last semicolon.
        statement.push("RELEASE SAVEPOINT whole; COMMIT /*M! ; END */");
        statement
    }

    fn push_mode(&mut self, mode: LockMode) -> &mut Self {
        self.push(match mode {
            LockMode::Wait => "",
            LockMode::Skip => NO_WAIT,
        })
    }
}
