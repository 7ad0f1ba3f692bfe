//! Compares the rollup by service, model and API key with the records, in statements of a bounded size.

use async_trait::async_trait;
use chrono::NaiveDate;

use crate::biz::{
    account::users::{UserSpan, Users},
    jobs::retry::repeat,
    reports::usage::{UseGroup, UseSums},
    values::{calendar::DaySpan, error::StoreError, ids::UserId},
};

/// Most records that one statement compares, counted in both rollups, unless they are of one user and day.
const COMPARED_AT_ONCE: u64 = 40_000;

/// A group of one day on which the rollup by service, model and API key differs from the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferingUse {
    pub day: NaiveDate,
    pub group: UseGroup,
    pub rollup: UseSums,
    pub records: UseSums,
}

impl DifferingUse {
    /// The counts and amounts that differ: each with its name, in the rollup and in the records.
    pub(super) fn differences(&self) -> Vec<(&'static str, String, String)> {
        let both = self.rollup.named().into_iter().zip(self.records.named());
        let differing = both.filter(|((_, rollup), (_, records))| rollup != records);
        differing.map(|((name, rollup), (_, records))| (name, rollup, records)).collect()
    }
}

/// A part of the rollup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UseRange {
    /// All days from the first to the last user.
    Users {
        first: UserId,
        last: UserId,
    },
    Days {
        user: UserId,
        days: DaySpan,
    },
}

/// Reads the rollup and the records.
#[async_trait]
pub trait UseAudit: Users {
    /// The records of each user of a span, as many as the daily rollup and this one have together, in key
    /// order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn use_sizes(&self, users: &UserSpan) -> Result<Vec<(UserId, u64)>, StoreError>;

    /// The same of each day of a user, in order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn use_day_sizes(&self, user: &UserId) -> Result<Vec<(NaiveDate, u64)>, StoreError>;

    /// The first `limit` groups of a range that have all records of the day, or more, and differ from them.
    /// One snapshot. A day that lacks records does not differ, because the next read sums it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn differing_use(&self, range: &UseRange, limit: u32) -> Result<Vec<(UserId, DifferingUse)>, StoreError>;
}

/// The ranges that together are the users of a span. Each is small enough for one statement, unless a
/// single day is too large.
pub(super) async fn ranges(store: &(impl UseAudit + ?Sized), users: &UserSpan) -> Result<Vec<UseRange>, StoreError> {
    let of_users = |sizes: &mut Vec<(UserId, u64)>| {
        let packed = packed(std::mem::take(sizes));
        packed.into_iter().map(|(first, last)| UseRange::Users { first, last }).collect::<Vec<_>>()
    };
    let (mut found, mut small) = (Vec::new(), Vec::new());
    for (user, size) in repeat(|| store.use_sizes(users)).await? {
        if size <= COMPARED_AT_ONCE {
            small.push((user, size));
            continue;
        }
        // A range of users must not include this one.
        found.extend(of_users(&mut small));
        found.extend(ranges_of(store, &user).await?);
    }
    found.extend(of_users(&mut small));
    Ok(found)
}

/// The ranges that together are the days of one user.
pub(super) async fn ranges_of(store: &(impl UseAudit + ?Sized), user: &UserId) -> Result<Vec<UseRange>, StoreError> {
    let days = packed(repeat(|| store.use_day_sizes(user)).await?);
    let of_days = |(first, last)| UseRange::Days { user: user.clone(), days: DaySpan { first, last } };
    Ok(days.into_iter().map(of_days).collect())
}

/// Packs neighbours up to [`COMPARED_AT_ONCE`]; returns the first and the last of each pack.
fn packed<T: Clone>(sizes: Vec<(T, u64)>) -> Vec<(T, T)> {
    let mut packs: Vec<(T, T)> = Vec::new();
    let mut total = 0_u64;
    for (item, size) in sizes {
        total = total.saturating_add(size);
        match packs.last_mut() {
            Some((_, last)) if total <= COMPARED_AT_ONCE => *last = item,
            _ => {
                packs.push((item.clone(), item));
                total = size;
            }
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_packed_up_to_the_limit() {
        let most = COMPARED_AT_ONCE;
        let sizes = vec![('a', 1), ('b', most - 1), ('c', 1), ('d', 0), ('e', most + 1), ('f', 0), ('g', 2)];
        assert_eq!(packed(sizes), [('a', 'b'), ('c', 'd'), ('e', 'e'), ('f', 'g')]);
        assert_eq!(packed(Vec::<(char, u64)>::new()), []);
    }
}
