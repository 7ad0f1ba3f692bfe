//! Events: the written ones, and the size of their feed.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{registration::counters, scale::gauge};
use crate::biz::{events::EventType, jobs::ops_stats::FeedSize};

/// The gauges are vectors, so that they are absent before the first read. A zero would mean an empty feed.
pub struct EventMetrics {
    written: IntCounterVec,
    head: IntGaugeVec,
    kept: IntGaugeVec,
    unread: IntGaugeVec,
    oldest_timestamp_seconds: IntGaugeVec,
}

impl EventMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name, help| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &[])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let help = "Events that the settlements of this server wrote";
        let written = counters(registry, "billing_events_written_total", help, &["type"])?;
        // A rate does not see the first step of a counter.
        for kind in EventType::ALL.iter().filter(|kind| kind.is_settled()) {
            written.with_label_values(&[kind.name()]);
        }
        Ok(Self {
            written,
            head: gauges("billing_events_head", "Position of the newest event of the feed")?,
            kept: gauges("billing_events_kept", "Events that are kept")?,
            unread: gauges(
                "billing_events_unread",
                "Events that no reader of the feed has reached yet, at most 10000",
            )?,
            oldest_timestamp_seconds: gauges(
                "billing_events_oldest_timestamp_seconds",
                "When the oldest kept event was written, in seconds since 1970; 0 without an event",
            )?,
        })
    }

    /// Counts the events of a commit.
    pub fn count(&self, kinds: &[EventType]) {
        for kind in kinds {
            self.written.with_label_values(&[kind.name()]).inc();
        }
    }

    /// Sets the gauges of the feed.
    pub fn set_size(&self, size: &FeedSize) {
        let set = |gauges: &IntGaugeVec, value| gauges.with_label_values::<&str>(&[]).set(value);
        set(&self.head, gauge(size.head));
        set(&self.kept, gauge(size.placed.saturating_add(size.unplaced)));
        set(&self.unread, gauge(size.unplaced));
        set(&self.oldest_timestamp_seconds, size.oldest.map_or(0, |at| at.timestamp()));
    }
}
