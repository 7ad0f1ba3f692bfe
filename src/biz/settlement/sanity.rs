//! Usage that is far beyond what could be expected. It is charged, because the work may be delivered,
//! and shown, because it may be a defect of the caller.

use super::transaction::Transaction;

impl Transaction {
    /// Whether the tokens of the call are more than `times` the estimate of the reserve, or the largest
    /// call of the model.
    pub fn is_suspicious(&self, times: u32) -> bool {
        let delivered = self.reservation.as_ref().and_then(|reservation| reservation.delivered.as_ref());
        let usage = delivered.map_or(self.content.usage, |delivered| delivered.usage);
        let Some(tokens) = usage.map(|usage| usage.tokens()) else { return false };
        let estimate = self.content.estimate.map(|estimate| estimate.tokens());
        let largest = self.price_version.as_ref().and_then(|version| version.prices.max_tokens()).map(u64::from);
        let expected = [estimate, largest].into_iter().flatten().filter(|expected| *expected > 0);
        expected.into_iter().any(|expected| tokens > expected.saturating_mul(times.into()))
    }
}
