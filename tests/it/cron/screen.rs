//! What people see of a run.

use std::process::{Command, Stdio};

use super::{cron, migrated, run, stderr, stdout, users};
use crate::harness::{Database, Sqlite, process::CRON};

#[tokio::test]
async fn on_a_terminal_a_long_job_has_a_bar() {
    let database = migrated(Database::create(Sqlite).await).await;
    users(&database, 2_300).await;
    let conf = database.config_file(&[]);
    // `script` runs a command on a terminal of its own.
    let mut on_terminal = Command::new("script");
    let command = format!("{CRON} -conf {} --once reset-quotas", conf.display());
    on_terminal.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
    let shown = run(on_terminal).await;
    assert_eq!(shown.status.code(), Some(0));
    let shown = stdout(&shown);
    assert!(shown.contains("reset-quotas ████") && shown.contains("2300/2300"), "{shown:?}");
    assert!(shown.contains("reset-quotas: 2300 users open, 0 failed\r\n"), "{shown:?}");
    // Elsewhere there are lines, and nothing that only a terminal understands.
    let plain = run(cron(&conf, &["--once", "reset-quotas"])).await;
    assert_eq!(stdout(&plain), "reset-quotas: 2300 users open, 0 failed\n");
    assert!(!stderr(&plain).contains(['\r', '\u{1b}', '█']), "{}", stderr(&plain));
}
