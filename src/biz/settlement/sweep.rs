//! The sweep: ends the reservations that are past their expiry.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    engine::Engine,
    posting::{Cause, Effect, Expire, RecordIds},
    transaction::{Due, Status, Transaction, TransactionStore},
};
use crate::biz::values::{calendar::Calendar, error::Result};

/// The stored name of the job, whose lease each sweep takes.
pub const JOB: &str = "expire-reservations";

/// Reservations that are read and posted together.
const CHUNK: u32 = 500;
/// A sweep reads no further chunk after this time. With its last chunk it is shorter than the longest work under a
/// lease.
const LONGEST: Duration = Duration::from_secs(40);

/// The result of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Reservations whose hold was freed.
    pub freed: u64,
    /// Streams that were charged for the usage that they had reported.
    pub charged: u64,
    /// Reservations that could not be ended. The next sweep tries again.
    pub failed: u64,
}

/// Ends every reservation that is past its expiry, through the lanes of `engine`. A commit or
/// release that settles first wins. Parallel sweeps end each reservation once. Calls `on_ended` for
/// each ended reservation. Returns after some 40 seconds; the next sweep goes on.
///
/// # Errors
/// [`crate::biz::values::error::Error::Overloaded`] or Internal: the expired reservations can't be
/// read.
pub async fn sweep(
    store: &dyn TransactionStore,
    engine: &Engine,
    calendar: &Calendar,
    on_ended: impl Fn(Transaction, Effect),
) -> Result<Swept> {
    let until = calendar.now().utc;
    let began = Instant::now();
    let mut swept = Swept::default();
    let mut last: Option<Due> = None;
    // Ends: each chunk begins behind the last, and new holds expire later than `until`.
    loop {
        let due = store.due(until, last.as_ref(), CHUNK).await?;
        let Some(end) = due.last().cloned() else { return Ok(swept) };
        // This sweep forgets the reservations that had already ended. The next sweep forgets the
        // reservations that this one ends.
        let (pending, ended): (Vec<_>, Vec<_>) = due.into_iter().partition(|due| due.is_pending);
        let posted = join_all(pending.into_iter().map(|Due { user, trace, .. }| {
            let record_ids = RecordIds::fresh();
            let posted = engine.expire(Expire { user, trace: trace.clone(), cause: Cause::Expired, record_ids });
            async { (trace, posted.await) }
        }));
        for (trace, posted) in posted.await {
            match posted {
                Ok(None) => {}
                Ok(Some((ended, effect))) => {
                    match ended.status {
                        Status::Committed => swept.charged += 1,
                        _ => swept.freed += 1,
                    }
                    on_ended(ended, effect);
                }
                Err(error) => {
                    tracing::warn!(%error, trace_id = %trace, "expired reservation not ended; the next sweep tries again");
                    swept.failed += 1;
                }
            }
        }
        if !ended.is_empty()
            && let Err(error) = store.forget(&ended).await
        {
            tracing::warn!(%error, "ended reservations stay listed until the next sweep");
        }
        if began.elapsed() >= LONGEST {
            tracing::info!("sweep of expired reservations takes long; the next one goes on");
            return Ok(swept);
        }
        last = Some(end);
    }
}

/// The preview of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepPreview {
    /// Reservations that would be ended.
    pub holds: u64,
    /// The reservations that expired first, in that order.
    pub first: Vec<Due>,
}

/// Counts the reservations that [`sweep`] would end now, and lists at most `listed` of them. Only
/// reads.
///
/// # Errors
/// As [`sweep`].
pub async fn preview(store: &dyn TransactionStore, calendar: &Calendar, listed: usize) -> Result<SweepPreview> {
    let until = calendar.now().utc;
    let mut preview = SweepPreview::default();
    let mut last: Option<Due> = None;
    // Ends: each chunk begins behind the last, and new holds expire later than `until`.
    loop {
        let due = store.due(until, last.as_ref(), CHUNK).await?;
        let Some(end) = due.last().cloned() else { return Ok(preview) };
        for due in due.into_iter().filter(|due| due.is_pending) {
            preview.holds += 1;
            if preview.first.len() < listed {
                preview.first.push(due);
            }
        }
        last = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        result::Result,
        sync::{
            Mutex,
            atomic::{AtomicU32, Ordering},
        },
    };

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::biz::{
        jobs::runs::LONGEST_WORK,
        settlement::{engine::tests::engine, refund::Refunded},
        values::{
            calendar::SystemClock,
            error::StoreError,
            ids::{TraceId, UserId},
        },
    };

    /// The seconds that it takes to read a chunk.
    const READ_SECONDS: u64 = 7;

    /// A store with reservations that ended before their expiry, one in a chunk.
    struct Slow {
        chunks: AtomicU32,
        forgotten: Mutex<u32>,
    }

    #[async_trait]
    impl TransactionStore for Slow {
        async fn transaction(&self, _: &UserId, _: &TraceId) -> Result<Option<Transaction>, StoreError> {
            unreachable!("nothing is pending")
        }

        async fn refunds_of(&self, _: &UserId, _: &TraceId, _: u32) -> Result<Vec<Refunded>, StoreError> {
            unreachable!("nothing is refunded")
        }

        async fn due(&self, until: DateTime<Utc>, _: Option<&Due>, _: u32) -> Result<Vec<Due>, StoreError> {
            tokio::time::sleep(Duration::from_secs(READ_SECONDS)).await;
            if self.chunks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
                return Ok(Vec::new());
            }
            let (user, trace) = (UserId::from_stored("u"), TraceId::from_stored("t"));
            Ok(vec![Due { expires_at: until, user, trace, is_pending: false }])
        }

        async fn forget(&self, ended: &[Due]) -> Result<(), StoreError> {
            *self.forgotten.lock().unwrap() += u32::try_from(ended.len()).unwrap();
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_sweep_ends_well_before_its_lease_and_the_next_one_goes_on() {
        const CHUNKS: u32 = 10;
        let (engine, _) = engine([]);
        let calendar = Calendar::new(chrono_tz::UTC, SystemClock);
        let store = Slow { chunks: CHUNKS.into(), forgotten: Mutex::new(0) };
        let mut sweeps = 0;
        while *store.forgotten.lock().unwrap() < CHUNKS {
            let began = tokio::time::Instant::now();
            let swept = sweep(&store, &engine, &calendar, |_, _| ()).await.unwrap();
            assert_eq!(swept, Swept::default());
            assert!(began.elapsed() < LONGEST_WORK, "{:?}", began.elapsed());
            sweeps += 1;
        }
        assert_eq!(sweeps, 2);
    }
}
