//! The spans that were lost on their way to the collector of traces.

use prometheus::{
    IntCounter,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::biz::values::spans;

/// Reads the count at each scrape.
pub(super) struct SpanCollector {
    lost: IntCounter,
}

impl SpanCollector {
    pub(super) fn new() -> prometheus::Result<Self> {
        let help = "Spans that found the queue full, or that the collector of traces did not take";
        Ok(Self { lost: IntCounter::new("billing_spans_lost_total", help)? })
    }
}

impl Collector for SpanCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.lost.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.lost.inc_by(spans::lost().saturating_sub(self.lost.get()));
        self.lost.collect()
    }
}
