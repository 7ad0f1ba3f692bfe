//! The last hour of this process, from samples of its own metrics. A sample a minute is all that it costs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::proto::{Metric, MetricFamily};

/// The time between two samples, and the samples of an hour.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_SAMPLES: usize = 61;

const REQUESTS: &str = "billing_requests_total";
const TIMES: &str = "billing_duration_ms";

/// Samples of the metrics, the oldest first.
#[derive(Default)]
pub struct Samples(Mutex<VecDeque<Sample>>);

/// The counts since the start of the process at one time.
pub struct Sample {
    at: Instant,
    /// By rpc: requests, and those with a fault.
    requests: BTreeMap<String, (u64, u64)>,
    /// By operation: the counts up to each bound of a bucket.
    times: BTreeMap<String, Vec<(f64, u64)>>,
}

/// The difference of two samples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Window {
    pub covers: Duration,
    /// By rpc: requests, and those with a fault.
    pub requests: Vec<(String, u64, u64)>,
    /// By operation: the count, and the bounds of the median and of 99 percent.
    pub times: Vec<(String, u64, f64, f64)>,
}

impl Sample {
    /// A sample of gathered metrics.
    pub fn of(families: &[MetricFamily], at: Instant) -> Self {
        let mut sample = Self { at, requests: BTreeMap::new(), times: BTreeMap::new() };
        for family in families {
            for metric in family.get_metric() {
                match family.name() {
                    REQUESTS => {
                        let count = metric.get_counter().get_value() as u64;
                        let counts = sample.requests.entry(label(metric, "rpc").to_owned()).or_default();
                        counts.0 += count;
                        counts.1 += if is_fault(label(metric, "code")) { count } else { 0 };
                    }
                    TIMES => {
                        let histogram = metric.get_histogram();
                        let buckets = histogram.get_bucket().iter();
                        let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
                        // The library leaves out the bucket without a bound.
                        let all = (f64::INFINITY, histogram.get_sample_count());
                        let counts = buckets.filter(|(bound, _)| bound.is_finite()).chain([all]).collect();
                        sample.times.insert(label(metric, "operation").to_owned(), counts);
                    }
                    _ => {}
                }
            }
        }
        sample
    }

    fn since(&self, first: &Self) -> Window {
        let requests = self.requests.iter().filter_map(|(rpc, (all, faults))| {
            let (before, faults_before) = first.requests.get(rpc).copied().unwrap_or_default();
            let all = all.saturating_sub(before);
            (all > 0).then(|| (rpc.clone(), all, faults.saturating_sub(faults_before)))
        });
        let mut requests: Vec<_> = requests.collect();
        requests.sort_by(|(one, a, _), (other, b, _)| b.cmp(a).then_with(|| one.cmp(other)));
        let times = self.times.iter().filter_map(|(operation, buckets)| {
            let before = first.times.get(operation);
            let counts: Vec<(f64, u64)> = buckets
                .iter()
                .enumerate()
                .map(|(index, (bound, count))| {
                    let earlier = before.and_then(|before| before.get(index)).map_or(0, |(_, count)| *count);
                    (*bound, count.saturating_sub(earlier))
                })
                .collect();
            let all = counts.last().map_or(0, |(_, count)| *count);
            (all > 0).then(|| (operation.clone(), all, bound_of(&counts, all, 50), bound_of(&counts, all, 99)))
        });
        Window { covers: self.at.saturating_duration_since(first.at), requests, times: times.collect() }
    }
}

/// The bound of the bucket in which so many percent of the counts lie.
fn bound_of(counts: &[(f64, u64)], all: u64, percent: u64) -> f64 {
    let wanted = (all * percent).div_ceil(100);
    counts.iter().find(|(_, count)| *count >= wanted).map_or(f64::INFINITY, |(bound, _)| *bound)
}

fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value()).unwrap_or_default()
}

/// Whether a code of either protocol is a fault of the service.
fn is_fault(code: &str) -> bool {
    code.starts_with('5') || matches!(code, "INTERNAL" | "UNKNOWN" | "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "DATA_LOSS")
}

impl Samples {
    /// Adds a sample, and drops those that are older than an hour.
    pub fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(sample);
        while samples.len() > MAX_SAMPLES {
            samples.pop_front();
        }
    }

    /// The time from the oldest sample until `now`. Without a sample it is that since the start.
    pub fn until(&self, now: &Sample) -> Window {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.front().map(|first| now.since(first)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn sample(metrics: &Metrics, at: Instant) -> Sample {
        metrics.sample(at)
    }

    #[test]
    fn a_window_has_the_requests_and_times_between_two_samples() {
        let (metrics, samples, began) = (Metrics::new().unwrap(), Samples::default(), Instant::now());
        metrics.requests.count("CheckQuota", "grpc", "OK");
        metrics.charges.times.observe("deduct", Duration::from_millis(900));
        samples.add(sample(&metrics, began));
        for _ in 0..98 {
            metrics.requests.count("CheckQuota", "grpc", "OK");
            metrics.charges.times.observe("deduct", Duration::from_micros(1_500));
        }
        metrics.requests.count("CheckQuota", "grpc", "UNAVAILABLE");
        metrics.requests.count("GetAccount", "http", "404");
        metrics.requests.count("GetAccount", "http", "500");
        for _ in 0..2 {
            metrics.charges.times.observe("deduct", Duration::from_millis(40));
        }
        let window = samples.until(&sample(&metrics, began + Duration::from_secs(90)));
        assert_eq!(window.covers, Duration::from_secs(90));
        assert_eq!(window.requests, [("CheckQuota".into(), 99, 1), ("GetAccount".into(), 2, 1)]);
        let [(operation, count, p50, p99)] = &window.times[..] else { panic!("{window:?}") };
        assert_eq!((operation.as_str(), *count), ("deduct", 100));
        assert!((1.5..=5.0).contains(p50) && (40.0..=100.0).contains(p99), "{p50} {p99}");
    }

    #[test]
    fn calls_beyond_the_last_bound_are_counted() {
        let (metrics, samples, began) = (Metrics::new().unwrap(), Samples::default(), Instant::now());
        samples.add(sample(&metrics, began));
        for seconds in [10, 10, 10, 0, 0, 0, 0, 0, 0, 0] {
            metrics.charges.times.observe("deduct", Duration::from_secs(seconds));
        }
        metrics.charges.times.observe("reserve", Duration::from_secs(10));
        let window = samples.until(&sample(&metrics, began + Duration::from_secs(1)));
        let [(_, deducted, p50, p99), (_, reserved, least, _)] = &window.times[..] else { panic!("{window:?}") };
        assert_eq!((*deducted, *reserved), (10, 1));
        assert!(p50.is_finite() && p99.is_infinite() && least.is_infinite(), "{window:?}");
    }

    #[test]
    fn an_hour_of_samples_is_kept() {
        let (metrics, samples, began) = (Metrics::new().unwrap(), Samples::default(), Instant::now());
        for minute in 0..200 {
            samples.add(sample(&metrics, began + minute * SAMPLE_INTERVAL));
        }
        let window = samples.until(&sample(&metrics, began + 199 * SAMPLE_INTERVAL));
        assert_eq!(window.covers, Duration::from_secs(3_600));
    }
}
