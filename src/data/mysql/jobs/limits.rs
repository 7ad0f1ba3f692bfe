//! The audit of caps and of quotas of API keys.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::scope::{end, fetch, scoped};
use crate::{
    biz::{
        account::users::UserSpan,
        jobs::{
            audit::{
                counts::{CapCounts, Counting, KeyCounts},
                limits::{KeySpan, LimitAudit},
            },
            seals::store::Since,
        },
        values::{
            error::StoreError,
            ids::{ApiKeyId, UserId},
        },
    },
    data::{
        history::{self, Scope},
        mysql::MySqlStore,
        row::Columns,
    },
};

#[async_trait]
impl LimitAudit for MySqlStore {
    async fn cap_counts(&self, users: &[UserId], rule: Counting) -> Result<Vec<CapCounts>, StoreError> {
        let mut snapshot = self.snapshot().await?;
        let mut counts = BTreeMap::new();
        for row in fetch(&mut snapshot, scoped(history::CAPS, &Scope::of_users(users, Since::BEGINNING))).await? {
            if let Some(caps) = history::cap_counts_of(&row, rule)? {
                counts.insert(caps.user().clone(), caps);
            }
        }
        for (users, from) in history::by_month(&counts) {
            let scope = Scope { from, ..Scope::of_users(&users, Since::BEGINNING) };
            let calls = scoped(history::CALLS_OF_USERS, &scope);
            calls.fetch_each(&mut *snapshot, &mut |row| history::count_of_cap(&mut counts, row)).await?;
        }
        end(snapshot).await?;
        Ok(counts.into_values().collect())
    }

    async fn keys_with_quotas(&self, after: Option<&ApiKeyId>, limit: u32) -> Result<Vec<ApiKeyId>, StoreError> {
        let id = after.map_or("", ApiKeyId::as_str);
        let scope = Scope { id, limit, ..Scope::of_users(&[], Since::BEGINNING) };
        let rows = self.rows(history::KEYS_WITH_QUOTAS, &scope).await?;
        // The books name a key that is no text.
        Ok(rows.iter().filter_map(|row| row.text(0).ok()).map(ApiKeyId::from_stored).collect())
    }

    async fn users_of_keys(&self, users: &UserSpan, keys: &KeySpan) -> Result<Vec<(ApiKeyId, UserId)>, StoreError> {
        let (first_key, last_key) = (keys.first.as_str(), keys.last.as_str());
        let scope = Scope { first_key, last_key, ..Scope::of_span(users) };
        history::keys_and_users_of(&self.rows(history::USERS_OF_KEYS, &scope).await?)
    }

    async fn key_counts(
        &self,
        keys: &[ApiKeyId],
        users: Option<&[UserId]>,
        rule: Counting,
    ) -> Result<Vec<KeyCounts>, StoreError> {
        let mut snapshot = self.snapshot().await?;
        let rows =
            fetch(&mut snapshot, scoped(history::KEY_QUOTAS, &Scope::of_keys(keys, Since::BEGINNING.at))).await?;
        let mut counts = history::by_key(&rows, rule)?;
        if let Some(from) = history::first_of_keys(&counts, users) {
            let scope = Scope { users: users.unwrap_or(&[]), ..Scope::of_keys(keys, from) };
            let calls = scoped(history::calls_of_keys(users), &scope);
            calls.fetch_each(&mut *snapshot, &mut |row| history::count_of_key(&mut counts, row)).await?;
        }
        end(snapshot).await?;
        Ok(counts.into_values().collect())
    }
}
