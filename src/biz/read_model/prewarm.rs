//! Warms the caches: accounts that were active lately are loaded before they are asked for,
//! so that a cold cache is no stampede on the database. It also mends what a process that
//! was killed between a commit and its news left behind.

use std::{num::NonZeroU32, time::Duration};

use futures_util::future::join_all;

use super::{ReadModel, entry::Subject};
use crate::biz::{
    account::{AccountStore, ActiveUsers},
    calendar::Calendar,
    error::Result,
    ids::UserId,
};

/// Who was active within this time is expected again.
const LATELY: chrono::TimeDelta = chrono::TimeDelta::hours(1);
/// Accounts that are loaded at once, a small part of what checks may load.
const TOGETHER: usize = 8;

/// Loads every account that was active lately, at most so many a second; tells how many.
///
/// # Errors
/// [`crate::biz::error::Error::Overloaded`] or Internal when the users can't be listed. One
/// that can't be loaded does not keep the others from it.
pub async fn prewarm(
    model: &ReadModel,
    store: &dyn AccountStore,
    calendar: &Calendar,
    a_second: NonZeroU32,
) -> Result<u64> {
    let since = calendar.now().utc - LATELY;
    let pause = Duration::from_secs(1) * TOGETHER as u32 / a_second.get();
    let (mut loaded, mut last) = (0, None::<UserId>);
    // Ends: each list begins behind the last.
    loop {
        let ActiveUsers { users, next } = store.active_users(since, last.as_ref()).await?;
        for some in users.chunks(TOGETHER) {
            let begun = tokio::time::Instant::now();
            let subjects: Vec<Subject> = some.iter().cloned().map(Subject::User).collect();
            let loads = join_all(subjects.iter().map(|subject| model.load(subject))).await;
            loaded += loads.iter().filter(|load| load.is_ok()).count() as u64;
            tokio::time::sleep_until(begun + pause).await;
        }
        match next {
            Some(next) => last = Some(next),
            None => return Ok(loaded),
        }
    }
}
