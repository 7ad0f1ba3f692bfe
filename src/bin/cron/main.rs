//! Jobs beside the service: run one now, or all on their schedules.

mod schedules;
mod screen;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use billing_service::{
    app::{
        self,
        cron::{Job, JobReport, Runner},
    },
    biz::{jobs::runs::LEASE, values::calendar::SystemClock},
    command,
};
use clap::{Parser, builder::PossibleValuesParser};
use tokio_util::sync::CancellationToken;

use self::screen::{Begins, Screen};

/// Runs the jobs of the billing service on their schedules, or one of them now.
#[derive(Parser)]
#[command(name = "cron")]
struct Arguments {
    /// Configuration file; -conf works too.
    #[arg(long, default_value = "configs/config.yaml")]
    conf: PathBuf,
    /// Run this job now and exit.
    #[arg(long, value_name = "JOB", value_parser = PossibleValuesParser::new(Job::ALL.map(Job::name)))]
    once: Option<String>,
    /// With --once: say what the job would do, and change nothing.
    #[arg(long, requires = "once")]
    dry_run: bool,
    /// With --once: go on where the last run by hand got to, if it was cut short.
    #[arg(long, requires = "once", conflicts_with = "dry_run")]
    resume: bool,
    /// Print the jobs and when they run next, and exit.
    #[arg(long, conflicts_with = "once")]
    list: bool,
}

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let screen = Screen::default();
    let config = Arc::new(command::prepare_with(&arguments.conf, screen.clone())?);
    let once = match &arguments.once {
        Some(name) => Some(Job::ALL.into_iter().find(|job| job.name() == name).context("an unknown job")?),
        None => None,
    };
    // Caught before it says that it waits.
    let stop_signal = command::stop_signal()?;
    let store = if arguments.list || arguments.dry_run {
        app::connect_unchanged(&config).await?
    } else if once.is_some() {
        app::connect_existing(&config).await?
    } else {
        // It may run beside a server that is about to make its first database.
        app::connect(&config).await?
    };
    let stop = CancellationToken::new();
    let runner = Arc::new(Runner::new(config, store.clone(), Arc::new(SystemClock), stop.clone()));
    tokio::spawn({
        let stop = stop.clone();
        async move {
            stop_signal.await;
            stop.cancel();
        }
    });
    let code = match once {
        Some(job) => {
            let shown = screen.show(job, Begins::ByHand { resumes: arguments.resume });
            let report = if arguments.dry_run {
                runner.dry_run(job, &shown).await.map(Some)
            } else {
                let ran = runner.run_now(job, arguments.resume, &shown).await;
                if shown.has_progress() { ran.context("not finished; --resume goes on where it got to") } else { ran }
            };
            drop(shown);
            let Some(report) = report? else {
                bail!("{job} runs elsewhere at the moment, or did and died less than {} s ago", LEASE.as_secs())
            };
            print(&screen, &report)
        }
        None if arguments.list => list(&runner)?,
        None => {
            schedules::run(runner, screen, stop).await?;
            ExitCode::SUCCESS
        }
    };
    app::close(&*store).await;
    Ok(code)
}

fn list(runner: &Runner) -> anyhow::Result<ExitCode> {
    for job in Job::ALL {
        let next = match job.schedule() {
            None => "by hand".to_owned(),
            Some(_) if runner.scheduled().any(|(scheduled, _)| scheduled == job) => {
                format!("next {}", runner.next(job)?.format("%Y-%m-%dT%H:%M:%SZ"))
            }
            Some(_) => "not configured".to_owned(),
        };
        println!("{:<20} {:<15} {next}: {}", job.name(), job.schedule().unwrap_or_default(), job.description());
    }
    Ok(ExitCode::SUCCESS)
}

fn print(screen: &Screen, report: &JobReport) -> ExitCode {
    report.lines.iter().for_each(|line| screen.print(line));
    if report.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
