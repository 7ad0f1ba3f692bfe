//! What the binaries share: arguments, logs, and the way they end.

use std::{ffi::OsString, path::Path, process::ExitCode};

use anyhow::Context;
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
    // From here on a terminal that closes does not kill the process, whatever it does: once
    // listened to, the signal has lost its default action.
    drop(signal(SignalKind::hangup()).context("SIGHUP")?);
    let config = Config::load(conf)?;
    logs::init(&config.log, stderr)?;
    Ok(config)
}

/// What writes to standard error.
pub trait Stderr: for<'w> MakeWriter<'w> + Send + Sync + 'static {}

impl<W: for<'w> MakeWriter<'w> + Send + Sync + 'static> Stderr for W {}

/// The meaning of SIGHUP, which a terminal sends when it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// Nothing, for a service.
    Ignored,
    /// As SIGTERM, for a command that somebody watches.
    Stops,
}

/// Completes at SIGTERM or SIGINT; these signals and SIGHUP are caught from the call on.
///
/// # Errors
/// The signals can't be caught.
pub fn stop_signal(on_hangup: Hangup) -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => match on_hangup {
                    Hangup::Ignored => tracing::info!("SIGHUP ignored; a restart reads the configuration again"),
                    Hangup::Stops => return,
                },
            }
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
