//! What processes use, from `/proc`: processor time and memory.

use std::ops::Sub;

use anyhow::Context;
use serde::Serialize;

/// The processes of one scenario.
#[derive(Debug, Clone)]
pub struct Processes {
    pub server: u32,
    pub database: Option<u32>,
    pub redis: Option<u32>,
}

/// Processor time in microseconds, user and system.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cpu {
    pub server: f64,
    pub database: f64,
    pub redis: f64,
    /// This process, which calls.
    pub client: f64,
}

/// Of the server, in MiB.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    pub resident: f64,
    /// The most it ever had.
    pub peak: f64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Cpu,
    pub memory: Memory,
}

impl Processes {
    /// # Errors
    /// One of them has gone.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let optional = |pid: Option<u32>| pid.map_or(Ok(0.0), cpu_micros);
        Ok(Cpu {
            server: cpu_micros(self.server)?,
            database: optional(self.database)?,
            redis: optional(self.redis)?,
            client: cpu_micros(std::process::id())?,
        })
    }

    /// # Errors
    /// The server has gone.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/status", self.server);
        let status = std::fs::read_to_string(&path).context(path)?;
        let mib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            kib.with_context(|| format!("no {key} of process {}", self.server)).map(|kib| kib / 1_024.0)
        };
        Ok(Memory { resident: mib("VmRSS:")?, peak: mib("VmHWM:")? })
    }

    /// Lets the next peak be that of the next slice.
    ///
    /// # Errors
    /// The server has gone.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        /// Resets the peak of the resident set; see proc(5).
        const RESET_PEAK: &str = "5";
        let path = format!("/proc/{}/clear_refs", self.server);
        std::fs::write(&path, RESET_PEAK).context(path)
    }
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, earlier: Cpu) -> Cpu {
        Cpu {
            server: self.server - earlier.server,
            database: self.database - earlier.database,
            redis: self.redis - earlier.redis,
            client: self.client - earlier.client,
        }
    }
}

fn cpu_micros(pid: u32) -> anyhow::Result<f64> {
    /// Linux counts in hundredths of a second for user space, whatever its timer.
    const MICROS_PER_TICK: f64 = 10_000.0;
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).context(path)?;
    // The name in parentheses may hold anything; the state after it is the third field,
    // user time the 14th, system time the 15th.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11));
    let ticks: Vec<f64> = fields.into_iter().flatten().take(2).filter_map(|field| field.parse().ok()).collect();
    anyhow::ensure!(ticks.len() == 2, "process {pid} has no processor time");
    Ok(ticks.iter().sum::<f64>() * MICROS_PER_TICK)
}
