//! The settlement of a broken stream.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Meter, metered::Metered};
use crate::biz::{
    settlement::{
        posting::{Cause, Effect, Expire, RecordIds},
        transaction::Transaction,
    },
    values::error::{Error, Result},
};

/// Pauses between two attempts to settle: doubling from the first to the longest. Jitter makes a
/// pause up to twice as long.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const BACKOFF: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(PAUSE).with_max_delay(LONGEST_PAUSE).without_max_times().with_jitter();
/// Time limit of the attempts. Output that was delivered during a longer outage may be lost.
const DEADLINE: Duration = Duration::from_secs(24 * 3_600);
/// Most attempts that may fail with an internal error.
const MAX_DEFECTS: u32 = 5;

/// Settles a broken stream: makes the delivered tokens durable at once, waits for the stream to
/// be opened again, and charges the stream if it was not. It also charges a stream whose
/// reservation the sweep has ended. A stream that can't be settled before the lanes close is
/// left to the sweep.
pub(super) async fn settle_broken(meter: &Meter, metered: &Metered) -> Option<(Transaction, Effect)> {
    let Meter { engine, settings, waiting, stop, .. } = meter;
    // If too many broken streams wait already, this one gets no grace.
    let waits = waiting.try_acquire();
    if waits.is_ok() {
        let report = metered.report(settings.ttl, None);
        until_settled(stop, engine.closed(), || engine.report(report.clone())).await?;
        stop.run_until_cancelled(sleep(settings.grace)).await?;
    }
    let Transaction { user, trace, record_id: stream, .. } = metered.reservation().clone();
    let cause = Cause::Broken { stream, usage: metered.delivered(), stop: metered.stop() };
    let expire = Expire { user, trace, cause, record_ids: RecordIds::fresh() };
    until_settled(stop, engine.closed(), || engine.expire(expire.clone())).await?
}

/// Retries while the database is down, until the lanes are `closed`. Once the server is asked to
/// `stop`, the pauses are short. `None` if the attempt is refused, or no retry succeeded.
pub(super) async fn until_settled<T, F: Future<Output = Result<T>>>(
    stop: &CancellationToken,
    closed: &CancellationToken,
    attempt: impl Fn() -> F,
) -> Option<T> {
    let deadline = Instant::now() + DEADLINE;
    let (mut defects, mut pauses) = (0, BACKOFF.build());
    loop {
        let error = match attempt().await {
            Ok(done) => return Some(done),
            // The reservation has ended, or another stream took it over.
            Err(Error::TransactionState(_) | Error::TransactionNotFound(_)) => return None,
            Err(error) => error,
        };
        defects += u32::from(matches!(error, Error::Internal(_)));
        let may_pass = matches!(error, Error::Overloaded(_) | Error::Internal(_)) && defects < MAX_DEFECTS;
        let (pause, interrupt) = if stop.is_cancelled() { (PAUSE, closed) } else { (pauses.next()?, stop) };
        if !may_pass || closed.is_cancelled() || Instant::now() + pause >= deadline {
            tracing::warn!(%error, "stream not settled; leaving it to the sweep");
            return None;
        }
        interrupt.run_until_cancelled(sleep(pause)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn tried(outage: Duration, stop: &CancellationToken, closed: &CancellationToken) -> (Option<Instant>, u32) {
        let (attempts, over) = (Cell::new(0), Instant::now() + outage);
        let attempt = async || {
            attempts.set(attempts.get() + 1);
            match Instant::now() {
                now if now < over => Err(Error::Overloaded("an outage".into())),
                now => Ok(now),
            }
        };
        (until_settled(stop, closed, attempt).await, attempts.get())
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_hours_is_survived_with_longer_pauses() {
        let (begun, never) = (Instant::now(), CancellationToken::new());
        let (settled, attempts) = tried(Duration::from_secs(3 * 3_600), &never, &never).await;
        assert!(settled.unwrap() - begun < Duration::from_secs(3 * 3_600) + 2 * LONGEST_PAUSE);
        assert!(attempts < 400, "{attempts}");
        let (settled, _) = tried(DEADLINE + LONGEST_PAUSE, &never, &never).await;
        assert_eq!(settled, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopping_server_retries_until_its_lanes_close() {
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        stop.cancel();
        let begun = Instant::now();
        let (settled, _) = tried(Duration::from_secs(20), &stop, &closed).await;
        assert!(settled.unwrap() - begun <= Duration::from_secs(20) + PAUSE, "pauses are short while stopping");
        let closing = async {
            sleep(Duration::from_secs(25)).await;
            closed.cancel();
        };
        let ((settled, _), ()) = tokio::join!(tried(DEADLINE, &stop, &closed), closing);
        assert_eq!(settled, None);
        assert!(begun.elapsed() < Duration::from_secs(47));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_retried() {
        let never = CancellationToken::new();
        let attempts = Cell::new(0);
        for (error, expected) in [
            (Error::TransactionState("ended".into()), 1),
            (Error::TransactionNotFound("gone".into()), 1),
            (Error::Internal("a defect".into()), MAX_DEFECTS),
        ] {
            attempts.set(0);
            let attempt = async || {
                attempts.set(attempts.get() + 1);
                Err::<(), _>(error.clone())
            };
            assert_eq!(until_settled(&never, &never, attempt).await, None);
            assert_eq!(attempts.get(), expected, "{error}");
        }
    }
}
