//! Metrics of the process, under the names that every Prometheus client library uses. They are read
//! from /proc at each scrape, so only Linux has them.

use std::{fs, path::Path};

use prometheus::{
    Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
    {Counter, Gauge},
};

/// Clock ticks in a second, for all programs on Linux.
const TICKS: f64 = 100.0;
const KIB: f64 = 1024.0;

pub(super) struct ProcessCollector {
    cpu_seconds: Counter,
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory_bytes: Gauge,
    resident_memory_bytes: Gauge,
    start_time_seconds: Gauge,
    threads: Gauge,
}

impl ProcessCollector {
    pub(super) fn new() -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        Ok(Self {
            cpu_seconds: Counter::with_opts(Opts::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds",
            ))?,
            open_fds: gauge("process_open_fds", "Number of open file descriptors")?,
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors")?,
            virtual_memory_bytes: gauge("process_virtual_memory_bytes", "Virtual memory size in bytes")?,
            resident_memory_bytes: gauge("process_resident_memory_bytes", "Resident memory size in bytes")?,
            start_time_seconds: gauge(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
            )?,
            threads: gauge("process_threads", "Number of OS threads in the process")?,
        })
    }

    fn refresh(&self) -> Option<()> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let Stat { cpu_ticks, start_ticks } = Stat::parse(&stat)?;
        self.cpu_seconds.inc_by((cpu_ticks / TICKS - self.cpu_seconds.get()).max(0.0));
        let boot = field(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
        self.start_time_seconds.set(boot + start_ticks / TICKS);
        let status = fs::read_to_string("/proc/self/status").ok()?;
        self.virtual_memory_bytes.set(field(&status, "VmSize:")? * KIB);
        self.resident_memory_bytes.set(field(&status, "VmRSS:")? * KIB);
        self.threads.set(field(&status, "Threads:")?);
        self.open_fds.set(fs::read_dir(Path::new("/proc/self/fd")).ok()?.count() as f64);
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        self.max_fds.set(field(&limits, "Max open files").unwrap_or(f64::INFINITY));
        Some(())
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.open_fds,
            &self.max_fds,
            &self.virtual_memory_bytes,
            &self.resident_memory_bytes,
            &self.start_time_seconds,
            &self.threads,
        ]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self.refresh() {
            Some(()) => self.parts().into_iter().flat_map(Collector::collect).collect(),
            None => Vec::new(),
        }
    }
}

/// The times in a line of /proc/PID/stat.
struct Stat {
    cpu_ticks: f64,
    /// Since the start of the machine.
    start_ticks: f64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name before it may contain blanks and parentheses.
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: ticks(11)? + ticks(12)?, start_ticks: ticks(19)? })
    }
}

/// The first number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 4 0 1234 5 6";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.cpu_ticks, stat.start_ticks), (200.0, 1234.0));
    }

    #[test]
    fn a_number_is_found_by_the_beginning_of_its_line() {
        let text = "VmPeak:\t  9 kB\nVmSize:\t  8 kB\nMax open files            1024                 4096   files\n";
        assert_eq!(field(text, "VmSize:"), Some(8.0));
        assert_eq!(field(text, "Max open files"), Some(1024.0));
        assert_eq!(field(text, "Threads:"), None);
        assert_eq!(field("Max open files   unlimited  unlimited files", "Max open files"), None);
    }

    #[test]
    fn this_process_has_every_metric() {
        let families = ProcessCollector::new().unwrap().collect();
        assert_eq!(families.len(), 7);
        for family in families {
            let metric = &family.get_metric()[0];
            let value = metric.get_gauge().get_value().max(metric.get_counter().get_value());
            assert!(value > 0.0 || family.name() == "process_cpu_seconds_total", "{}", family.name());
        }
    }
}
