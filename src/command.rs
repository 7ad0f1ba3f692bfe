//! Shared parts of the binaries: arguments, logs, signals and exit codes.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    config::{Config, Loaded},
    logs,
    telemetry::Traces,
};

/// The arguments of the process. `-conf`, the form of the legacy service, becomes `--conf`.
pub fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().map(|argument| match argument.to_str() {
        Some(text) if text == "-conf" || text.starts_with("-conf=") => format!("-{text}").into(),
        _ => argument,
    })
}

/// The arguments of every binary that reads the configuration.
#[derive(Args)]
pub struct ConfigArguments {
    /// Configuration file. The old form -conf works too.
    #[arg(long, default_value = "configs/config.yaml")]
    pub conf: PathBuf,
    /// Print the configuration in force, with the origin of each value, and exit. Secrets print
    /// as ***.
    #[arg(long)]
    pub print_config: bool,
    /// Check the configuration and exit. The exit code is 1 if it has an error. Connects to
    /// nothing.
    #[arg(long, conflicts_with = "print_config")]
    pub check_config: bool,
}

impl ConfigArguments {
    /// Obeys `--print-config` and `--check-config`; `None` without them.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn inspect(&self) -> anyhow::Result<Option<ExitCode>> {
        if !self.print_config && !self.check_config {
            return Ok(None);
        }
        let loaded = Loaded::load(&self.conf)?;
        let doors = loaded.config.open_doors().into_iter().map(|(key, danger)| format!("config key {key}: {danger}"));
        loaded.warnings.iter().cloned().chain(doors).for_each(|warning| eprintln!("warning: {warning}"));
        if self.check_config {
            loaded.config.refuse_open_doors()?;
        }
        if self.print_config {
            print!("{}", loaded.to_yaml()?);
        } else {
            println!("{} is valid", self.conf.display());
        }
        Ok(Some(ExitCode::SUCCESS))
    }
}

/// Reads the configuration, and starts the configured logs on standard error.
///
/// # Errors
/// As [`Config::load`], and for a malformed `RUST_LOG`.
pub fn prepare(conf: &Path) -> anyhow::Result<Config> {
    prepare_with(conf, std::io::stderr)
}

/// As [`prepare`], and starts the configured traces, which the caller stops at the end.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_server(conf: &Path) -> anyhow::Result<(Config, Option<Traces>)> {
    let config = load(conf)?;
    let traces = Traces::start(&config.config.telemetry, config.config.environment)?;
    start_logs(&config, std::io::stderr, traces.as_ref())?;
    Ok((config.config, traces))
}

/// As [`prepare`], with `stderr` as the writer of the logs.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(conf: &Path, stderr: impl Stderr) -> anyhow::Result<Config> {
    let loaded = load(conf)?;
    start_logs(&loaded, stderr, None)?;
    Ok(loaded.config)
}

fn load(conf: &Path) -> anyhow::Result<Loaded> {
    // Libraries that open TLS connections use the provider of the process. It is there already if two
    // configurations are read.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // From here on, a terminal that closes does not kill the process: a signal with a listener
    // loses its default action.
    drop(signal(SignalKind::hangup()).context("SIGHUP")?);
    Loaded::load(conf)
}

fn start_logs(loaded: &Loaded, stderr: impl Stderr, traces: Option<&Traces>) -> anyhow::Result<()> {
    logs::init(&loaded.config.log, stderr, traces)?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(())
}

/// A writer to standard error.
pub trait Stderr: for<'w> MakeWriter<'w> + Send + Sync + 'static {}

impl<W: for<'w> MakeWriter<'w> + Send + Sync + 'static> Stderr for W {}

/// The meaning of SIGHUP, which a terminal sends when it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// Nothing, for a service.
    Ignored,
    /// As SIGTERM, for a command that an operator watches.
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

/// The exit code of a finished command. Prints its error, if any.
pub fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
