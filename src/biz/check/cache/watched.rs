//! The stores in which limits are set, watched: what was set is no longer cached as it was.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{caches::Caches, entry::CacheKey};
use crate::biz::{
    limits::{
        caps::{Caps, LimitStore},
        key_quota::{KeyQuotaStore, KeyQuotas, NewKeyQuota},
    },
    settlement::commit_listener::CommitListener,
    values::{
        calendar::BillingTime,
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
};

/// How long setting may take; whoever asked for it has given up long before.
const DEADLINE: Duration = Duration::from_secs(10);

/// Sets limits, and has the caches forget those they had.
pub struct Watched<S: ?Sized> {
    store: Arc<S>,
    caches: Arc<Caches>,
}

impl<S: ?Sized + Send + Sync + 'static> Watched<S> {
    pub fn new(store: Arc<S>, caches: Arc<Caches>) -> Self {
        Self { store, caches }
    }

    /// Sets in a task of its own: once it is set the caches hear of it, also when the
    /// caller has gone away.
    async fn set<F>(&self, cache_key: CacheKey, set: impl FnOnce(Arc<S>) -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let (setting, caches) = (set(self.store.clone()), self.caches.clone());
        let task = tokio::spawn(async move {
            let done = tokio::time::timeout(DEADLINE, setting).await;
            let done = done.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
            match &done {
                Err(StoreError::Unavailable(_)) => caches.outcome_unknown(vec![cache_key]).await,
                _ => caches.forget(&[cache_key]).await,
            }
            done
        });
        task.await.map_err(|panic| StoreError::Failed(format!("setting a limit panicked: {panic}")))?
    }
}

#[async_trait]
impl<S: LimitStore + ?Sized> LimitStore for Watched<S> {
    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) -> Result<(), StoreError> {
        let user = user.clone();
        self.set(CacheKey::User(user.clone()), |store| async move { store.set_caps(&user, caps, at).await }).await
    }
}

#[async_trait]
impl<S: KeyQuotaStore + ?Sized> KeyQuotaStore for Watched<S> {
    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime) -> Result<(), StoreError> {
        let quota = quota.clone();
        let cache_key = CacheKey::ApiKey(quota.key.clone());
        self.set(cache_key, |store| async move { store.set_key_quota(&quota, at).await }).await
    }

    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError> {
        self.store.key_quotas(key).await
    }
}
