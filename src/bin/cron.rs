//! Jobs beside the service.

use std::{path::PathBuf, process::ExitCode};

use billing_service::{app, biz::audit, command};
use clap::{Parser, ValueEnum};

/// Runs a job of the billing service and exits.
#[derive(Parser)]
#[command(name = "cron")]
struct Arguments {
    /// Configuration file; -conf works too.
    #[arg(long, default_value = "configs/config.yaml")]
    conf: PathBuf,
    /// The job to run now.
    #[arg(long, value_name = "JOB")]
    once: Job,
}

#[derive(Clone, Copy, ValueEnum)]
enum Job {
    /// Prove that every balance, quota and rollup follows from its history; exit 1
    /// when one does not.
    Audit,
}

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let config = command::prepare(&arguments.conf)?;
    let store = app::connect(&config).await?;
    let code = match arguments.once {
        Job::Audit => {
            let report = audit::audit(&*store).await?;
            for difference in &report.differences {
                println!("{difference}");
            }
            println!("audit: {} users, {} differences", report.users, report.difference_count);
            if report.difference_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    };
    store.close().await;
    Ok(code)
}
