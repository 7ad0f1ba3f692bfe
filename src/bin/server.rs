//! The billing service.

use std::{path::PathBuf, process::ExitCode};

use billing_service::{
    app::{self, App},
    command,
};
use clap::Parser;

/// Serves balances, free quotas and charges over gRPC and REST.
#[derive(Parser)]
#[command(name = "server")]
struct Arguments {
    /// Configuration file; -conf works too.
    #[arg(long, default_value = "configs/config.yaml")]
    conf: PathBuf,
    /// Bring the database's schema up to date and exit.
    #[arg(long)]
    migrate_only: bool,
}

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let config = command::prepare(&arguments.conf)?;
    if arguments.migrate_only {
        app::close(&*app::connect(&config).await?).await;
        tracing::info!("the schema is up to date");
        return Ok(ExitCode::SUCCESS);
    }
    let stop = command::stop_signal()?;
    let mut stop = std::pin::pin!(stop);
    let app = tokio::select! {
        app = App::start(config) => app?,
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    stop.await;
    app.stop().await;
    Ok(ExitCode::SUCCESS)
}
