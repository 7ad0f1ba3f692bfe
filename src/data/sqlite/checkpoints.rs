//! Checkpoints: the pages of the log are copied to the file of the database, and the log begins again.
//!
//! The copy of a long log takes tens of milliseconds. If the writer made it, every commit would wait for
//! it. So a thread with a connection of its own copies while the writer goes on. A log begins again only when
//! all of it is copied, so at last the writer copies the few pages that it appended meanwhile.

use std::{
    cell::Cell,
    ffi::c_int,
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

/// Most copies in a row. Each is as long as what was appended during the one before it.
const COPIES: u32 = 4;

/// Numbers of pages.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Of the log, from which it is copied. A page that changed often is copied once, so a longer log is less work.
    due: c_int,
    /// Of the log, at which the writer waits for the copy, so that the log has an end on a slow disk.
    longest: c_int,
    /// Left to the writer. It copies a thousand in a few milliseconds.
    left: c_int,
    /// Appended before the next copy of a log that did not begin again, because a reader needs it.
    again: c_int,
}

/// 64 MiB, 256 MiB, 4 MiB and 16 MiB.
const LIMITS: Limits = Limits { due: 16 * 1024, longest: 64 * 1024, left: 1024, again: 4 * 1024 };

thread_local! {
    /// Pages of the log after the last commit of the connection of this thread.
    static LOG: Cell<c_int> = const { Cell::new(0) };
}

/// The checkpoints of one connection, used on its thread.
pub(super) struct Checkpoints {
    limits: Limits,
    /// `None` while it ends.
    requests: Option<SyncSender<()>>,
    ends: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    is_copying: bool,
    /// Pages of the log at the end of its last copy; 0 since it began again.
    copied: c_int,
}

impl Checkpoints {
    /// Starts the thread that copies the log by `connection`, which has to sync all that it writes.
    ///
    /// # Errors
    /// If the thread does not start.
    pub fn start(connection: Connection) -> io::Result<Self> {
        Self::start_with(connection, LIMITS)
    }

    fn start_with(connection: Connection, limits: Limits) -> io::Result<Self> {
        let (requests, requested) = sync_channel(1);
        let (end, ends) = sync_channel(1);
        let copy_all = move || {
            while let Ok(()) = requested.recv() {
                copy_most(&connection, limits.left);
                if end.send(()).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("sqlite-checkpoint".into()).spawn(copy_all)?;
        Ok(Self { limits, requests: Some(requests), ends, thread: Some(thread), is_copying: false, copied: 0 })
    }

    /// Ends the checkpoints that SQLite makes within the commits of `connection`, in favour of [`Self::go_on`].
    pub fn watch(connection: &Connection) {
        connection.wal_hook(Some(|_, pages| {
            LOG.set(pages);
            Ok(())
        }));
    }

    /// Pages of the log after the last commit. Each commit of a change appends some.
    pub fn pages() -> c_int {
        LOG.get()
    }

    /// Begins or ends a copy where that is due, after each commit of `connection`.
    pub fn go_on(&mut self, connection: &Connection) {
        let log = LOG.get();
        if log < self.copied {
            self.copied = 0;
        }
        if self.is_copying {
            let is_over =
                if log < self.limits.longest { self.ends.try_recv().is_ok() } else { self.ends.recv().is_ok() };
            if is_over {
                self.is_copying = false;
                copy(connection);
                self.copied = log;
            }
        } else if log >= self.limits.due.max(self.copied.saturating_add(self.limits.again)) {
            self.is_copying = self.requests.as_ref().is_some_and(|requests| requests.try_send(()).is_ok());
        }
    }
}

impl Drop for Checkpoints {
    /// Waits for the thread, so that it no longer uses the file.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // After a panic nothing is left to do.
            let _ = thread.join();
        }
    }
}

/// Copies until few pages are left, or a reader needs the others.
fn copy_most(connection: &Connection, left_to_writer: c_int) {
    let mut before = c_int::MAX;
    for _ in 0..COPIES {
        match copy(connection) {
            Some(left) if left > left_to_writer && left < before => before = left,
            Some(_) | None => return,
        }
    }
}

/// Copies as much as is possible without a wait. Returns the pages that are left, or `None` if nothing could be copied, as
/// while another process copies.
fn copy(connection: &Connection) -> Option<c_int> {
    let copied = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (is_busy, log, copied): (bool, c_int, c_int) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((!is_busy).then_some(log - copied))
    });
    copied.unwrap_or_else(|error| {
        tracing::warn!(%error, "the log of the database can't be copied to its file; it grows until that is possible");
        None
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SMALL: Limits = Limits { due: 64, longest: 256, left: 8, again: 16 };
    const PAGE: usize = 4096;
    /// Pages that each commit appends: the table, a new page and the header.
    const IN_COMMIT: u64 = 8;

    fn connect(file: &Path) -> Connection {
        let connection = Connection::open(file).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection
    }

    struct Log {
        folder: tempfile::TempDir,
        connection: Connection,
        checkpoints: Checkpoints,
    }

    impl Log {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("billing.db");
            std::fs::File::create(&file).unwrap();
            let connection = connect(&file);
            connection.execute_batch("CREATE TABLE t (x BLOB)").unwrap();
            let checkpoints = Checkpoints::start_with(connect(&file), SMALL).unwrap();
            Checkpoints::watch(&connection);
            Self { folder, connection, checkpoints }
        }

        fn commit(&mut self, times: u32) {
            for _ in 0..times {
                self.connection.execute("INSERT INTO t VALUES (zeroblob(?))", [PAGE]).unwrap();
                self.checkpoints.go_on(&self.connection);
            }
        }

        /// Pages of the longest log so far. The file keeps its length when the log begins again.
        fn pages(&self) -> u64 {
            std::fs::metadata(self.folder.path().join("billing.db-wal")).unwrap().len() / PAGE as u64
        }
    }

    #[test]
    fn a_log_begins_again_while_commits_go_on() {
        let mut log = Log::new();
        log.commit(2_000);
        let longest = u64::try_from(SMALL.longest).unwrap() + IN_COMMIT;
        assert!(log.pages() <= longest, "{} pages", log.pages());
        let rows: u32 = log.connection.query_one("SELECT COUNT(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 2_000);
    }

    #[test]
    fn a_reader_keeps_the_log_and_hinders_no_commit() {
        let mut log = Log::new();
        let reader = connect(&log.folder.path().join("billing.db"));
        log.commit(1);
        reader.execute_batch("BEGIN; SELECT COUNT(*) FROM t").unwrap();
        log.commit(500);
        let held = log.pages();
        assert!(held > u64::try_from(SMALL.longest).unwrap(), "{held} pages");
        let seen: u32 = reader.query_one("SELECT COUNT(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(seen, 1);
        reader.execute_batch("COMMIT").unwrap();
        log.commit(2_000);
        assert!(log.pages() <= held + u64::try_from(SMALL.longest).unwrap(), "{} pages after {held}", log.pages());
    }

    #[test]
    fn the_thread_does_not_use_the_file_after_the_end() {
        let Log { folder, connection, checkpoints } = Log::new();
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        drop((connection, checkpoints));
        // The last connection removes the log.
        assert!(!folder.path().join("billing.db-wal").exists());
    }
}
