//! Simulates payment-service for development and tests.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use billing_service::{
    command::{self, Hangup},
    config::{Config, Environment},
    sandbox::{DEFAULT_ADDR, MAX_DELAY_MS, MAX_DUPLICATES, Options, PublicUrl, Sandbox, SignsFor, Switches},
    server::reachable,
};
use clap::{Parser, value_parser};

/// Simulates payment-service for development and tests. No money moves.
#[derive(Parser)]
#[command(name = "payment-sandbox", version)]
struct Arguments {
    /// Configuration file. The sandbox uses payment_service.grpc_addr, callback_secrets and notify_url: it
    /// signs callbacks to the host and port of notify_url alone.
    /// The old form -conf works too.
    #[arg(long, default_value = "configs/local.yaml")]
    conf: PathBuf,
    /// Address to listen on, in place of payment_service.grpc_addr.
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Base URL of the payment pages for browsers: http(s)://HOST[:PORT][/PATH].
    #[arg(long, value_name = "URL")]
    public_url: Option<PublicUrl>,
    /// Faults to inject, in the JSON of PUT /switches, such as '{"pay_at_once":"SUCCESS"}'.
    /// Switches that are not named are off; GET /switches lists all. The billing service
    /// refuses callbacks with wrong_amount, and forged ones if it requires signatures.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    switches: Switches,
    /// Drop every callback.
    #[arg(long)]
    lose: bool,
    /// Number of extra copies of each callback.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(..=i64::from(MAX_DUPLICATES)))]
    duplicates: Option<u32>,
    /// Delay before each callback, in milliseconds.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(..=MAX_DELAY_MS))]
    callback_delay_ms: Option<u64>,
}

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let config = command::prepare(&arguments.conf)?;
    if config.environment == Some(Environment::Production) {
        bail!("config key environment: payment-sandbox does not run in production");
    }
    let stop = command::stop_signal(Hangup::Ignored)?;
    let sandbox = Sandbox::start(options(arguments, &config)).await?;
    stop.await;
    sandbox.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// The configured URL of callbacks, or by default that of a server on this machine.
fn notify_url(config: &Config) -> String {
    let configured = config.payment_service.as_ref().map(|payment| payment.notify_url.clone()).unwrap_or_default();
    if !configured.is_empty() {
        return configured;
    }
    let addr = &config.server.grpc.addr;
    format!("http://{}", addr.parse().map_or_else(|_| addr.clone(), |addr| reachable(addr).to_string()))
}

fn options(arguments: Arguments, config: &Config) -> Options {
    let payment_service = config.payment_service.as_ref();
    let configured = payment_service.map(|payment| payment.grpc_addr.clone());
    let mut switches = arguments.switches;
    switches.lose |= arguments.lose;
    switches.duplicates = arguments.duplicates.unwrap_or(switches.duplicates);
    switches.callback_delay_ms = arguments.callback_delay_ms.unwrap_or(switches.callback_delay_ms);
    Options {
        addr: arguments.addr.or(configured).unwrap_or_else(|| DEFAULT_ADDR.into()),
        secret: payment_service.and_then(|payment| payment.callback_secrets.first().cloned()),
        signs_for: SignsFor::url(&notify_url(config)),
        switches,
        public_url: arguments.public_url,
    }
}
