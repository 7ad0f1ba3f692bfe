//! What checks read: the committed state of an account and of an API key, from the nearest
//! place that surely has it. The database is the truth, and caches only save the way to it:
//! whatever becomes of them, checks go on and are right.

pub mod account_cache;
mod caches;
pub mod entry;
pub mod prewarm;
pub mod reconcile;
mod refresh;
mod single_flight;
mod update_queue;
mod watched;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use self::{
    account_cache::{AccountCache, Found},
    entry::{AccountEntry, Entry, Subject},
    refresh::Wanted,
};
use crate::biz::{
    account::Accounts,
    limits::key_quota::{KeyQuotaStore, KeyQuotas},
    values::{
        calendar::Month,
        error::{Error, Result},
        ids::{ApiKeyId, ServiceName, UserId},
    },
};

pub use self::{
    caches::{Caches, Trust},
    watched::Watched,
};

/// How long a load may take, on which other callers may wait.
const LOAD_DEADLINE: Duration = Duration::from_secs(5);
/// The last resort of the near cache, where it is believed otherwise.
const NEAR_TTL: Duration = Duration::from_secs(600);

/// Reads for checks.
pub struct ReadModel {
    caches: Arc<Caches>,
    accounts: Arc<Accounts>,
    key_quotas: Arc<dyn KeyQuotaStore>,
    wanted: Wanted,
    sources: Sources,
}

/// Where reads were answered from, so far.
#[derive(Debug, Default)]
pub struct Sources {
    pub near: AtomicU64,
    pub shared: AtomicU64,
    pub database: AtomicU64,
}

/// What a check has to know.
#[derive(Debug, Clone, Copy)]
pub struct Need<'c> {
    pub user: &'c UserId,
    pub key: Option<&'c ApiKeyId>,
    pub service: &'c ServiceName,
    pub month: Month,
}

impl Need<'_> {
    /// An account that was not opened yet, or not yet this month, lacks the quota.
    pub fn is_met_by(self, view: &View) -> bool {
        self.is_met_by_entry(&view.account)
    }

    fn is_met_by_entry(self, entry: &Entry) -> bool {
        entry.account().is_some_and(|account| account.quota(self.month, self.service).is_some())
    }
}

/// What a check is decided on.
#[derive(Debug, Clone)]
pub struct View {
    account: Arc<Entry>,
    key: Option<Arc<Entry>>,
}

impl View {
    /// # Errors
    /// [`Error::Internal`] when a cache has mixed up its entries.
    pub fn account(&self) -> Result<&AccountEntry> {
        self.account.account().ok_or_else(|| Error::Internal("an entry of another kind".into()))
    }

    /// Of the API key, if the call has one.
    pub fn key_quotas(&self) -> Option<&KeyQuotas> {
        self.key.as_ref().and_then(|entry| entry.key_quotas())
    }
}

impl ReadModel {
    pub fn new(caches: Arc<Caches>, accounts: Arc<Accounts>, key_quotas: Arc<dyn KeyQuotaStore>) -> Self {
        Self { caches, accounts, key_quotas, wanted: Wanted::default(), sources: Sources::default() }
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// What the near cache has, with whether it may be believed near a limit too.
    pub async fn near(&self, need: Need<'_>) -> Option<(View, Trust)> {
        let account = self.look_near(&Subject::User(need.user.clone())).await?;
        if !need.is_met_by_entry(&account) {
            return None;
        }
        let key = match need.key {
            Some(key) => Some(self.look_near(&Subject::ApiKey(key.clone())).await?),
            None => None,
        };
        Some((View { account, key }, self.caches.trust))
    }

    /// Counts a check that the near cache has answered.
    pub fn answered_near(&self) {
        self.sources.near.fetch_add(1, Relaxed);
    }

    /// What is committed now, as far as this and every reachable process knows. Opens a new
    /// account.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn read(&self, need: Need<'_>) -> Result<View> {
        let begun = Instant::now();
        let account = async {
            let subject = Subject::User(need.user.clone());
            let is_met = |account: &Arc<Entry>| need.is_met_by_entry(account);
            self.find(&subject, begun, is_met).await
        };
        let key = async {
            let Some(key) = need.key else { return Ok(None) };
            self.find(&Subject::ApiKey(key.clone()), begun, |_| true).await.map(Some)
        };
        // At once, so that both are one round trip.
        let (account, key) = tokio::join!(account, key);
        Ok(View { account: account?, key: key? })
    }

    /// From the shared cache, or from the database.
    async fn find(
        &self,
        subject: &Subject,
        begun: Instant,
        is_met: impl Fn(&Arc<Entry>) -> bool,
    ) -> Result<Arc<Entry>> {
        let looked = self.look_shared(subject).await;
        if let Looked::Found(entry) = &looked
            && is_met(entry)
        {
            return Ok(entry.clone());
        }
        // Another may have loaded it while this one looked in vain.
        let loaded = self.caches.near.look(subject).await.ok().flatten();
        let loaded = loaded.filter(|found| found.as_of >= begun && !self.caches.is_doubted(subject));
        match loaded.map(|found| found.entry).filter(&is_met) {
            Some(entry) => Ok(entry),
            None if matches!(looked, Looked::Unknown) => self.load_past_shared(subject).await,
            None => self.load(subject).await,
        }
    }

    /// Reads a subject from the database into the caches.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn load(&self, subject: &Subject) -> Result<Arc<Entry>> {
        self.load_through(subject, self.caches.shared.as_deref()).await
    }

    /// As [`Self::load`], but for the shared cache: it would be waited for in vain, or has
    /// to hear of a change first.
    async fn load_past_shared(&self, subject: &Subject) -> Result<Arc<Entry>> {
        self.load_through(subject, None).await
    }

    async fn load_through(&self, subject: &Subject, shared: Option<&dyn AccountCache>) -> Result<Arc<Entry>> {
        let load = async {
            let load = async {
                match self.caches.is_doubted(subject) {
                    true => self.read_database(subject).await,
                    false => self.load_alone(subject, shared).await,
                }
            };
            let late = |_| Err(Error::Overloaded("the database does not answer; retry later".into()));
            tokio::time::timeout(LOAD_DEADLINE, load).await.unwrap_or_else(late)
        };
        self.caches.loads.once(subject, load).await
    }

    async fn load_alone(&self, subject: &Subject, cache: Option<&dyn AccountCache>) -> Result<Arc<Entry>> {
        // An outage of a cache is no reason not to answer.
        let near = self.caches.near.fence(subject).await.ok();
        let shared = match cache {
            Some(shared) => shared.fence(subject).await.ok(),
            None => None,
        };
        let as_of = Instant::now();
        let entry = self.read_database(subject).await?;
        let found = Found { entry, as_of };
        if let (Some(fence), Some(cache)) = (shared, cache) {
            let _ = cache.store(fence, found.clone()).await;
        }
        if let Some(fence) = near {
            let _ = self.caches.near.store(fence, found.clone()).await;
        }
        Ok(found.entry)
    }

    async fn read_database(&self, subject: &Subject) -> Result<Arc<Entry>> {
        self.sources.database.fetch_add(1, Relaxed);
        Ok(Arc::new(match subject {
            Subject::User(user) => {
                let (account, now) = self.accounts.get(user).await?;
                Entry::Account(user.clone(), AccountEntry::new(account, now.month))
            }
            Subject::ApiKey(key) => Entry::ApiKey(key.clone(), self.key_quotas.key_quotas(key).await?),
        }))
    }

    async fn look_near(&self, subject: &Subject) -> Option<Arc<Entry>> {
        if self.caches.is_doubted(subject) {
            return None;
        }
        let found = self.caches.near.look(subject).await.ok().flatten()?;
        match self.caches.trust {
            Trust::Always => (found.as_of.elapsed() < NEAR_TTL).then_some(found.entry),
            Trust::WhileFar(limit) => {
                let age = found.as_of.elapsed();
                if age * 2 > limit && self.caches.shared.is_some() {
                    self.wanted.want(subject);
                }
                (age <= limit).then_some(found.entry)
            }
        }
    }

    /// The fence comes before the question whether the shared cache knows all that was
    /// committed here: what is committed later meets the fence, and what was before is known
    /// there, or waits to be told.
    async fn look_shared(&self, subject: &Subject) -> Looked {
        let Some(shared) = &self.caches.shared else { return Looked::Unknown };
        let fence = self.caches.near.fence(subject).await.ok();
        if self.caches.is_late(subject) || self.caches.is_doubted(subject) {
            return Looked::Unknown;
        }
        let as_of = Instant::now();
        let found = match shared.look(subject).await {
            Ok(Some(found)) => found,
            Ok(None) => return Looked::Missed,
            Err(_) => return Looked::Unknown,
        };
        self.sources.shared.fetch_add(1, Relaxed);
        if let Some(fence) = fence {
            let _ = self.caches.near.store(fence, Found { as_of, ..found.clone() }).await;
        }
        Looked::Found(found.entry)
    }
}

/// What the shared cache says.
enum Looked {
    Found(Arc<Entry>),
    Missed,
    /// It does not answer, or may have something older than what was committed here.
    Unknown,
}
