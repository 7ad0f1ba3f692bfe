//! A private Redis for checks and for the locks of the baseline design. It has its own port, and
//! stores nothing on disk.

use std::{ffi::OsStr, path::Path};

use crate::{private_server::free_port, supervised::Supervised};

/// Attempts to start, because another process may take the free port first.
const ATTEMPTS: usize = 5;

pub struct Redis {
    process: Supervised,
    port: u16,
}

impl Redis {
    /// # Errors
    /// `redis-server` is missing or does not start.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            let port = free_port();
            let port_text = port.to_string();
            let arguments =
                ["redis-server", "--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
            let mut command: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
            command.extend([OsStr::new("--dir"), folder.as_os_str()]);
            let ready = |line: &str| line.contains("Ready to accept connections").then_some(());
            match Supervised::start(&command, ready) {
                Ok((process, ())) => return Ok(Self { process, port }),
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}
