//! The figures of one stream: its usage, the durable part of it, the cover of its hold, and the
//! time of the next report.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Finish, MeterState, StreamTimeouts};
use crate::biz::{
    settlement::{
        engine::Reported,
        posting::{Commit, RecordIds, Report, Stop},
        transaction::{Reservation, Status, Transaction},
    },
    values::{
        error::{Error, Result},
        money::Money,
        usage::Usage,
    },
};

/// The most output tokens that a hold covers in advance.
const LARGEST_STEP: u32 = 4_096;

/// The parts of a sent report that its result depends on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    pub target: Option<Usage>,
    pub stop: Option<Stop>,
}

pub(super) struct Metered {
    /// The reservation as last committed.
    reservation: Transaction,
    /// Output tokens of our own count.
    counted: u32,
    /// Usage of the vendor's count, so far.
    upstream: Option<Usage>,
    /// The last report held less than its target.
    is_short: bool,
    /// The API key has no tokens left.
    is_exhausted: bool,
    /// The time of the last report.
    reported_at: Instant,
    /// Whether the last report failed. The next one waits for the interval.
    has_failed: bool,
    /// Whether the gateway was ever asked to stop.
    has_stopped: bool,
    /// Whether the gateway was asked to stop for want of funds, and not asked to go on since.
    lacks_funds: bool,
    /// The last stop for want of funds, until a report has told of it.
    stop: Option<Stop>,
}

impl Metered {
    pub fn new(reservation: Transaction) -> Self {
        Self {
            reservation,
            counted: 0,
            upstream: None,
            is_short: false,
            is_exhausted: false,
            has_stopped: false,
            lacks_funds: false,
            stop: None,
            reported_at: Instant::now(),
            has_failed: false,
        }
    }

    pub fn set_counted(&mut self, output_tokens: usize) {
        self.counted = u32::try_from(output_tokens).unwrap_or(u32::MAX);
    }

    /// Our count, if it can be compared with the vendor's: it must not be zero, and must cover
    /// all output. After a stop, the vendor may have counted more.
    pub fn comparable(&self) -> Option<u32> {
        Some(self.counted).filter(|counted| *counted > 0 && !self.has_stopped)
    }

    /// Sets the vendor's usage; a usage of zero is ignored.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a usage that can't be priced and so could never be charged.
    pub fn set_upstream(&mut self, usage: Usage) -> Result<()> {
        self.amount(usage)?;
        self.upstream = match self.upstream {
            _ if usage.is_empty() => self.upstream,
            // Some vendors report only the output while it grows.
            Some(before) if usage.input_tokens == 0 => Some(before.with_output_of(usage)),
            _ => Some(usage),
        };
        Ok(())
    }

    /// The usage of the stream. The input is the estimate until the vendor reports it.
    pub fn usage(&self) -> Usage {
        let expected = self.reservation.content.estimate.unwrap_or_default().with_output_of(Usage::default());
        // A stream that was opened again continues from its last report.
        let reported = self.held().and_then(|held| held.reported);
        let known = match self.upstream {
            Some(upstream) if upstream.input_tokens == 0 => reported.unwrap_or(expected).with_output_of(upstream),
            Some(upstream) => upstream,
            None => reported.unwrap_or(expected),
        };
        let usage = Usage { output_tokens: known.output_tokens.max(self.counted), ..known };
        self.held().map_or(usage, |held| held.with(usage))
    }

    /// As [`Self::usage`]; `None` while nothing is delivered.
    pub fn delivered(&self) -> Option<Usage> {
        let usage = self.usage();
        let is_known = self.upstream.is_some() || self.held().is_some_and(|held| held.reported.is_some());
        (usage.output_tokens > 0 || is_known).then_some(usage)
    }

    pub fn state(&mut self) -> MeterState {
        let is_used_up = !self.is_covered(more(self.usage(), 1));
        let lacks_funds = (self.is_short && is_used_up) || self.is_exhausted;
        if lacks_funds && !self.lacks_funds {
            self.stop = Some(Stop { id: Uuid::now_v7(), output_tokens: self.usage().output_tokens });
        }
        self.lacks_funds = lacks_funds;
        // While reports fail, the hold can't grow, so its end counts as the end of the balance. An outage is no news of
        // the account.
        let stop = lacks_funds || (self.has_failed && is_used_up);
        self.has_stopped |= stop;
        let durable = self.held().and_then(|held| held.reported).unwrap_or_default();
        MeterState {
            output_tokens: self.usage().output_tokens,
            durable_output_tokens: durable.output_tokens,
            amount: self.amount(self.usage()).unwrap_or(Money::MAX),
            held: self.held().map_or(Money::ZERO, |held| held.amount),
            stop,
        }
    }

    /// The report that is due at `now`, if any.
    pub fn due_report(&mut self, now: Instant, settings: &StreamTimeouts) -> Option<Report> {
        (self.next_report(settings)? <= now).then(|| {
            self.reported_at = now;
            let target = Some(more(self.usage(), self.step())).filter(|_| self.wants_more());
            self.report(settings.ttl, target)
        })
    }

    /// The time of the next report in the current state.
    pub fn next_report(&self, settings: &StreamTimeouts) -> Option<Instant> {
        let next = self.reported_at + settings.progress;
        if self.stop.is_some() {
            // At once, because subscribers wait for it.
            return Some(if self.has_failed { next } else { self.reported_at });
        }
        if self.wants_more() {
            // At once, unless the last report failed or could not hold enough.
            return Some(if self.is_short || self.has_failed { next } else { self.reported_at });
        }
        // The hold must not expire while the stream lives.
        let half = (settings.ttl / 2).to_std().unwrap_or(Duration::MAX);
        let renewal = self.reported_at.checked_add(half);
        let durable = self.held().and_then(|held| held.reported);
        if self.has_failed || self.delivered() != durable {
            return Some(renewal.map_or(next, |renewal| renewal.min(next)));
        }
        renewal
    }

    /// A report that makes the usage durable, and asks for a hold up to `target`.
    pub fn report(&self, ttl: chrono::TimeDelta, target: Option<Usage>) -> Report {
        Report {
            user: self.reservation.user.clone(),
            trace: self.reservation.trace.clone(),
            stream: self.reservation.record_id,
            takes_over: false,
            usage: self.delivered(),
            target,
            ttl,
            stop: self.stop,
        }
    }

    /// Takes the result of a report.
    ///
    /// # Errors
    /// [`Error::TransactionState`], [`Error::TransactionNotFound`]: the reservation has ended, or
    /// another stream took it over. [`Self::is_gone`] is true if it can no longer be charged.
    pub fn set_reported(&mut self, report: Sent, reported: Reported) -> Result<()> {
        if reported.is_ok() && report.stop == self.stop {
            self.stop = None;
        }
        match reported {
            Ok((transaction, _)) if transaction.status != Status::Pending => {
                self.reservation = transaction;
                Err(Error::TransactionState(
                    "trace_id: the reservation has ended; the delivered tokens are charged".into(),
                ))
            }
            Ok((transaction, is_exhausted)) => {
                self.reservation = transaction;
                self.has_failed = false;
                self.is_exhausted = is_exhausted;
                self.is_short = report.target.is_some_and(|target| !self.is_covered(target));
                Ok(())
            }
            Err(error @ (Error::TransactionState(_) | Error::TransactionNotFound(_))) => Err(error),
            Err(error) => {
                // Logged once per outage and stream, because each stream retries.
                if !self.has_failed {
                    tracing::warn!(%error, trace_id = %self.reservation.trace, "progress of a stream not durable yet; retrying");
                }
                self.has_failed = true;
                Ok(())
            }
        }
    }

    pub fn commit(&self, finish: Finish) -> Commit {
        let usage = finish.usage.or_else(|| Some(self.usage()).filter(|usage| !usage.is_empty()));
        Commit {
            user: self.reservation.user.clone(),
            trace: self.reservation.trace.clone(),
            count: finish.count,
            cost: finish.cost,
            usage,
            counted_output: None,
            service_tier: finish.service_tier,
            served: finish.served,
            stream: Some(self.reservation.record_id),
            stop: self.stop,
            record_ids: RecordIds::fresh(),
        }
    }

    /// Whether the error of a report leaves nothing for this stream to settle.
    pub fn is_gone(&self) -> bool {
        self.reservation.status == Status::Pending
    }

    /// The stop that no report has told of yet.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    pub fn reservation(&self) -> &Transaction {
        &self.reservation
    }

    fn held(&self) -> Option<&Reservation> {
        self.reservation.reservation.as_ref()
    }

    /// Whether the hold should grow, because it does not cover the next half step.
    fn wants_more(&self) -> bool {
        !self.is_covered(more(self.usage(), self.step().div_ceil(2)))
    }

    fn is_covered(&self, usage: Usage) -> bool {
        let held = self.held().map_or(Money::ZERO, |held| held.amount);
        self.amount(usage).is_ok_and(|amount| amount <= held)
    }

    fn amount(&self, usage: Usage) -> Result<Money> {
        if usage.is_empty() {
            return Ok(Money::ZERO);
        }
        Ok(self.reservation.so_far(usage)?.amount)
    }

    /// The output tokens that a growing hold covers in advance: a quarter of the output so far.
    /// More would hold balance that the stream may never use; less would grow the hold with each
    /// word.
    fn step(&self) -> u32 {
        (self.usage().output_tokens / 4 + 2).min(LARGEST_STEP)
    }
}

fn more(usage: Usage, output_tokens: u32) -> Usage {
    Usage { output_tokens: usage.output_tokens.saturating_add(output_tokens), ..usage }
}

#[cfg(test)]
mod tests;
