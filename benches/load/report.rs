//! Turns slices into results, and writes the results as JSON.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    context::Context,
    measure::{Slice, Tally, median},
    scenario::{EMPTY, Scenario, System},
    usage::{Cpu, Memory},
};

#[derive(Serialize)]
pub struct Report {
    pub context: Context,
    pub rows: Vec<Row>,
    /// The report of `cron --once audit` for each database.
    pub audits: Vec<String>,
}

/// One scenario over all rounds.
#[derive(Serialize)]
pub struct Row {
    pub name: String,
    pub system: System,
    pub shape: &'static str,
    /// Absent in an open loop.
    pub callers: Option<usize>,
    pub users: u32,
    pub rate: Rate,
    pub latency: Latency,
    /// CPU microseconds per item.
    pub cpu_per_item: Cpu,
    /// Memory of the server after the last round.
    pub memory: Memory,
    pub open_loop: Option<OpenLoop>,
    pub errors: BTreeMap<String, u64>,
    /// Rate relative to the baseline with the same callers and users.
    pub to_baseline: Option<f64>,
    /// Rate relative to the empty rpc.
    pub to_empty: Option<f64>,
    /// Rate relative to one server with the same callers and users.
    pub to_one_server: Option<f64>,
    #[serde(skip)]
    one_server: Option<&'static str>,
}

/// Items per second.
#[derive(Serialize)]
pub struct Rate {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// Latency of the successful calls over all rounds, in milliseconds.
#[derive(Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Calls of an open loop over all rounds.
#[derive(Serialize)]
pub struct OpenLoop {
    /// Calls due per second.
    pub rate: f64,
    pub due: u64,
    /// Calls due but not sent, because too many were open.
    pub missed: u64,
    pub accepted: u64,
}

impl Row {
    /// # Errors
    /// The histogram fails, which only a defect can cause.
    pub fn new(scenario: &Scenario, slices: &[Slice], open: Option<f64>) -> anyhow::Result<Self> {
        let mut total = Tally::new()?;
        slices.iter().try_for_each(|slice| total.add(&slice.tally))?;
        let rates: Vec<f64> = slices.iter().map(Slice::rate).collect();
        let cpu = |part: fn(&Cpu) -> f64| {
            slices.iter().map(|slice| part(&slice.usage.cpu)).sum::<f64>() / total.items.max(1) as f64
        };
        Ok(Self {
            name: scenario.name(),
            system: scenario.system,
            shape: scenario.shape,
            callers: open.is_none().then_some(scenario.callers),
            users: scenario.users,
            rate: Rate {
                median: median(&rates),
                min: rates.iter().copied().fold(f64::INFINITY, f64::min),
                max: rates.iter().copied().fold(0.0, f64::max),
            },
            latency: Latency {
                p50: total.quantile_ms(0.5),
                p99: total.quantile_ms(0.99),
                p999: total.quantile_ms(0.999),
            },
            cpu_per_item: Cpu {
                server: cpu(|cpu| cpu.server),
                database: cpu(|cpu| cpu.database),
                redis: cpu(|cpu| cpu.redis),
                client: cpu(|cpu| cpu.client),
            },
            memory: Memory {
                resident: slices.last().map(|slice| slice.usage.memory.resident).unwrap_or_default(),
                peak: slices.iter().map(|slice| slice.usage.memory.peak).fold(0.0, f64::max),
            },
            open_loop: open.map(|rate| OpenLoop {
                rate,
                due: slices.iter().map(|slice| slice.due).sum(),
                missed: slices.iter().map(|slice| slice.missed).sum(),
                accepted: total.latencies.len(),
            }),
            errors: total.errors,
            to_baseline: None,
            to_empty: None,
            to_one_server: None,
            one_server: scenario.one_server(),
        })
    }
}

impl Report {
    pub fn new(context: Context, mut rows: Vec<Row>, audits: Vec<String>) -> Self {
        let rates: BTreeMap<(System, &str), f64> =
            rows.iter().map(|row| ((row.system, row.shape), row.rate.median)).collect();
        // The rate of an open loop is an input, so a ratio has no meaning.
        for row in rows.iter_mut().filter(|row| row.open_loop.is_none()) {
            let to = |key| rates.get(&key).filter(|rate| **rate > 0.0).map(|rate| row.rate.median / rate);
            // Other designs have no empty rpc, but the same transport.
            let is_other = matches!(row.system, System::Baseline | System::Limiter);
            let empty = if is_other { System::Mysql } else { row.system };
            row.to_empty = to((empty, EMPTY)).filter(|_| row.shape != EMPTY);
            row.to_one_server = row.one_server.and_then(|shape| to((row.system, shape)));
            row.to_baseline = to((System::Baseline, row.shape)).filter(|_| row.system != System::Baseline);
        }
        Self { context, rows, audits }
    }

    /// Unexpected errors: all errors in closed loops, and errors other than OVERLOADED in open
    /// loops.
    pub fn failures(&self) -> Vec<String> {
        let expected = |row: &Row, error: &str| row.open_loop.is_some() && error.ends_with("OVERLOADED");
        let failures = self.rows.iter().flat_map(|row| {
            let unexpected = row.errors.iter().filter(|(error, _)| !expected(row, error));
            unexpected.map(|(error, count)| format!("{}: {count} times {error}", row.name))
        });
        failures.collect()
    }

    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(path, json + "\n"))
            .with_context(|| path.display().to_string())
    }
}
