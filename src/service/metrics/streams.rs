//! Streams: how many are open, how right our counts are, what was not charged.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use prometheus::{Counter, Gauge, IntGauge, Registry};

use crate::biz::{metering::Comparison, money::Money};

/// The accuracy is that of so many calls, the last that could be compared.
const WINDOW: usize = 1_000;

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
             1000 calls of models with a known encoding in which both are known",
        )?;
        let shortfall = Counter::new(
            "billing_shortfall_amount",
            "What was delivered and not charged, because services do not charge beyond the hold",
        )?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(accuracy_pct.clone()))?;
        registry.register(Box::new(shortfall.clone()))?;
        accuracy_pct.set(100.0);
        Ok(Self { open, accuracy_pct, shortfall, window: Mutex::default() })
    }

    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn closed(&self) {
        self.open.dec();
    }

    pub fn shortfall(&self, amount: Money) {
        self.shortfall.inc_by(amount.to_wire());
    }

    pub fn compare(&self, compared: Comparison) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        self.accuracy_pct.set(window.add(compared));
    }
}

/// The last comparisons, with their sums.
#[derive(Default)]
struct Window {
    compared: VecDeque<Comparison>,
    differences: u64,
    vendors: u64,
}

impl Window {
    /// The accuracy in percent, with `compared`.
    fn add(&mut self, compared: Comparison) -> f64 {
        if self.compared.len() == WINDOW
            && let Some(oldest) = self.compared.pop_front()
        {
            self.differences -= difference(oldest);
            self.vendors -= u64::from(oldest.vendors);
        }
        self.compared.push_back(compared);
        self.differences += difference(compared);
        self.vendors += u64::from(compared.vendors);
        match (self.differences, self.vendors) {
            (0, _) => 100.0,
            (differences, vendors) => (100.0 - 100.0 * differences as f64 / vendors.max(1) as f64).max(0.0),
        }
    }
}

fn difference(Comparison { ours, vendors }: Comparison) -> u64 {
    ours.abs_diff(vendors).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(ours: u32, vendors: u32) -> Comparison {
        Comparison { ours, vendors }
    }

    #[test]
    fn errors_do_not_cancel_out() {
        let mut window = Window::default();
        assert_eq!(window.add(compared(90, 100)), 90.0);
        assert_eq!(window.add(compared(110, 100)), 90.0);
        assert_eq!(window.add(compared(200, 200)), 95.0);
    }

    #[test]
    fn old_errors_are_forgotten() {
        let mut window = Window::default();
        window.add(compared(0, 100));
        let last = (0..WINDOW).map(|_| window.add(compared(100, 100))).last();
        assert_eq!(last, Some(100.0));
        assert_eq!(window.compared.len(), WINDOW);
    }

    #[test]
    fn counts_that_have_nothing_in_common_are_not_below_zero() {
        let mut window = Window::default();
        assert_eq!(window.add(compared(5, 0)), 0.0);
        assert_eq!(window.add(compared(500, 1)), 0.0);
    }
}
