//! Compares caps and quotas of API keys with the transactions of their periods.
//!
//! The users of an API key are not stored, and transactions have no index by key. So the audit first searches the
//! transactions of all users for the users of each key. Then it reads a quota and the transactions of its users in one
//! snapshot. A user whose first call with a key came between the two is missing there. So a key that differs is
//! searched again, and its difference counts if the search finds the same users.
//!
//! In memory are the users of the keys of one search, at most [`MOST_USERS`].

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::{
    counts::{CapCounts, Counting, KeyCounts},
    differences::Difference,
};
use crate::biz::{
    account::users::{END, UserSpan, Users},
    jobs::retry::repeat,
    values::{
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
};

/// API keys whose users one scan of all transactions searches.
const KEYS_IN_A_SCAN: u32 = 100_000;
/// Users of all keys of a scan, each counted with each of its keys. A scan that finds more leaves keys to the next one.
pub(super) const MOST_USERS: usize = 1_000_000;
/// Users whose transactions one statement searches, and users whose transactions one snapshot reads.
const USERS_AT_A_TIME: u32 = 200;
/// API keys that one snapshot reads.
const KEYS_AT_A_TIME: usize = 1_000;
/// A key with more users is read with the transactions of all users.
const MAX_USERS_OF_A_KEY: usize = 200;
/// Keys that are searched again together. They never have too many users for a scan.
const KEYS_SEARCHED_AGAIN: usize = MOST_USERS / MAX_USERS_OF_A_KEY;
/// Searches for the users of a key that differs.
const MAX_SEARCHES: usize = 4;

/// API keys from `first` to `last`, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpan {
    pub first: ApiKeyId,
    pub last: ApiKeyId,
}

/// Reads caps and quotas of API keys with their transactions.
#[async_trait]
pub trait LimitAudit: Users {
    /// The caps of `users` with their transactions, in one snapshot. Without caps that cannot be read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn cap_counts(&self, users: &[UserId], rule: Counting) -> Result<Vec<CapCounts>, StoreError>;

    /// The first `limit` API keys with quotas behind `after` (`None`: of all), in key order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn keys_with_quotas(&self, after: Option<&ApiKeyId>, limit: u32) -> Result<Vec<ApiKeyId>, StoreError>;

    /// The API keys of a span that the transactions of some users have, with their users.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_of_keys(&self, users: &UserSpan, keys: &KeySpan) -> Result<Vec<(ApiKeyId, UserId)>, StoreError>;

    /// The quotas of `keys` with the transactions of `users`, or of all users for `None`, in one snapshot. Without
    /// quotas that cannot be read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn key_counts(
        &self,
        keys: &[ApiKeyId],
        users: Option<&[UserId]>,
        rule: Counting,
    ) -> Result<Vec<KeyCounts>, StoreError>;
}

/// Calls `note` for each difference of the caps of some users.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn compare_caps(
    store: &(impl LimitAudit + ?Sized),
    users: &[UserId],
    rule: Counting,
    note: &mut (dyn FnMut(Difference) + Send),
) -> Result<(), StoreError> {
    let counts = repeat(|| store.cap_counts(users, rule)).await?;
    counts.iter().flat_map(CapCounts::differences).for_each(note);
    Ok(())
}

/// Calls `note` for each difference of the quotas of all API keys. At most `most_users` of their users are in memory.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn compare_all_keys(
    store: &(impl LimitAudit + ?Sized),
    most_users: usize,
    rule: Counting,
    note: &mut (dyn FnMut(Difference) + Send),
) -> Result<(), StoreError> {
    let mut after = None;
    // Ends: each part begins behind the last.
    loop {
        let keys = repeat(|| store.keys_with_quotas(after.as_ref(), KEYS_IN_A_SCAN)).await?;
        let mut users = users_of(store, keys, most_users).await?;
        let Some((last, _)) = users.last_key_value() else { return Ok(()) };
        after = Some(last.clone());
        let mut differing = differing(store, &mut users, rule).await?;
        while let Some(part) = first_part(&mut users) {
            let of_part = part.keys().filter_map(|key| differing.remove_entry(key)).collect();
            compare_again(store, (part, of_part), rule, note).await?;
        }
    }
}

/// Takes the first keys, as many as are searched again together; `None` if there are none.
fn first_part(users: &mut UsersOfKeys) -> Option<UsersOfKeys> {
    let rest = match users.keys().nth(KEYS_SEARCHED_AGAIN).cloned() {
        Some(end) => users.split_off(&end),
        None => BTreeMap::new(),
    };
    let part = std::mem::replace(users, rest);
    (!part.is_empty()).then_some(part)
}

/// The users of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyUsers {
    Known(BTreeSet<UserId>),
    /// Too many to list, or too many new ones.
    Crowd,
}

impl KeyUsers {
    fn add(&mut self, user: UserId) {
        if let Self::Known(users) = self {
            users.insert(user);
            if users.len() > MAX_USERS_OF_A_KEY {
                *self = Self::Crowd;
            }
        }
    }

    /// The users in memory.
    fn held(&self) -> usize {
        match self {
            Self::Known(users) => users.len(),
            Self::Crowd => 0,
        }
    }
}

type UsersOfKeys = BTreeMap<ApiKeyId, KeyUsers>;
type Differing = BTreeMap<ApiKeyId, Vec<Difference>>;

/// Searches keys that differ again until each is searched twice with the same users, or no longer differs. The others, with
/// new users in each search, are read with the transactions of all users.
async fn compare_again(
    store: &(impl LimitAudit + ?Sized),
    (mut users, mut found): (UsersOfKeys, Differing),
    rule: Counting,
    note: &mut (dyn FnMut(Difference) + Send),
) -> Result<(), StoreError> {
    for _ in 1..MAX_SEARCHES {
        if users.is_empty() {
            break;
        }
        let again = users_of(store, users.keys().cloned().collect(), MOST_USERS).await?;
        users = again.into_iter().filter(|(key, found)| users.get(key) != Some(found)).collect();
        // A key with the users of the search before differs in the snapshot between the two.
        found.retain(|key, _| !users.contains_key(key));
        found.into_values().flatten().for_each(&mut *note);
        found = differing(store, &mut users, rule).await?;
    }
    users.values_mut().for_each(|users| *users = KeyUsers::Crowd);
    differing(store, &mut users, rule).await?.into_values().flatten().for_each(note);
    Ok(())
}

/// Searches the transactions of all users for `keys`, which are in key order. If the keys have more than `most` users,
/// the last keys are left out.
async fn users_of(
    store: &(impl LimitAudit + ?Sized),
    keys: Vec<ApiKeyId>,
    most: usize,
) -> Result<UsersOfKeys, StoreError> {
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(BTreeMap::new()) };
    let mut span_of_keys = KeySpan { first: first.clone(), last: last.clone() };
    let mut found: UsersOfKeys = keys.into_iter().map(|key| (key, KeyUsers::Known(BTreeSet::new()))).collect();
    let mut after = None;
    let mut held = 0;
    // Ends: each span begins behind the last.
    loop {
        let span = repeat(|| store.span(after.as_ref(), USERS_AT_A_TIME)).await?.map(|(span, _)| span);
        let is_last = span.is_none();
        // Behind the last account, users may have transactions alone.
        let span = span.unwrap_or_else(|| UserSpan { after: after.take(), last: UserId::from_stored(END) });
        for (key, user) in repeat(|| store.users_of_keys(&span, &span_of_keys)).await? {
            if let Some(users) = found.get_mut(&key) {
                users.add(user);
                held += 1;
            }
        }
        if held > most {
            held = leave_out(&mut found, most);
            if let Some((last, _)) = found.last_key_value() {
                span_of_keys.last = last.clone();
            }
        }
        if is_last {
            return Ok(found);
        }
        after = Some(span.last);
    }
}

/// Leaves out the last half of the keys until the others have at most `most` users. Returns their number.
fn leave_out(found: &mut UsersOfKeys, most: usize) -> usize {
    // Ends: each time there are fewer keys, and one always stays.
    loop {
        let held = found.values().map(KeyUsers::held).sum();
        match found.keys().nth(found.len() / 2).filter(|_| held > most && found.len() > 1).cloned() {
            Some(middle) => drop(found.split_off(&middle)),
            None => return held,
        }
    }
}

/// Reads keys in groups of a bounded size. Those that differ stay.
async fn differing(
    store: &(impl LimitAudit + ?Sized),
    keys: &mut UsersOfKeys,
    rule: Counting,
) -> Result<Differing, StoreError> {
    let mut differing = Differing::new();
    for Group { keys, users } in groups(keys) {
        let users: Option<Vec<UserId>> = users.map(|users| users.into_iter().collect());
        for counts in repeat(|| store.key_counts(&keys, users.as_deref(), rule)).await? {
            let differences = counts.differences();
            if !differences.is_empty() {
                differing.insert(counts.key().clone(), differences);
            }
        }
    }
    keys.retain(|key, _| differing.contains_key(key));
    Ok(differing)
}

/// Keys that one snapshot reads; all users for `None`.
#[derive(Debug, Default)]
struct Group {
    keys: Vec<ApiKeyId>,
    users: Option<BTreeSet<UserId>>,
}

/// Keys with neighbouring users come together, so that the transactions of a user are read seldom.
fn groups(keys: &UsersOfKeys) -> Vec<Group> {
    let mut known: Vec<(&ApiKeyId, &BTreeSet<UserId>)> = Vec::new();
    let mut crowds: Vec<ApiKeyId> = Vec::new();
    for (key, users) in keys {
        match users {
            KeyUsers::Known(users) => known.push((key, users)),
            KeyUsers::Crowd => crowds.push(key.clone()),
        }
    }
    known.sort_by_key(|(_, users)| users.first());
    let mut groups: Vec<Group> = Vec::new();
    for (key, of_key) in known {
        let has_room = |group: &Group| {
            let further = of_key.iter().filter(|user| group.users.as_ref().is_some_and(|users| !users.contains(*user)));
            let users = group.users.as_ref().map_or(0, BTreeSet::len) + further.count();
            group.keys.len() < KEYS_AT_A_TIME && users <= USERS_AT_A_TIME as usize
        };
        if groups.last().is_none_or(|group| !has_room(group)) {
            groups.push(Group { keys: Vec::new(), users: Some(BTreeSet::new()) });
        }
        if let Some(group) = groups.last_mut() {
            group.keys.push(key.clone());
            group.users.get_or_insert_default().extend(of_key.iter().cloned());
        }
    }
    groups.extend(crowds.chunks(KEYS_AT_A_TIME).map(|keys| Group { keys: keys.to_vec(), users: None }));
    groups
}

#[cfg(test)]
mod tests;
