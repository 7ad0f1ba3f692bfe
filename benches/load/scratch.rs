//! The folder of one run. At the end, it is removed, and processes that still use it are killed.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;

/// A shell that removes the folder if this process is killed: its standard input is a pipe, which
/// closes. The processes that use the folder end in the same way, a moment earlier.
const JANITOR: &str = r#"cat > /dev/null; sleep 1; rm -rf "$1""#;

pub struct Scratch {
    folder: TempDir,
    janitor: Child,
}

impl Scratch {
    /// Creates a folder in `parent`, or in the temporary folder. Temporary files of this process
    /// go there too, including the data of MariaDB.
    pub fn create(parent: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("billing-bench-");
        let folder = match parent {
            Some(parent) => builder.tempdir_in(std::path::absolute(parent)?),
            None => builder.tempdir(),
        };
        let folder = folder.context("creating the temporary folder")?;
        // Fails only if it is already set.
        let _ = tempfile::env::override_temp_dir(folder.path());
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "sh"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        Ok(Self { folder, janitor })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a folder in the scratch folder.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    /// Removes the janitor, and kills processes that still use the folder. Ctrl-C on a terminal
    /// goes to the whole process group, so it may end the shell that supervises MariaDB. A process
    /// with this folder in its arguments belongs to this run.
    fn drop(&mut self) {
        let _ = self.janitor.kill();
        let _ = self.janitor.wait();
        for _ in 0..100 {
            let left = processes_naming(self.path());
            if left.is_empty() {
                break;
            }
            let _ = Command::new("kill").arg("-9").args(left.iter().map(u32::to_string)).output();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Processes with `folder` in their arguments. A zombie has no arguments.
fn processes_naming(folder: &Path) -> Vec<u32> {
    let folder = folder.display().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|arguments| String::from_utf8_lossy(&arguments).contains(&folder))
        })
        .collect()
}
