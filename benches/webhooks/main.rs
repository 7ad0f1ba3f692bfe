//! Benchmark of webhooks: how fast a server drains the events of a feed to many webhooks. The server, its database, the
//! receiver and the client of this program share the machine. Run it with `make bench-webhooks`.

#[path = "../../tests/it/harness/mariadb.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which use more of it and panic on errors"
)]
mod mariadb;
#[path = "../../tests/it/harness/private_server.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which use more of it and panic on errors"
)]
mod private_server;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use axum::body::{Body, to_bytes};
use billing_service::{
    app::App,
    config::Config,
    data::dsn,
    service::proto::{PutWebhookRequest, billing_internal_service_client::BillingInternalServiceClient},
};
use chrono::Utc;
use clap::Parser;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::net::TcpListener;
use uuid::Uuid;

use self::mariadb::OwnServer;

/// Rows of one insert of events.
const ROWS: usize = 1_000;
/// Longest wait for a further delivery.
const STALL: Duration = Duration::from_secs(60);
/// Largest body that the receiver reads.
const MAX_BODY: usize = 1024 * 1024;

/// Measures the drain of events to webhooks.
#[derive(Debug, Parser)]
#[command(name = "webhooks")]
struct Arguments {
    /// Webhooks.
    #[arg(long, default_value_t = 50)]
    webhooks: u64,
    /// Events of the feed.
    #[arg(long, default_value_t = 10_000)]
    events: u64,
    /// Users of the events.
    #[arg(long, default_value_t = 1_000)]
    users: u64,
    /// Milliseconds after which the receiver answers.
    #[arg(long, default_value_t = 0)]
    answer_ms: u64,
    /// Databases.
    #[arg(long, value_delimiter = ',', default_value = "mysql,sqlite")]
    on: Vec<String>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        // `cargo test --all-targets` runs every benchmark without --bench.
        println!("nothing measured: run `make bench-webhooks`");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let Arguments { webhooks, events, users, answer_ms, .. } = &arguments;
    println!("{events} events of {users} users to {webhooks} webhooks; the receiver answers after {answer_ms} ms\n");
    println!("| database | deliveries | repeats | time | deliveries/s |");
    println!("| --- | --- | --- | --- | --- |");
    for driver in &arguments.on {
        match driver.as_str() {
            "sqlite" => measure(&arguments, driver, &folder.path().join("events.db").display().to_string()).await?,
            "mysql" => {
                let mariadb = OwnServer::start().await;
                measure(&arguments, driver, &mariadb.create_database().await).await?;
            }
            other => bail!("--on {other}: must be mysql or sqlite"),
        }
    }
    Ok(())
}

async fn measure(arguments: &Arguments, driver: &str, source: &str) -> anyhow::Result<()> {
    let receiver = Receiver::start(Duration::from_millis(arguments.answer_ms)).await?;
    let folder = tempfile::tempdir()?;
    let config = config(folder.path(), driver, source)?;
    let server = App::start(config.clone()).await?;
    let grpc = format!("http://{}", server.grpc_addr);
    let mut client = BillingInternalServiceClient::connect(grpc).await?;
    for number in 0..arguments.webhooks {
        let url = format!("http://{}/{number}", receiver.addr);
        let put = PutWebhookRequest { webhook_id: format!("w{number}"), url, ..Default::default() };
        client.put_webhook(put).await?;
    }
    // The deliveries begin with all events in the feed.
    server.stop().await;
    write(arguments, driver, source).await.context("writing the events")?;
    let begun = Instant::now();
    let server = App::start(config).await?;
    let wanted = arguments.events * arguments.webhooks;
    let (mut last, mut at) = (0, Instant::now());
    while receiver.distinct() < wanted {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let seen = receiver.shared.deliveries.load(Relaxed);
        if seen > last {
            (last, at) = (seen, Instant::now());
        }
        ensure!(at.elapsed() < STALL, "stalled after {last} of {wanted} deliveries");
    }
    let took = begun.elapsed().as_secs_f64();
    let repeats = receiver.shared.deliveries.load(Relaxed) - wanted;
    let rate = wanted as f64 / took;
    println!("| {driver} | {wanted} | {repeats} | {took:.1} s | {rate:.0} |");
    server.stop().await;
    Ok(())
}

fn config(folder: &Path, driver: &str, source: &str) -> anyhow::Result<Config> {
    let conf = folder.join("webhooks.yaml");
    let text = format!(
        "server: {{http: {{addr: '127.0.0.1:0'}}, grpc: {{addr: '127.0.0.1:0'}}}}\n\
         data: {{database: {{driver: {driver}, source: '{source}'}}}}\n\
         billing:\n  prices: {{asset: 0.05}}\n  \
         webhooks: {{key: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=, allow_private: true}}\n"
    );
    std::fs::write(&conf, text)?;
    Config::load(&conf)
}

async fn write(arguments: &Arguments, driver: &str, source: &str) -> anyhow::Result<()> {
    let at = match driver {
        "mysql" => format!("'{}'", Utc::now().naive_utc()),
        _ => Utc::now().timestamp_micros().to_string(),
    };
    let row = |number: u64| {
        let user = number % arguments.users;
        let data = format!("{{\"user_id\":\"user-{user}\",\"number\":{number},\"balance\":\"5\",\"threshold\":\"9\"}}");
        format!("('{}', 'balance.low', 'user-{user}', '{data}', {at})", Uuid::now_v7())
    };
    let rows: Vec<String> = (0..arguments.events).map(row).collect();
    let inserts = rows.chunks(ROWS).map(|rows| {
        format!("INSERT INTO event (event_id, type, user_id, data, created_at) VALUES {}", rows.join(", "))
    });
    if driver == "mysql" {
        let mut connection = MySqlConnection::connect_with(&dsn::mysql(source).map_err(|why| anyhow!(why))?).await?;
        for insert in inserts {
            sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut connection).await?;
        }
        return Ok(connection.close().await?);
    }
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(source)).await?;
    for insert in inserts {
        sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

#[derive(Default)]
struct Shared {
    deliveries: AtomicU64,
    /// The distinct events by path.
    seen: Mutex<BTreeMap<String, std::collections::HashSet<u128>>>,
    answers_after: Duration,
}

/// A receiver that accepts all events, and counts them.
struct Receiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Receiver {
    async fn start(answers_after: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { answers_after, ..Default::default() });
        let counting = shared.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let shared = counting.clone();
                let service = service_fn(move |request| answer(request, shared.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { addr, shared })
    }

    fn distinct(&self) -> u64 {
        let seen = self.shared.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.values().map(|ids| ids.len() as u64).sum()
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let id = request.headers().get("webhook-id").and_then(|id| id.to_str().ok()?.parse::<Uuid>().ok());
    let path = request.uri().path().to_owned();
    let _ = to_bytes(Body::new(request.into_body()), MAX_BODY).await;
    if !shared.answers_after.is_zero() {
        tokio::time::sleep(shared.answers_after).await;
    }
    if let Some(id) = id {
        let mut seen = shared.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.entry(path).or_default().insert(id.as_u128());
    }
    shared.deliveries.fetch_add(1, Relaxed);
    Ok(Response::new(Body::empty()))
}
