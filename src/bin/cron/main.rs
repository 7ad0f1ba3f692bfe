//! Runs the jobs of the billing service on their schedules, or one job now.

mod schedules;
mod screen;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use billing_service::{
    app::{
        self,
        cron::{ImportOptions, Job, JobReport, MATCH_SETTLEMENTS, Runner, match_settlement_file, serve_metrics},
    },
    biz::{charge::prices::import::Conversion, jobs::runs::LEASE, values::calendar::SystemClock},
    command::{self, ConfigArguments, Hangup},
};
use clap::{Parser, builder::PossibleValuesParser};
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;

use self::screen::{Begins, Screen};

/// Runs the jobs of the billing service on their schedules, or one job now.
#[derive(Parser)]
#[command(name = "cron", version)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Run this job once, now, and exit. The exit code is 1 if the job reports errors or
    /// differences.
    #[arg(long, value_name = "JOB", value_parser = PossibleValuesParser::new(names()))]
    once: Option<String>,
    /// Input file. match-settlements: settlement file of payment-service, CSV with order id, payment id,
    /// amount, fee and date; prints missing and different entries, writes nothing. import-prices: price
    /// list in LiteLLM's JSON form.
    #[arg(long, value_name = "FILE", requires = "once", conflicts_with = "resume")]
    file: Option<PathBuf>,
    /// With --once: print the effects of the job, and change nothing.
    #[arg(long, requires = "once")]
    dry_run: bool,
    /// With --once: continue from the checkpoint of the last run by hand, if that run was
    /// interrupted. A run that was killed keeps its lease for up to a minute, so try again then.
    #[arg(long, requires = "once", conflicts_with = "dry_run")]
    resume: bool,
    /// With --once audit: the same as --once audit-all.
    #[arg(long, requires = "once")]
    full: bool,
    /// With --once import-prices: units of billing.currency for a dollar. Without it, a dollar is one unit.
    #[arg(long, value_name = "RATE", requires = "file", default_value = "1", value_parser = factor)]
    rate: Decimal,
    /// With --once import-prices: the markup on the prices of the list, such as 1.2.
    #[arg(long, value_name = "FACTOR", requires = "file", default_value = "1", value_parser = factor)]
    factor: Decimal,
    /// Print each job with its schedule and its next run, and the backlog of webhooks, and exit.
    #[arg(long, conflicts_with = "once")]
    list: bool,
}

/// A factor above zero.
fn factor(text: &str) -> Result<Decimal, String> {
    let factor =
        text.parse::<Decimal>().ok().filter(|factor| *factor > Decimal::ZERO && *factor < Decimal::from(1_000_000));
    factor.ok_or_else(|| "must be a number above 0 and below 1000000, such as 7.1".into())
}

/// The names for --once.
fn names() -> impl Iterator<Item = &'static str> {
    Job::ALL.map(Job::name).into_iter().chain([MATCH_SETTLEMENTS])
}

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    if let Some(code) = arguments.config.inspect()? {
        return Ok(code);
    }
    let screen = Screen::default();
    let config = Arc::new(command::prepare_with(&arguments.config.conf, screen.clone())?);
    if arguments.once.as_deref() == Some(MATCH_SETTLEMENTS) {
        let Some(file) = &arguments.file else { bail!("{MATCH_SETTLEMENTS} needs --file FILE") };
        if arguments.dry_run {
            bail!("{MATCH_SETTLEMENTS} writes nothing; leave out --dry-run")
        }
        let store = app::connect_unchanged(&config).await?;
        let report = match_settlement_file(&config, &*store, file).await;
        app::close(&*store).await;
        return Ok(print(&screen, &report?));
    }
    let once = match &arguments.once {
        Some(name) => Some(Job::ALL.into_iter().find(|job| job.name() == name).context("unknown job")?),
        None => None,
    };
    let import = match (once, &arguments.file) {
        (Some(Job::ImportPrices), None) => bail!("import-prices needs --file FILE"),
        (Some(Job::ImportPrices), Some(file)) => {
            let conversion = Conversion { rate: arguments.rate, factor: arguments.factor };
            Some(ImportOptions { file: file.clone(), conversion })
        }
        (_, Some(_)) => bail!("--file is for --once import-prices and --once {MATCH_SETTLEMENTS}"),
        (_, None) => None,
    };
    let once = match once {
        Some(Job::Audit) if arguments.full => Some(Job::AuditAll),
        _ if arguments.full => bail!("--full is for --once audit"),
        once => once,
    };
    // Signals are caught before the log says that cron waits for them.
    let on_hangup = if once.is_some() { Hangup::Stops } else { Hangup::Ignored };
    let stop_signal = command::stop_signal(on_hangup)?;
    let store = if arguments.list || arguments.dry_run {
        app::connect_unchanged(&config).await?
    } else if once.is_some() {
        app::connect_existing(&config).await?
    } else {
        // A server may be creating the database at the same time.
        app::connect(&config).await?
    };
    app::ensure_clock_agrees(&config, &*store, &SystemClock).await?;
    let stop = CancellationToken::new();
    let is_service = once.is_none() && !arguments.list;
    let metrics = if is_service { serve_metrics(&config, stop.clone()).await? } else { None };
    let runner = Runner::new(config, store.clone(), Arc::new(SystemClock), stop.clone());
    let runner = Arc::new(runner.counting(metrics).importing(import));
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
                if shown.has_progress() { ran.context("the run was interrupted; --resume continues it") } else { ran }
            };
            drop(shown);
            let Some(report) = report? else {
                bail!(
                    "{job} is running in another process, or such a process died less than {} s ago; try again later",
                    LEASE.as_secs()
                )
            };
            print(&screen, &report)
        }
        None if arguments.list => list(&runner).await?,
        None => {
            schedules::run(runner, screen, stop).await?;
            ExitCode::SUCCESS
        }
    };
    app::close(&*store).await;
    Ok(code)
}

async fn list(runner: &Runner) -> anyhow::Result<ExitCode> {
    for job in Job::ALL {
        let next = match runner.schedule(job) {
            None => "by hand".to_owned(),
            Some(_) if runner.scheduled().any(|(scheduled, _)| scheduled == job) => {
                let next = runner.next(job)?.with_timezone(&runner.zone());
                format!("next {}", next.format("%Y-%m-%dT%H:%M:%S%:z"))
            }
            Some(_) => "not configured".to_owned(),
        };
        let backlog = match job {
            // The tables may be those of an older release.
            Job::DeliverWebhooks => runner.webhook_backlog().await.unwrap_or_else(|_| "backlog unknown".into()),
            _ => String::new(),
        };
        let separator = if backlog.is_empty() { "" } else { "; " };
        let (name, schedule, description) = (job.name(), runner.schedule(job).unwrap_or_default(), job.description());
        println!("{name:<20} {schedule:<15} {next}: {description}{separator}{backlog}");
    }
    Ok(ExitCode::SUCCESS)
}

fn print(screen: &Screen, report: &JobReport) -> ExitCode {
    report.lines.iter().for_each(|line| screen.print(line));
    if report.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
