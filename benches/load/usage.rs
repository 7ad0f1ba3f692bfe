//! CPU time and memory of processes, from `/proc`.

use std::ops::Sub;

use anyhow::Context;
use serde::Serialize;

/// The processes of one scenario.
#[derive(Debug, Clone)]
pub struct Processes {
    pub servers: Vec<u32>,
    pub database: Option<u32>,
    pub redis: Option<u32>,
}

/// User and system CPU time in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cpu {
    pub server: f64,
    pub database: f64,
    pub redis: f64,
    /// This process, which makes the calls.
    pub client: f64,
}

/// Memory of the servers in MiB.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    pub resident: f64,
    /// The peak since the last reset.
    pub peak: f64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Cpu,
    pub memory: Memory,
}

impl Processes {
    /// The CPU time so far.
    ///
    /// # Errors
    /// A process has ended.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let optional = |pid: Option<u32>| pid.map_or(Ok(0.0), cpu_micros);
        Ok(Cpu {
            server: self.servers.iter().map(|pid| cpu_micros(*pid)).sum::<anyhow::Result<f64>>()?,
            database: optional(self.database)?,
            redis: optional(self.redis)?,
            client: cpu_micros(std::process::id())?,
        })
    }

    /// The current and the peak memory of the servers.
    ///
    /// # Errors
    /// A server has ended.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let mut sum = Memory::default();
        for pid in &self.servers {
            let path = format!("/proc/{pid}/status");
            let status = std::fs::read_to_string(&path).context(path)?;
            let mib = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
                kib.with_context(|| format!("no {key} of process {pid}")).map(|kib| kib / 1_024.0)
            };
            sum = Memory { resident: sum.resident + mib("VmRSS:")?, peak: sum.peak + mib("VmHWM:")? };
        }
        Ok(sum)
    }

    /// Resets the peak of the servers' memory.
    ///
    /// # Errors
    /// A server has ended.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        /// Resets the peak of the resident set; see proc(5).
        const RESET_PEAK: &str = "5";
        self.servers.iter().try_for_each(|pid| {
            let path = format!("/proc/{pid}/clear_refs");
            std::fs::write(&path, RESET_PEAK).context(path)
        })
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
    /// Linux reports CPU time to user space in hundredths of a second.
    const MICROS_PER_TICK: f64 = 10_000.0;
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).context(path)?;
    // The name in parentheses may contain any character. The state after it is field 3, user
    // time is field 14, and system time is field 15.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11));
    let ticks: Vec<f64> = fields.into_iter().flatten().take(2).filter_map(|field| field.parse().ok()).collect();
    anyhow::ensure!(ticks.len() == 2, "process {pid} has no CPU time in /proc");
    Ok(ticks.iter().sum::<f64>() * MICROS_PER_TICK)
}
