//! The changes of a batch, for the caches.

use std::collections::{BTreeMap, BTreeSet};

use super::QuotaKey;
use crate::biz::{
    account::{Balance, Quota},
    limits::{
        caps::Requests,
        key_quota::{KeyQuota, KeyQuotas},
    },
    settlement::change::{AccountChange, Change, KeyChange, of_key},
    values::ids::{ApiKeyId, UserId},
};

/// A change for each account whose balance row is written. Every change of an account writes the row
/// and increments its version.
pub(super) fn of_accounts(
    balances: &[(UserId, Balance)],
    quotas: &[(QuotaKey, Quota)],
    requests: &[(UserId, Requests)],
) -> Vec<Change> {
    let mut changes: BTreeMap<&UserId, AccountChange> = BTreeMap::new();
    for (user, balance) in balances {
        let change = AccountChange {
            user: user.clone(),
            before: balance.version - 1,
            balance: *balance,
            requests: None,
            quotas: BTreeMap::new(),
        };
        changes.insert(user, change);
    }
    for ((user, month, service), quota) in quotas {
        if let Some(change) = changes.get_mut(user) {
            change.quotas.insert((*month, service.clone()), *quota);
        }
    }
    for (user, requests) in requests {
        if let Some(change) = changes.get_mut(user) {
            change.requests = Some(*requests);
        }
    }
    changes.into_values().map(Change::Account).collect()
}

/// A change for each API key with a written quota. `decided` has all loaded rows after the batch,
/// and `written` the changed ones.
pub(super) fn of_keys(decided: &KeyQuotas, written: &KeyQuotas) -> Vec<Change> {
    let keys: BTreeSet<&ApiKeyId> = written.keys().map(|(key, _)| key).collect();
    let changes = keys.into_iter().map(|key| {
        let before = of_key(decided, key);
        let after = before.iter().map(|(row, quota)| (row.clone(), *written.get(row).unwrap_or(quota)));
        KeyChange::new(key, &before, after.collect::<BTreeMap<_, KeyQuota>>())
    });
    changes.map(Change::ApiKey).collect()
}
