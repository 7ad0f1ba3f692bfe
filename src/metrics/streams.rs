//! Metrics of streams: open streams, the accuracy of token counts, and uncharged amounts.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{Counter, Gauge, IntGauge, Registry};

use crate::biz::{metering::Comparison, values::money::Money};

/// The accuracy covers this many comparisons, the latest ones.
const WINDOW: usize = 1_000;
/// Comparisons older than this are dropped, so that a bad hour ends even without traffic.
const WINDOW_AGE: Duration = Duration::from_secs(3_600);
/// With fewer tokens, the accuracy is shown as 100: in a short answer, one word is ten percent.
const LEAST_TOKENS: u64 = 10_000;

pub struct StreamMetrics {
    open: IntGauge,
    accuracy_pct: Gauge,
    shortfall: Counter,
    window: Mutex<Window>,
}

impl StreamMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let open =
            IntGauge::new("billing_streams_open", "Metered streams that are open, or broke and wait to be charged")?;
        let accuracy_pct = Gauge::new(
            "billing_stream_token_accuracy_pct",
            "100 less the differences of our output tokens from the vendors', in percent of theirs, over the last \
             1000 calls of an hour of models with a known encoding in which both are known; 100 below 10000 tokens",
        )?;
        let shortfall = Counter::new(
            "billing_shortfall_amount_total",
            "Delivered work that was not charged, because services do not charge beyond the hold",
        )?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(accuracy_pct.clone()))?;
        registry.register(Box::new(shortfall.clone()))?;
        accuracy_pct.set(100.0);
        Ok(Self { open, accuracy_pct, shortfall, window: Mutex::default() })
    }

    /// Counts an open stream until the returned guard is dropped.
    pub fn open(&self) -> impl Drop + use<> {
        self.open.inc();
        OpenStream(self.open.clone())
    }

    pub fn shortfall(&self, amount: Money) {
        self.shortfall.inc_by(amount.to_wire());
    }

    pub fn compare(&self, compared: Comparison) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).add(compared, Instant::now());
    }

    /// Updates the gauge of the accuracy.
    pub(super) fn refresh(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        self.accuracy_pct.set(window.accuracy_pct(Instant::now()));
    }
}

struct OpenStream(IntGauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The latest comparisons, with their sums.
#[derive(Default)]
struct Window {
    compared: VecDeque<(Instant, Comparison)>,
    differences: u64,
    vendors: u64,
}

impl Window {
    fn add(&mut self, compared: Comparison, now: Instant) {
        if self.compared.len() == WINDOW {
            self.forget_oldest();
        }
        self.compared.push_back((now, compared));
        self.differences += difference(compared);
        self.vendors += u64::from(compared.vendors);
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.compared.pop_front() {
            self.differences -= difference(oldest);
            self.vendors -= u64::from(oldest.vendors);
        }
    }

    fn accuracy_pct(&mut self, now: Instant) -> f64 {
        while self.compared.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW_AGE) {
            self.forget_oldest();
        }
        if self.vendors < LEAST_TOKENS {
            return 100.0;
        }
        (100.0 - 100.0 * self.differences as f64 / self.vendors as f64).max(0.0)
    }
}

fn difference(Comparison { ours, vendors }: Comparison) -> u64 {
    ours.abs_diff(vendors).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Compared(Window, Instant);

    impl Compared {
        fn add(&mut self, ours: u32, vendors: u32) -> f64 {
            self.0.add(Comparison { ours, vendors }, self.1);
            self.0.accuracy_pct(self.1)
        }
    }

    fn nothing() -> Compared {
        Compared(Window::default(), Instant::now())
    }

    #[test]
    fn errors_do_not_cancel_out() {
        let mut compared = nothing();
        assert_eq!(compared.add(9_000, 10_000), 90.0);
        assert_eq!(compared.add(11_000, 10_000), 90.0);
        assert_eq!(compared.add(20_000, 20_000), 95.0);
        assert_eq!(compared.add(900_000, 20_000), 0.0);
    }

    #[test]
    fn few_tokens_show_full_accuracy() {
        let mut compared = nothing();
        assert_eq!(compared.add(9, 10), 100.0);
        assert_eq!(compared.add(0, 9_989), 100.0);
        assert!(compared.add(1, 1) < 1.0);
    }

    #[test]
    fn old_comparisons_are_dropped() {
        let mut compared = nothing();
        compared.add(0, 100_000);
        let last = (0..WINDOW).map(|_| compared.add(1_000, 1_000)).last();
        assert_eq!((last, compared.0.compared.len()), (Some(100.0), WINDOW));

        let mut compared = nothing();
        assert_eq!(compared.add(0, 100_000), 0.0);
        compared.1 += WINDOW_AGE + Duration::from_secs(1);
        assert_eq!(compared.0.accuracy_pct(compared.1), 100.0);
        assert_eq!(compared.add(9_000, 10_000), 90.0);
    }
}
