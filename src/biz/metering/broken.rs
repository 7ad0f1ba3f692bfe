//! What becomes of a stream that broke.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Meter, metered::Metered};
use crate::biz::{
    error::{Error, Result},
    settlement::{
        posting::{Cause, Effect, Expire, RecordIds},
        transaction::Transaction,
    },
};

/// Between the first two attempts to settle one; twice as long between the next, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long it is tried. What is lost then was delivered in an outage of a day.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);
/// Attempts that may fail as they should not.
const MAX_DEFECTS: u32 = 5;

/// Makes what was delivered durable at once, waits for the stream to be opened again,
/// and charges it where it was not, also where the sweep came first. What can't be settled until
/// the process ends is left to the sweep.
pub(super) async fn settle_broken(meter: &Meter, metered: &Metered) -> Option<(Transaction, Effect)> {
    let Meter { engine, settings, waiting, stop, .. } = meter;
    // Where too many wait already there is no grace.
    let waits = waiting.try_acquire();
    if waits.is_ok() {
        let report = metered.report(settings.ttl, None);
        until_settled(meter, || engine.report(report.clone())).await?;
        stop.run_until_cancelled(sleep(settings.grace)).await?;
    }
    let Transaction { user, trace, record_id: stream, .. } = metered.reservation().clone();
    let cause = Cause::Broken { stream, usage: metered.delivered() };
    let expire = Expire { user, trace, cause, record_ids: RecordIds::fresh() };
    until_settled(meter, || engine.expire(expire.clone())).await?
}

/// Tries again while the database does not answer. `None` when that was to no avail, or
/// refused.
pub(super) async fn until_settled<T, F: Future<Output = Result<T>>>(
    Meter { stop, .. }: &Meter,
    attempt: impl Fn() -> F,
) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    let (mut defects, mut pause) = (0, PAUSE);
    loop {
        let error = match attempt().await {
            Ok(done) => return Some(done),
            // Ended, or taken over.
            Err(Error::TransactionState(_) | Error::TransactionNotFound(_)) => return None,
            Err(error) => error,
        };
        defects += u32::from(matches!(error, Error::Internal(_)));
        let may_pass = matches!(error, Error::Overloaded(_) | Error::Internal(_)) && defects < MAX_DEFECTS;
        if !may_pass || stop.is_cancelled() || Instant::now() + pause >= deadline {
            tracing::warn!(%error, "a stream that has ended is left to the sweep");
            return None;
        }
        stop.run_until_cancelled(sleep(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
