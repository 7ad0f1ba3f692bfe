//! Stores of limits that invalidate the caches when a limit is set.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tracing::Instrument;

use super::caches::Caches;
use crate::biz::{
    audit_trail::AuditedCall,
    limits::{
        caps::{Caps, LimitStore},
        key_quota::{KeyQuotaStore, KeyQuotas, KnownSince, NewKeyQuota, QuotaType},
    },
    settlement::commit_listener::CommitListener,
    values::{
        cache_key::CacheKey,
        calendar::BillingTime,
        error::{self, StoreError},
        ids::{ApiKeyId, UserId},
    },
};

/// Time limit of setting a limit. It is longer than the deadline of a request.
const DEADLINE: Duration = Duration::from_secs(10);

/// Sets limits in a store, and invalidates their cache keys.
pub struct Watched<S: ?Sized> {
    store: Arc<S>,
    caches: Arc<Caches>,
}

impl<S: ?Sized + Send + Sync + 'static> Watched<S> {
    pub fn new(store: Arc<S>, caches: Arc<Caches>) -> Self {
        Self { store, caches }
    }

    /// Sets a limit in a task of its own, so that the caches are invalidated even if the caller
    /// is cancelled.
    async fn set<F>(&self, cache_key: CacheKey, set: impl FnOnce(Arc<S>) -> F) -> Result<error::Result<()>, StoreError>
    where
        F: Future<Output = Result<error::Result<()>, StoreError>> + Send + 'static,
    {
        let (setting, caches) = (set(self.store.clone()), self.caches.clone());
        let work = async move {
            let done = tokio::time::timeout(DEADLINE, setting).await;
            let done = done.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
            match &done {
                Err(StoreError::Unavailable(_)) => caches.outcome_unknown(vec![cache_key]).await,
                _ => caches.forget(&[cache_key]).await,
            }
            done
        };
        let task = tokio::spawn(work.in_current_span());
        task.await.map_err(|panic| StoreError::Failed(format!("setting a limit panicked: {panic}")))?
    }
}

#[async_trait]
impl<S: LimitStore + ?Sized> LimitStore for Watched<S> {
    async fn set_caps(
        &self,
        user: &UserId,
        caps: Caps,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError> {
        let (user, call) = (user.clone(), call.clone());
        self.set(CacheKey::User(user.clone()), |store| async move { store.set_caps(&user, caps, &call, at).await })
            .await
    }
}

#[async_trait]
impl<S: KeyQuotaStore + ?Sized> KeyQuotaStore for Watched<S> {
    async fn set_key_quota(
        &self,
        quota: &NewKeyQuota,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError> {
        let (quota, call) = (quota.clone(), call.clone());
        let cache_key = CacheKey::ApiKey(quota.key.clone());
        self.set(cache_key, |store| async move { store.set_key_quota(&quota, &call, at).await }).await
    }

    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError> {
        self.store.key_quotas(key).await
    }

    async fn known_since(&self, key: &ApiKeyId) -> Result<BTreeMap<QuotaType, KnownSince>, StoreError> {
        self.store.known_since(key).await
    }
}
