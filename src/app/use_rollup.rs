//! Keeps the rollup by service, model and API key up to date behind the charges of this server.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        check::cache::Caches,
        events::EventType,
        reports::usage::keeper::UseKeeper,
        settlement::{change::Change, commit_listener::CommitListener},
        values::cache_key::CacheKey,
    },
    metrics::Metrics,
};

/// Pause between two looks at the longest wait.
const PAUSE: Duration = Duration::from_secs(5);

/// Tells the caches, the keeper of the rollup and the metrics of each commit.
pub(super) struct Listeners {
    pub caches: Arc<Caches>,
    pub keeper: Arc<UseKeeper>,
    pub metrics: Arc<Metrics>,
}

#[async_trait]
impl CommitListener for Listeners {
    async fn committed(&self, changes: Vec<Change>) {
        for change in &changes {
            if let Change::Account(change) = change {
                self.keeper.changed(&change.user);
            }
        }
        self.caches.committed(changes).await;
    }

    fn told(&self, events: &[EventType]) {
        self.metrics.events.count(events);
    }

    async fn invalidate(&self, cache_keys: Vec<CacheKey>) {
        self.caches.invalidate(cache_keys).await;
    }

    async fn outcome_unknown(&self, cache_keys: Vec<CacheKey>) {
        self.caches.outcome_unknown(cache_keys).await;
    }
}

/// Refreshes the rollups of busy users, and shows how long the first has waited, until `stop`.
pub(super) async fn keep(keeper: Arc<UseKeeper>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let showing = async {
        loop {
            metrics.use_rollup.show_wait(keeper.longest_wait());
            sleep(PAUSE).await;
        }
    };
    let refreshing = keeper.run(|error| {
        metrics.use_rollup.count_failure();
        tracing::warn!(%error, "use by model and API key not summed; tried again");
    });
    let both = async { tokio::join!(showing, refreshing) };
    stop.run_until_cancelled(both).await;
}
