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

use super::statement::Statement;

const BEGIN: &str = "START TRANSACTION; SAVEPOINT whole; ";
/// Statements of [`Statement::begin`]. They have no rows.
pub(super) const BEGINNING: usize = 2;

/// Settings of a connection for transactions, see above.
pub(super) const SESSION: &str = "; SET SESSION autocommit = 0";

impl Statement {
    /// Begins a transaction that goes on in later packets. [`Self::committing`] ends it.
    pub(super) fn begin(&mut self) -> &mut Self {
        self.push(BEGIN)
    }

    /// A packet of [`Self::begin`].
    pub(super) fn beginning() -> Self {
        Self::new(BEGIN)
    }

    /// A packet that goes on with the transaction of [`Self::begin`], by the statements that
    /// `write` pushes, and commits it. Each statement ends with a semicolon.
    pub(super) fn committing(write: impl FnOnce(&mut Self)) -> Self {
        Self::compound("", write)
    }

    /// A packet that is a transaction of its own.
    pub(super) fn transaction(write: impl FnOnce(&mut Self)) -> Self {
        Self::compound(BEGIN, write)
    }

    fn compound(begin: &'static str, write: impl FnOnce(&mut Self)) -> Self {
        let mut statement = Self::new("/*M! BEGIN NOT ATOMIC */ ");
        statement.push(begin);
        write(&mut statement);
        // No server takes an empty statement behind the last semicolon.
        statement.push("RELEASE SAVEPOINT whole; COMMIT /*M! ; END */");
        statement
    }
}
