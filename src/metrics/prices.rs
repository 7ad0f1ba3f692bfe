//! The price book in use.

use chrono::{DateTime, Utc};
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

use super::scale::gauge;

pub struct PriceMetrics {
    rows_refused: IntGauge,
    book_failed: IntGauge,
    /// A vector, so that the metric is absent before the first read of the book.
    book_read_timestamp_seconds: IntGaugeVec,
}

impl PriceMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let shown = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let name = "billing_price_book_read_timestamp_seconds";
        let read = IntGaugeVec::new(Opts::new(name, "When price_version was last read, in seconds since 1970"), &[])?;
        registry.register(Box::new(read.clone()))?;
        Ok(Self {
            rows_refused: shown(
                "billing_price_rows_refused",
                "Rows of price_version that can't be used; their models have no price as long as they are in force",
            )?,
            book_failed: shown(
                "billing_price_book_failed",
                "1 while price_version can't be read; the prices that were read before stay in use",
            )?,
            book_read_timestamp_seconds: read,
        })
    }

    /// Shows a successful read of the book, with the number of unusable rows.
    pub fn set_read(&self, at: DateTime<Utc>, refused: usize) {
        self.rows_refused.set(gauge(refused as u64));
        self.book_failed.set(0);
        self.book_read_timestamp_seconds.with_label_values::<&str>(&[]).set(at.timestamp());
    }

    /// Shows a failed read of the book.
    pub fn set_failed(&self) {
        self.book_failed.set(1);
    }
}
