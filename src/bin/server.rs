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
    /// Print what is to be done to the database, that of the legacy service, too; bring it
    /// up to date, and exit.
    #[arg(long)]
    migrate_only: bool,
    /// With --migrate-only: only print it, and change nothing.
    #[arg(long, requires = "migrate_only")]
    dry_run: bool,
    /// The zone that the times in a database of the legacy service are wall-clock times of,
    /// when loc of data.database.source does not say it.
    #[arg(long, value_name = "ZONE")]
    legacy_zone: Option<chrono_tz::Tz>,
}

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let mut config = command::prepare(&arguments.conf)?;
    config.data.database.legacy_zone = arguments.legacy_zone.or(config.data.database.legacy_zone);
    if arguments.dry_run {
        print!("{}", app::plan(&config).await?);
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.migrate_only {
        let store = app::connect_announcing(&config, &|plan| print!("{plan}")).await?;
        app::close(&*store).await;
        println!("the database is up to date");
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
