//! What the binaries share: arguments, logs, and the way they end.

use std::{ffi::OsString, path::Path, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::fmt::MakeWriter;

use crate::{config::Config, logs};

/// The arguments of the process, with `-conf` as the legacy service has it turned
/// into `--conf`.
pub fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().map(|argument| match argument.to_str() {
        Some(text) if text == "-conf" || text.starts_with("-conf=") => format!("-{text}").into(),
        _ => argument,
    })
}

/// Reads the configuration and starts the logs it asks for, on standard error.
///
/// # Errors
/// As [`Config::load`], and for a `RUST_LOG` that is no filter.
pub fn prepare(conf: &Path) -> anyhow::Result<Config> {
    prepare_with(conf, std::io::stderr)
}

/// As [`prepare`], for a process that has its own way to write to standard error.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(conf: &Path, stderr: impl Stderr) -> anyhow::Result<Config> {
    let config = Config::load(conf)?;
    logs::init(&config.log, stderr)?;
    Ok(config)
}

/// What writes to standard error.
pub trait Stderr: for<'w> MakeWriter<'w> + Send + Sync + 'static {}

impl<W: for<'w> MakeWriter<'w> + Send + Sync + 'static> Stderr for W {}

/// Completes at SIGTERM or SIGINT; the signals are caught from the call on.
///
/// # Errors
/// The signals can't be caught.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The exit code of a finished command; an error is printed first.
pub fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
