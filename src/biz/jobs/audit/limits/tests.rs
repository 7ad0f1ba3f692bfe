//! The search for the users of API keys.

use std::sync::Mutex;

use chrono::{DateTime, NaiveDate, Utc};

use super::{super::counts::LEAST_UNSURE, *};
use crate::biz::{
    limits::key_quota::{KeyQuota, KnownSince, Period, QuotaType, Taken},
    values::calendar::{Calendar, SystemClock},
};

/// A database in which each search finds the next list of users for all keys, and the quota of a key is right once its
/// transactions are read with those of `needed`.
struct Scripted {
    keys: Vec<ApiKeyId>,
    searches: Mutex<Vec<Vec<String>>>,
    needed: &'static str,
    /// The users of each read; `None` for all.
    reads: Mutex<Vec<Option<usize>>>,
}

impl Scripted {
    fn new(needed: &'static str, searches: &[&[&str]]) -> Self {
        let searches = searches.iter().rev().map(|users| users.iter().map(|user| (*user).to_owned()).collect());
        Self { keys: vec![key("k")], searches: Mutex::new(searches.collect()), needed, reads: Mutex::default() }
    }

    /// The lines of the audit after all searches, and the numbers of users that it read.
    async fn audited(self, most_users: usize) -> (Vec<String>, Vec<Option<usize>>) {
        let periods = Calendar::new(chrono_tz::UTC, SystemClock).periods();
        let rule = Counting { periods, unsure: LEAST_UNSURE };
        let mut lines = Vec::new();
        let mut note = |difference: Difference| lines.push(difference.to_string());
        compare_all_keys(&self, most_users, rule, &mut note).await.unwrap();
        assert_eq!(self.searches.into_inner().unwrap().len(), 0);
        (lines, self.reads.into_inner().unwrap())
    }
}

#[async_trait]
impl Users for Scripted {
    async fn span(&self, _: Option<&UserId>, _: u32) -> Result<Option<(UserSpan, u64)>, StoreError> {
        Ok(None)
    }

    async fn users_behind(&self, _: Option<&UserId>) -> Result<u64, StoreError> {
        Ok(0)
    }
}

fn key(id: &str) -> ApiKeyId {
    ApiKeyId::from_stored(id)
}

#[async_trait]
impl LimitAudit for Scripted {
    async fn cap_counts(&self, _: &[UserId], _: Counting) -> Result<Vec<CapCounts>, StoreError> {
        Ok(Vec::new())
    }

    async fn keys_with_quotas(&self, after: Option<&ApiKeyId>, _: u32) -> Result<Vec<ApiKeyId>, StoreError> {
        Ok(self.keys.iter().filter(|key| after.is_none_or(|after| *key > after)).cloned().collect())
    }

    async fn users_of_keys(&self, _: &UserSpan, keys: &KeySpan) -> Result<Vec<(ApiKeyId, UserId)>, StoreError> {
        let users = self.searches.lock().unwrap().pop().expect("no further search");
        let keys = self.keys.iter().filter(|key| (&keys.first..=&keys.last).contains(key));
        let found = keys.flat_map(|key| users.iter().map(|user| (key.clone(), UserId::from_stored(user.as_str()))));
        Ok(found.collect())
    }

    async fn key_counts(
        &self,
        keys: &[ApiKeyId],
        users: Option<&[UserId]>,
        rule: Counting,
    ) -> Result<Vec<KeyCounts>, StoreError> {
        self.reads.lock().unwrap().push(users.map(<[UserId]>::len));
        let is_complete = users.is_none_or(|users| users.iter().any(|user| user.as_str() == self.needed));
        let lacking = i64::from(!is_complete);
        let taken = Taken { day: 0, month: 0, total: lacking };
        let since: DateTime<Utc> = DateTime::UNIX_EPOCH;
        let day = NaiveDate::from_ymd_opt(2026, 11, 30).unwrap();
        let stored = KeyQuota { period: Period::Day, limit: 1, taken, since, day, fired: 0, version: 0 };
        let known = KnownSince { day: since, month: since, total: since };
        let counts = |key: &ApiKeyId| {
            let mut counts = KeyCounts::new(key.clone(), rule);
            counts.add_quota(QuotaType::Requests, stored, known);
            counts
        };
        Ok(keys.iter().map(counts).collect())
    }
}

const LINE: &str = "API key k: used requests in total says 1, should be 0";

#[tokio::test]
async fn a_key_that_differs_is_searched_again_and_reported_if_it_has_the_same_users() {
    let expected = (vec![LINE.to_owned()], vec![Some(2)]);
    assert_eq!(Scripted::new("nobody", &[&["a", "b"], &["b", "a"]]).audited(MOST_USERS).await, expected);
    // A quota with use and without users differs too.
    let expected = (vec![LINE.to_owned()], vec![Some(0)]);
    assert_eq!(Scripted::new("nobody", &[&[], &[]]).audited(MOST_USERS).await, expected);
}

#[tokio::test]
async fn a_user_whose_first_call_came_after_the_search_makes_no_false_report() {
    let clean = |searches: &[&[&str]]| Scripted::new("late", searches).audited(MOST_USERS);
    let (before, after): (&[&str], &[&str]) = (&["a"], &["a", "late"]);
    assert_eq!(clean(&[after]).await, (Vec::new(), vec![Some(2)]));
    assert_eq!(clean(&[before, after]).await, (Vec::new(), vec![Some(1), Some(2)]));
    // A difference that stays behind a new user is true.
    let found = Scripted::new("nobody", &[before, after, after]).audited(MOST_USERS).await;
    assert_eq!(found, (vec![LINE.to_owned()], vec![Some(1), Some(2)]));
}

#[tokio::test]
async fn a_key_with_new_users_in_every_search_is_read_with_the_last_ones_and_then_with_all() {
    let searches: [&[&str]; MAX_SEARCHES] = [&["a"], &["a", "b"], &["a", "b", "c"], &["a", "b", "c", "d"]];
    let reads = vec![Some(1), Some(2), Some(3), Some(4)];
    assert_eq!(Scripted::new("d", &searches).audited(MOST_USERS).await, (Vec::new(), reads.clone()));
    let reads: Vec<_> = reads.into_iter().chain([None]).collect();
    assert_eq!(Scripted::new("late", &searches).audited(MOST_USERS).await, (Vec::new(), reads.clone()));
}

#[tokio::test]
async fn keys_with_too_many_users_for_a_scan_come_in_the_next_one() {
    let keys = ["k0", "k1", "k2", "k3"].map(key).to_vec();
    // Two scans, and a second search after each.
    let scripted = Scripted { keys, ..Scripted::new("nobody", &[&["a", "b"][..]; 4]) };
    let lines = (0..4).map(|number| LINE.replace("key k", &format!("key k{number}"))).collect();
    assert_eq!(scripted.audited(4).await, (lines, vec![Some(2), Some(2)]));
    // One key has more than a scan may find.
    let lines = vec![LINE.to_owned()];
    assert_eq!(Scripted::new("nobody", &[&["a", "b"][..]; 2]).audited(1).await, (lines, vec![Some(2)]));
}

#[tokio::test]
async fn a_key_with_many_users_is_read_with_all_transactions() {
    let many: Vec<String> = (0..=MAX_USERS_OF_A_KEY).map(|number| format!("u{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(Scripted::new("nobody", &[&many]).audited(MOST_USERS).await, (Vec::new(), vec![None]));
}

#[test]
fn a_snapshot_has_at_most_as_many_users_and_keys_as_it_may() {
    let key = |number: usize| ApiKeyId::from_stored(format!("k{number:05}"));
    let of = |users: std::ops::Range<usize>| {
        KeyUsers::Known(users.map(|number| UserId::from_stored(format!("u{number:05}"))).collect())
    };
    let shown = |keys: BTreeMap<ApiKeyId, KeyUsers>| {
        let shown = |group: Group| (group.keys.len(), group.users.map(|users| users.len()));
        groups(&keys).into_iter().map(shown).collect::<Vec<_>>()
    };
    // Each key has two users, and shares one with its neighbour.
    let neighbours = (0..300).map(|number| (key(number), of(number..number + 2))).collect();
    assert_eq!(shown(neighbours), [(199, Some(200)), (101, Some(102))]);
    let of_one_user = (0..KEYS_AT_A_TIME + 1).map(|number| (key(number), of(0..1))).collect();
    assert_eq!(shown(of_one_user), [(KEYS_AT_A_TIME, Some(1)), (1, Some(1))]);
    let crowds = (0..KEYS_AT_A_TIME + 1).map(|number| (key(number), KeyUsers::Crowd)).collect();
    assert_eq!(shown(crowds), [(KEYS_AT_A_TIME, None), (1, None)]);
    assert_eq!(shown(BTreeMap::from([(key(0), of(0..0))])), [(1, Some(0))]);
}
