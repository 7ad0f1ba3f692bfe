//! Benchmark of the price book: the load of a hundred thousand versions of a thousand models from the
//! database, and the search for the version of a call. Run it with `make bench-prices`.

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

use std::{hint::black_box, path::Path, time::Instant};

use anyhow::{Context, anyhow, ensure};
use billing_service::{
    app,
    biz::{charge::prices::Prices, values::ids::ModelName},
    config::Config,
    data::dsn,
};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use self::mariadb::OwnServer;

const MODELS: u32 = 1_000;
/// Versions of each model, one a day.
const VERSIONS: u32 = 100;
const ROUNDS: usize = 5;
/// Searches of one round.
const SEARCHES: u32 = 100_000;

/// The details of each version. `NAME` stands for its model.
const DETAILS: &str = r#"{"prices":{"cache_write":"6.25","reasoning":"30"},"tiers":[{"above_input_tokens":200000,"prices":{"input":"10","output":"45"}},{"above_input_tokens":500000,"prices":{"input":"20","output":"90"}}],"service_tiers":{"batch":"0.5","priority":"2"},"aliases":["NAME-2026*","latest-NAME"],"max_tokens":1000000}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` runs every benchmark without --bench.
        println!("nothing measured: run `make bench-prices`");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    println!("| {MODELS} models with {VERSIONS} versions each, medians of {ROUNDS} | load | check for a change |");
    println!("| --- | --- | --- |");
    let file = folder.path().join("prices.db");
    let prices = measure(folder.path(), "sqlite", &file.display().to_string()).await?;
    let mariadb = OwnServer::start().await;
    measure(folder.path(), "mysql", &mariadb.create_database().await).await?;
    println!("\n| version of a call, ns | name | alias | glob | none |");
    println!("| --- | --- | --- | --- | --- |");
    let few = Prices::new(configured(folder.path(), 10)?.price_book());
    for (name, prices) in [("1 version of each of 10 models", few), ("all versions of all models", prices)] {
        let [name_ns, alias, glob, none] = ["model-7", "latest-model-7", "model-7-2026-04-14", "model-x-2026-04-14"]
            .map(|model| search(&prices, model));
        println!("| {name} | {name_ns:.0} | {alias:.0} | {glob:.0} | {none:.0} |");
    }
    Ok(())
}

/// Writes the versions into a new database, and measures their load. Returns the loaded prices.
async fn measure(folder: &Path, driver: &str, source: &str) -> anyhow::Result<Prices> {
    let conf = folder.join(format!("{driver}.yaml"));
    let text = format!(
        "data: {{database: {{driver: {driver}, source: '{source}'}}}}\nbilling: {{model_services: {{rag: calls}}}}\n"
    );
    std::fs::write(&conf, text)?;
    let store = app::connect(&Config::load(&conf)?).await?;
    write(driver, source).await.context("writing the versions")?;
    let (mut loads, mut checks) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..ROUNDS {
        let prices = Prices::new(Default::default());
        let start = Instant::now();
        let unusable = prices.refresh(&*store, Utc::now()).await?;
        loads.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        prices.refresh(&*store, Utc::now()).await?;
        checks.push(start.elapsed().as_secs_f64());
        let loaded = prices.book().versions().filter(|(.., version)| version.is_ok()).count();
        ensure!(unusable.is_empty() && loaded == (MODELS * VERSIONS) as usize, "{loaded} versions, {unusable:?}");
        last = Some(prices);
    }
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        1e3 * seconds[ROUNDS / 2]
    };
    println!("| {driver} | {:.0} ms | {:.2} ms |", median(&mut loads), median(&mut checks));
    app::close(&*store).await;
    last.context("no round")
}

async fn write(driver: &str, source: &str) -> anyhow::Result<()> {
    const COLUMNS: &str =
        "INSERT INTO price_version (model, effective_from, version_id, input_price, output_price, price_details)";
    let rows = MODELS * VERSIONS;
    if driver == "mysql" {
        let mut connection = MySqlConnection::connect_with(&dsn::mysql(source).map_err(|why| anyhow!(why))?).await?;
        let insert = format!(
            "{COLUMNS} SELECT CONCAT('model-', seq DIV {VERSIONS}), '2026-01-01' + INTERVAL seq MOD {VERSIONS} DAY, \
             CONCAT('v', seq MOD {VERSIONS}), 5, 30, REPLACE('{DETAILS}', 'NAME', CONCAT('model-', seq DIV {VERSIONS})) \
             FROM seq_0_to_{}",
            rows - 1
        );
        sqlx::query(AssertSqlSafe(insert)).execute(&mut connection).await?;
        return Ok(connection.close().await?);
    }
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(source)).await?;
    let insert = format!(
        "WITH RECURSIVE row(seq) AS (SELECT 0 UNION ALL SELECT seq + 1 FROM row WHERE seq < {}) \
         {COLUMNS} SELECT 'model-' || (seq / {VERSIONS}), 1767225600000000 + seq % {VERSIONS} * 86400000000, \
         'v' || (seq % {VERSIONS}), 5000000, 30000000, \
         REPLACE('{DETAILS}', 'NAME', 'model-' || (seq / {VERSIONS})) FROM row",
        rows - 1
    );
    sqlx::query(AssertSqlSafe(insert)).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// A configuration with one version of each of a few models.
fn configured(folder: &Path, models: u32) -> anyhow::Result<Config> {
    let models = (0..models).map(|model| {
        format!(
            "model-{model}: {{input: 5, output: 30, tiers: [{{above_input_tokens: 200000, input: 10, output: 45}}], \
             aliases: ['model-{model}-2026*', 'latest-model-{model}']}}"
        )
    });
    let models = models.collect::<Vec<_>>().join(", ");
    let conf = folder.join("few.yaml");
    let text = format!(
        "data: {{database: {{driver: sqlite, source: none.db}}}}\n\
         billing: {{model_services: {{rag: calls}}, models: {{{models}}}}}\n"
    );
    std::fs::write(&conf, text)?;
    Config::load(&conf)
}

/// Nanoseconds of a search for the version of `model`.
fn search(prices: &Prices, model: &str) -> f64 {
    let (book, model) = (prices.book(), ModelName::from_stored(model));
    let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..SEARCHES {
                let _ = black_box(book.at_in(None, black_box(&model), at));
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(SEARCHES)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
