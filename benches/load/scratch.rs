//! The folder that everything of one run lives in, removed at the end with whatever
//! still works in it.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;

/// Removes the folder when this process was killed before it could: the pipe to its
/// input breaks. The processes that use the folder end by the same means, a moment before.
const JANITOR: &str = r#"cat > /dev/null; sleep 1; rm -rf "$1""#;

pub struct Scratch {
    folder: TempDir,
    janitor: Child,
}

impl Scratch {
    /// A folder of its own in `parent`, or in the temporary folder. Temporary files of
    /// this process go there too, the data of its MariaDB among them.
    pub fn create(parent: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("billing-bench-");
        let folder = match parent {
            Some(parent) => builder.tempdir_in(std::path::absolute(parent)?),
            None => builder.tempdir(),
        };
        let folder = folder.context("no temporary folder")?;
        // Fails only when it was set before.
        let _ = tempfile::env::override_temp_dir(folder.path());
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "sh"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("sh does not start")?;
        Ok(Self { folder, janitor })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A folder in it.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    /// Ctrl-C on a terminal goes to the whole process group, and so ends the shell that
    /// should have ended MariaDB. Whoever still names this folder is ours.
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

/// Processes with `folder` in their arguments; a zombie has none any more.
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
