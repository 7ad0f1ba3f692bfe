//! `month.closed`: one event for each month that closes.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::{EventType, NewEvent};
use crate::biz::values::{
    calendar::{BillingTime, Calendar, Month},
    error::StoreError,
};

/// Months that one run announces, if the job was off for long.
const MAX_MONTHS: u32 = 120;

/// Remembers the last announced month.
#[async_trait]
pub trait ClosedMonths: Send + Sync + 'static {
    /// The last announced month; `None` before the first run.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn last_closed(&self) -> Result<Option<Month>, StoreError>;

    /// Makes `month` the last announced one if it still is `before`. With a `before`, writes its event in the
    /// same transaction. Returns whether it did.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written; [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn announce_closed(&self, before: Option<Month>, month: Month, at: DateTime<Utc>)
    -> Result<bool, StoreError>;
}

/// The event of a closed month.
pub fn closed_month(month: Month, at: DateTime<Utc>) -> NewEvent {
    NewEvent::new(EventType::MonthClosed, None, json!({"month": month.to_string()}), at)
}

/// The last month that has closed.
pub fn last_to_close(calendar: &Calendar, at: BillingTime) -> Month {
    let mut month = at.month.previous();
    // Ends: an earlier month closed earlier, and none closes more than a month after its end.
    for _ in 0..MAX_MONTHS {
        if calendar.periods().is_closed(month, at) {
            break;
        }
        month = month.previous();
    }
    month
}

/// Writes an event for each month that has closed since the last run, oldest first. The first run only remembers
/// the month, because a month that closed before the first run is no news. Returns the announced months.
///
/// # Errors
/// [`StoreError::Conflict`], [`StoreError::Unavailable`], [`StoreError::Failed`]; announced months stay so.
pub async fn announce_closed_months(
    months: &(impl ClosedMonths + ?Sized),
    calendar: &Calendar,
) -> Result<Vec<Month>, StoreError> {
    let at = calendar.now();
    let closed = last_to_close(calendar, at);
    let Some(mut last) = months.last_closed().await? else {
        months.announce_closed(None, closed, at.utc).await?;
        return Ok(Vec::new());
    };
    let mut announced = Vec::new();
    for _ in 0..MAX_MONTHS {
        if last >= closed {
            break;
        }
        let next = last.next();
        if months.announce_closed(Some(last), next, at.utc).await? {
            announced.push(next);
        }
        last = next;
    }
    Ok(announced)
}
