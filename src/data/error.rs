//! Maps driver errors to [`StoreError`]: a conflict, an outage, or a defect.

use std::fmt::Display;

use crate::biz::values::error::{Outage, StoreError};

pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let text = error.to_string();
    match error {
        sqlx::Error::Database(error) => {
            if let Some(mysql) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
                of_mysql(mysql.number(), text)
            } else {
                of_sqlite(error.code().and_then(|code| code.parse().ok()), text)
            }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(text.into()),
        _ => StoreError::Failed(text),
    }
}

/// As [`store_error`], for a statement that changes tables. If another session kept its table locked for too
/// long, the error says so.
pub(super) fn schema_error(error: sqlx::Error) -> StoreError {
    if is_lock_timeout(&error) { StoreError::Unavailable(locked(&error).into()) } else { store_error(error) }
}

/// The text of an error of a statement that changes tables.
pub(super) fn locked(error: &(impl Display + ?Sized)) -> String {
    format!(
        "{error}: another session uses a table that is to be changed, for example in a long transaction or a backup; \
         end it (SHOW FULL PROCESSLIST names it), and start again. Finished steps are kept"
    )
}

/// Whether MySQL gave up the wait for the lock of a table or a row.
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().is_some_and(|mysql| mysql.number() == 1205)
}

fn of_mysql(number: u16, text: String) -> StoreError {
    match number {
        // A row, or a table, changed since the transaction began; lock wait timeout; deadlock, or
        // certification failed on Galera; rolled back by group replication.
        1020 | 1205 | 1213 | 1412 | 3101 => StoreError::Conflict(text),
        // The wait for the next number of a table met a deadlock or a time limit: concurrent inserts into `event`.
        1467 => StoreError::Conflict(text),
        // TiDB: a lock that can't be taken again, write conflicts, a commit to be retried, tables
        // that changed meanwhile. The transaction is rolled back.
        8002 | 8005 | 8022 | 8028 | 9007 => StoreError::Conflict(text),
        // The transaction was aborted between two statements of a packet, and its savepoint is gone.
        1305 => StoreError::Conflict(text),
        // Another process inserted the key in the meantime; a retry finds it.
        1062 => StoreError::Conflict(without_entry(text)),
        // The disk is full or fails, or the commit failed.
        1021 | 1026 | 1030 | 1114 | 1180 => StoreError::Unavailable(text.into()),
        // Read-only, as the old primary after a failover.
        1290 | 1792 | 1836 => StoreError::Unavailable(Outage { why: text, is_read_only: true }),
        // Too many connections, out of resources, shutting down, cluster node not ready, statement or
        // connection killed, a time limit of the server.
        1040 | 1041 | 1047 | 1053 | 1203 | 1226 | 1317 | 1927 | 1969 | 3024 | 3100 | 4031 => {
            StoreError::Unavailable(text.into())
        }
        // TiDB: an error without a number of its own, such as that of a statement killed while it
        // wrote; its schema is older than allowed; no timestamps; storage that does not answer, is
        // busy, resolves no locks or is away; a snapshot that is gone.
        1105 | 8027 | 9001..=9006 => StoreError::Unavailable(text.into()),
        _ => StoreError::Failed(text),
    }
}

/// The text of a duplicate without its entry, which holds ids of users and calls. Logs show the text.
fn without_entry(text: String) -> String {
    const BEFORE: &str = "Duplicate entry";
    const AFTER: &str = " for key ";
    match (text.find(BEFORE), text.rfind(AFTER)) {
        (Some(before), Some(after)) if before + BEFORE.len() <= after => {
            format!("{}{}", &text[..before + BEFORE.len()], &text[after..])
        }
        _ => text,
    }
}

pub(super) fn of_sqlite(code: Option<i32>, text: String) -> StoreError {
    // Other constraints are defects.
    if is_taken(code) {
        return StoreError::Conflict(text);
    }
    // The low byte is the primary code of an extended one.
    match code.map(|code| code & 0xff) {
        // BUSY, LOCKED.
        Some(5 | 6) => StoreError::Conflict(text),
        // READONLY, INTERRUPT, IOERR, FULL, CANTOPEN.
        Some(8 | 9 | 10 | 13 | 14) => StoreError::Unavailable(text.into()),
        _ => StoreError::Failed(text),
    }
}

/// Whether SQLite refused a row because its key exists: PRIMARYKEY, UNIQUE.
pub(super) fn is_taken(code: Option<i32>) -> bool {
    matches!(code, Some(1555 | 2067))
}

/// An error for a stored value that the domain does not know; `what` names the column or field.
pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Failed(format!("stored {what} is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_a_read_only_server_are_told_from_other_outages() {
        for (number, is_read_only) in [(1290, true), (1836, true), (1047, false), (1213, false)] {
            assert_eq!(of_mysql(number, String::new()).is_read_only(), is_read_only, "{number}");
        }
    }

    #[test]
    fn a_number_that_a_table_could_not_give_is_a_conflict() {
        assert!(matches!(of_mysql(1467, String::new()), StoreError::Conflict(_)));
    }

    #[test]
    fn the_error_of_a_duplicate_names_the_key_and_not_the_entry() {
        let text = "1062 (23000): Duplicate entry 'a user for key x' for key 'PRIMARY'";
        let StoreError::Conflict(shown) = of_mysql(1062, text.into()) else { panic!("no conflict") };
        assert_eq!(shown, "1062 (23000): Duplicate entry for key 'PRIMARY'");
        assert_eq!(of_mysql(1062, "other".into()), StoreError::Conflict("other".into()));
    }

    #[test]
    fn errors_of_tidb_are_retried_or_outages() {
        for number in [8002, 8005, 8022, 8028, 9007] {
            assert!(matches!(of_mysql(number, String::new()), StoreError::Conflict(_)), "{number}");
        }
        for number in [1105, 8027, 9001, 9002, 9003, 9004, 9005, 9006] {
            assert!(matches!(of_mysql(number, String::new()), StoreError::Unavailable(_)), "{number}");
        }
        assert!(matches!(of_mysql(8200, String::new()), StoreError::Failed(_)));
    }
}
