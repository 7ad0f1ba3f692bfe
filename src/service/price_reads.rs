//! The reads of the price versions that calls begin: after a change, so that this server uses it, and before
//! a list.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    biz::{
        charge::{prices::PriceStore, quote::Quoter},
        values::error::{Error, Result, StoreError},
    },
    context,
};

/// Most reads of calls at once: one that runs, and one that waits for it.
const READS: usize = 2;
/// Longest wait of a change for the read, well below the deadline of a call. A read of a hundred thousand
/// versions takes longer.
const WAIT: Duration = Duration::from_millis(300);

/// Reads the versions beside the regular reads.
pub struct PriceReads {
    quoter: Arc<Quoter>,
    rows: Arc<dyn PriceStore>,
    permits: Arc<Semaphore>,
}

impl PriceReads {
    pub fn new(quoter: Arc<Quoter>, rows: Arc<dyn PriceStore>) -> Self {
        Self { quoter, rows, permits: Arc::new(Semaphore::new(READS)) }
    }

    /// Lets this server use a change of the rows, and waits a little for it. The change is made, so its call
    /// succeeds without the read too. The regular read follows.
    pub async fn soon(&self, now: DateTime<Utc>) {
        // One read that waits already begins after the change.
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return };
        if let Ok(Err(error)) = timeout(WAIT, self.begin(permit, now)).await {
            tracing::error!(%error, "read of the price versions ended abnormally");
        }
    }

    /// Reads the rows after the reads that run and wait already.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn now(&self, now: DateTime<Utc>) -> Result<()> {
        let ended = |error| Error::Internal(format!("a read of prices ended abnormally: {error}"));
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|error| Error::Internal(format!("no read of prices: {error}")))?;
        Ok(self.begin(permit, now).await.map_err(ended)??)
    }

    /// Begins a read, which goes on when its call ends, so that a repeat of the call finds it done.
    fn begin(
        &self,
        permit: OwnedSemaphorePermit,
        now: DateTime<Utc>,
    ) -> JoinHandle<std::result::Result<(), StoreError>> {
        let (quoter, rows) = (self.quoter.clone(), self.rows.clone());
        tokio::spawn(context::carry(async move {
            let _permit = permit;
            let read = quoter.prices().refresh(&*rows, now).await;
            // Its call may have ended.
            read.map(drop).inspect_err(|error| tracing::warn!(%error, "price versions not read beside a call"))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::time::sleep;

    use super::*;
    use crate::biz::{
        charge::prices::{PriceBook, Prices, Stamp, StoredVersion},
        values::{
            calendar::{Calendar, SystemClock},
            invalid::Invalid,
        },
    };

    /// Rows whose reads take some time, or fail.
    struct Slow {
        takes: Duration,
        fails: bool,
        begun: AtomicUsize,
        read: AtomicUsize,
    }

    #[async_trait]
    impl PriceStore for Slow {
        async fn price_stamp(&self) -> std::result::Result<Stamp, StoreError> {
            // Another one for each read.
            Ok(self.begun.fetch_add(1, Ordering::Relaxed).to_string())
        }

        async fn price_versions(
            &self,
        ) -> std::result::Result<Vec<std::result::Result<StoredVersion, Invalid>>, StoreError> {
            sleep(self.takes).await;
            self.read.fetch_add(1, Ordering::Relaxed);
            if self.fails { Err(StoreError::Failed("broken".into())) } else { Ok(Vec::new()) }
        }
    }

    fn reads(takes: Duration, fails: bool) -> (Arc<PriceReads>, Arc<Slow>) {
        let rows = Arc::new(Slow { takes, fails, begun: AtomicUsize::new(0), read: AtomicUsize::new(0) });
        let calendar = Arc::new(Calendar::new(chrono_tz::UTC, SystemClock));
        let quoter = Quoter::new(Arc::new(Prices::new(PriceBook::default())), calendar);
        (Arc::new(PriceReads::new(Arc::new(quoter), rows.clone())), rows)
    }

    const LONG: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_a_little_for_a_long_read_which_goes_on() {
        let (reads, rows) = reads(LONG, false);
        let begun = tokio::time::Instant::now();
        reads.soon(DateTime::UNIX_EPOCH).await;
        assert_eq!((begun.elapsed(), rows.read.load(Ordering::Relaxed)), (WAIT, 0));
        sleep(LONG).await;
        assert_eq!(rows.read.load(Ordering::Relaxed), 1);
        // A list waits for the read, and learns of its failure.
        reads.now(DateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(rows.read.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_read_fails_a_list_and_no_change() {
        let (reads, _) = reads(Duration::ZERO, true);
        reads.soon(DateTime::UNIX_EPOCH).await;
        assert!(matches!(reads.now(DateTime::UNIX_EPOCH).await, Err(Error::Internal(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_cause_few_reads() {
        let (reads, rows) = reads(LONG, false);
        let changes = (0..50).map(|_| {
            let reads = reads.clone();
            tokio::spawn(async move { reads.soon(DateTime::UNIX_EPOCH).await })
        });
        for change in changes.collect::<Vec<_>>() {
            change.await.unwrap();
        }
        sleep(10 * LONG).await;
        assert_eq!(rows.read.load(Ordering::Relaxed), READS);
    }

    #[tokio::test(start_paused = true)]
    async fn every_list_sees_the_rows_of_its_time() {
        let (reads, rows) = reads(LONG, false);
        let lists = (1..=4).map(|_| {
            let (reads, rows) = (reads.clone(), rows.clone());
            tokio::spawn(async move {
                let begun = rows.begun.load(Ordering::Relaxed);
                reads.now(DateTime::UNIX_EPOCH).await.unwrap();
                assert!(rows.begun.load(Ordering::Relaxed) > begun, "a read began after the list");
            })
        });
        for list in lists.collect::<Vec<_>>() {
            list.await.unwrap();
        }
        assert_eq!(rows.read.load(Ordering::Relaxed), 4);
    }
}
