//! The output of a run.

use std::process::{Command, Stdio};

use super::{cron, migrated, run, stderr, stdout, users};
use crate::harness::{Database, Sqlite, process::CRON};

#[tokio::test]
async fn a_long_job_shows_a_progress_bar_on_a_terminal() {
    let database = migrated(Database::create(Sqlite).await).await;
    users(&database, 2_300).await;
    let conf = database.config_file(&[]);
    // `script` runs a command on a new terminal.
    let mut on_terminal = Command::new("script");
    let command = format!("{CRON} -conf {} --once reset-quotas", conf.display());
    on_terminal.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
    let shown = run(on_terminal).await;
    assert_eq!(shown.status.code(), Some(0));
    let shown = stdout(&shown);
    assert!(shown.contains("reset-quotas ████") && shown.contains("2300/2300"), "{shown:?}");
    assert!(shown.contains("reset-quotas: 2300 users open, 0 failed\r\n"), "{shown:?}");
    // Without a terminal, the output is plain lines.
    let plain = run(cron(&conf, &["--once", "reset-quotas"])).await;
    assert_eq!(stdout(&plain), "reset-quotas: 2300 users open, 0 failed\n");
    assert!(!stderr(&plain).contains(['\r', '\u{1b}', '█']), "{}", stderr(&plain));
}
