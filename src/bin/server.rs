//! The billing service.

use std::{io::Write, process::ExitCode, time::Duration};

use billing_service::{
    app::{self, App},
    command::{self, ConfigArguments, Hangup},
};
use clap::Parser;

/// Requests allocate many small pieces on all workers. With this allocator the
/// server takes a tenth less CPU time than with the one of the C library, for twice the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves balances, free quotas and charges over gRPC and REST.
#[derive(Parser)]
#[command(name = "server", version)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print the migration plan, apply it, and exit.
    #[arg(long)]
    migrate_only: bool,
    /// With --migrate-only: print the plan, change nothing, and exit.
    #[arg(long, requires = "migrate_only")]
    dry_run: bool,
    /// Time zone of the times in a legacy database. Needed when loc in data.database.source
    /// does not name it.
    #[arg(long, alias = "former-zone", value_name = "ZONE", conflicts_with = "print_config")]
    legacy_zone: Option<chrono_tz::Tz>,
}

/// Idle time after which a thread of blocking work ends, and gives its memory back. Counts of tokens take much.
const BLOCKING_IDLE: Duration = Duration::from_secs(2);
/// Before each step a worker looks for what other threads have woken, such as a charge that the thread of SQLite has
/// written. By default the steps of connections with many streams, some milliseconds each, would come first.
const GLOBAL_QUEUE_INTERVAL: u32 = 1;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(BLOCKING_IDLE)
        .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
        .build();
    command::exit_code(runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run())))
}

async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    if let Some(code) = arguments.config.inspect()? {
        return Ok(code);
    }
    let (mut config, traces) = command::prepare_server(&arguments.config.conf)?;
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
    let stop = command::stop_signal(Hangup::Ignored)?;
    let mut stop = std::pin::pin!(stop);
    let app = tokio::select! {
        app = App::start(config) => app?,
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    if let Some(lines) = app.welcome() {
        // A reader that has gone away does not stop the server.
        let _ = std::io::stdout().write_all(lines.as_bytes());
    }
    stop.await;
    app.stop().await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    Ok(ExitCode::SUCCESS)
}
