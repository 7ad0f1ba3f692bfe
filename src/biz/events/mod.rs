//! Events: facts that a subscriber must learn, such as a low balance or a credited top-up.
//!
//! An event is written in the transaction that made it true. Repeats and refusals of a posting change nothing
//! and so write none. The feed gives each event a position when it is first read, see [`EventFeed`].

pub mod alerts;
pub mod closing;

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::biz::values::{error::StoreError, ids::UserId, invalid::Invalid};

/// The types of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// The balance fell below a threshold.
    BalanceLow,
    /// A charge, a reserve or a check was refused for money, for the first time since the last credit.
    BalanceExhausted,
    /// The use of a free quota, of a quota of an API key or of a cap reached a percentage of it.
    QuotaThreshold,
    RechargeSucceeded,
    RechargeFailed,
    RechargeExpired,
    RechargeRefunded,
    RechargeChargedBack,
    PaymentUnapplied,
    ChargeRefunded,
    AccountStatus,
    /// The service told the gateway of a stream to stop, because hold and funds are used up.
    StreamStopped,
    MonthClosed,
}

impl EventType {
    pub const ALL: [Self; 13] = [
        Self::BalanceLow,
        Self::BalanceExhausted,
        Self::QuotaThreshold,
        Self::RechargeSucceeded,
        Self::RechargeFailed,
        Self::RechargeExpired,
        Self::RechargeRefunded,
        Self::RechargeChargedBack,
        Self::PaymentUnapplied,
        Self::ChargeRefunded,
        Self::AccountStatus,
        Self::StreamStopped,
        Self::MonthClosed,
    ];

    /// Whether settlements write it.
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::PaymentUnapplied | Self::MonthClosed)
    }

    /// The name in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::BalanceLow => "balance.low",
            Self::BalanceExhausted => "balance.exhausted",
            Self::QuotaThreshold => "quota.threshold",
            Self::RechargeSucceeded => "recharge.succeeded",
            Self::RechargeFailed => "recharge.failed",
            Self::RechargeExpired => "recharge.expired",
            Self::RechargeRefunded => "recharge.refunded",
            Self::RechargeChargedBack => "recharge.charged_back",
            Self::PaymentUnapplied => "payment.unapplied",
            Self::ChargeRefunded => "charge.refunded",
            Self::AccountStatus => "account.status",
            Self::StreamStopped => "stream.stopped",
            Self::MonthClosed => "month.closed",
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EventType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Invalid::new("types", format!("has a type that is not known; the types are {names}"))
        })
    }
}

/// An event to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// `None` if a repeat of its cause is known without it. It gets an id where it is written then.
    pub id: Option<Uuid>,
    pub kind: EventType,
    /// `None` if it belongs to no user.
    pub user: Option<UserId>,
    /// A JSON object in which amounts are texts.
    pub data: Map<String, Value>,
    pub at: DateTime<Utc>,
}

impl NewEvent {
    /// An event with the fields of `data`, which must be a JSON object, and with its user.
    pub fn new(kind: EventType, user: Option<&UserId>, data: Value, at: DateTime<Utc>) -> Self {
        let mut fields = Map::new();
        if let Some(user) = user {
            fields.insert("user_id".into(), user.as_str().into());
        }
        if let Value::Object(data) = data {
            fields.extend(data);
        }
        Self { id: None, kind, user: user.cloned(), data: fields, at }
    }

    /// The id to write.
    pub fn id(&self) -> Uuid {
        self.id.unwrap_or_else(Uuid::now_v7)
    }

    /// The stored form of the data.
    pub fn data(&self) -> String {
        serde_json::to_string(&self.data).unwrap_or_default()
    }
}

/// A stored event with its position in the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub position: Position,
    pub id: Uuid,
    pub kind: EventType,
    pub user: Option<UserId>,
    /// A JSON object.
    pub data: String,
    pub at: DateTime<Utc>,
}

/// A position in the feed; zero is before the first event.
pub type Position = u64;

/// The events to list. Empty fields match every event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    pub types: Vec<EventType>,
    pub user: Option<UserId>,
}

/// The positions that one page looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// The first position is behind this one.
    pub after: Position,
    pub until: Position,
    last: Position,
    is_beyond: bool,
}

impl EventFilter {
    /// The range of the page behind `after`, in a feed with the positions `first` to `last`. A page of one user
    /// has an index of its own, and looks at all.
    pub fn range(&self, after: Position, first: Position, last: Position) -> PageRange {
        let is_beyond = after > last;
        let after = after.max(first.saturating_sub(1));
        let until = if self.user.is_some() { last } else { last.min(after.saturating_add(LOOKED_AT)) };
        PageRange { after, until, last, is_beyond }
    }
}

impl PageRange {
    /// The page of these events; a full one ends with the last of them.
    pub fn page(self, events: Vec<Event>, limit: u32) -> EventPage {
        let next = match events.last() {
            Some(last) if events.len() >= limit as usize => last.position,
            _ => self.until.max(self.after),
        };
        EventPage { events, next, has_more: next < self.last, is_beyond: self.is_beyond }
    }
}

/// A page of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// The next page begins after this position.
    pub next: Position,
    /// Whether further events may follow at once.
    pub has_more: bool,
    /// Whether the page would begin after a position that was never given, as after a restore of an older copy of the
    /// database. Later events would get positions that the reader has passed.
    pub is_beyond: bool,
}

/// Events that get their positions in one transaction.
pub const PLACED_AT_ONCE: u32 = 500;
/// Transactions that give positions before one page is read.
pub const MAX_PLACINGS: u32 = 20;
/// Positions that one page looks at, whether they match or not.
pub const LOOKED_AT: u64 = 10_000;
/// Events that are deleted in one transaction.
pub const DELETED_AT_ONCE: u32 = 1_000;

/// The feed of events.
///
/// Transactions become visible in another order than they took their numbers. So the position of an event is not
/// such a number. It is given when the feed is read, under one lock, to events that are visible. An event that
/// becomes visible later gets a later position, and a reader that has passed a position never misses one.
/// The events of one user are written under the lock of the account, so their positions are in the order of
/// the commits.
#[async_trait]
pub trait EventFeed: Send + Sync + 'static {
    /// Gives positions to the visible events without one, at most [`PLACED_AT_ONCE`]. Returns their number.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written; [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn place_events(&self) -> Result<u32, StoreError>;

    /// At most `limit` events with a position after `after`, in order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn placed_events(&self, filter: &EventFilter, after: Position, limit: u32) -> Result<EventPage, StoreError>;

    /// Deletes the oldest events if they are older than `before`, at most [`DELETED_AT_ONCE`], and pauses for as
    /// long as that took. Returns their number.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was deleted; [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn delete_events(&self, before: DateTime<Utc>) -> Result<u32, StoreError>;

    /// The number of events older than `before`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_old_events(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;
}

/// Reads a page of the feed, with the events that are committed now.
///
/// # Errors
/// As [`EventFeed::place_events`].
pub async fn read_feed(
    feed: &dyn EventFeed,
    filter: &EventFilter,
    after: Position,
    limit: u32,
) -> Result<EventPage, StoreError> {
    place_new(feed).await?;
    feed.placed_events(filter, after, limit).await
}

/// Gives positions to the events that are committed now.
///
/// # Errors
/// As [`EventFeed::place_events`].
pub async fn place_new(feed: &dyn EventFeed) -> Result<(), StoreError> {
    for _ in 0..MAX_PLACINGS {
        match feed.place_events().await {
            Ok(placed) if placed < PLACED_AT_ONCE => break,
            // Another reader gives the same positions at this moment.
            Ok(_) | Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives positions to all events that are committed now. False if `limit` has passed before; a repeat goes on.
///
/// # Errors
/// As [`EventFeed::place_events`].
pub async fn place_all(feed: &dyn EventFeed, limit: Duration) -> Result<bool, StoreError> {
    let began = Instant::now();
    // Ends: by the limit.
    while began.elapsed() < limit {
        match feed.place_events().await {
            Ok(placed) if placed < PLACED_AT_ONCE => return Ok(true),
            Ok(_) | Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use serde_json::json;

    use super::*;

    /// A feed with so many events without a position.
    struct Unplaced(AtomicU32);

    #[async_trait]
    impl EventFeed for Unplaced {
        async fn place_events(&self) -> Result<u32, StoreError> {
            let placed = self.0.load(SeqCst).min(PLACED_AT_ONCE);
            self.0.fetch_sub(placed, SeqCst);
            Ok(placed)
        }

        async fn placed_events(&self, _: &EventFilter, _: Position, _: u32) -> Result<EventPage, StoreError> {
            unimplemented!()
        }

        async fn delete_events(&self, _: DateTime<Utc>) -> Result<u32, StoreError> {
            unimplemented!()
        }

        async fn count_old_events(&self, _: DateTime<Utc>) -> Result<u64, StoreError> {
            unimplemented!()
        }
    }

    #[tokio::test]
    async fn all_events_get_positions_unless_the_time_ends_before() {
        let feed = Unplaced(AtomicU32::new(50_001));
        assert_eq!(place_all(&feed, Duration::ZERO).await, Ok(false));
        assert_eq!(place_all(&feed, Duration::from_secs(600)).await, Ok(true));
        assert_eq!(feed.0.load(SeqCst), 0);
    }

    #[test]
    fn every_type_is_found_by_its_name() {
        for kind in EventType::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let unknown = EventType::from_str("balance").unwrap_err().to_string();
        assert!(unknown.starts_with("types: ") && unknown.contains("balance.low, "), "{unknown}");
    }

    #[test]
    fn a_page_looks_at_a_bounded_range_and_goes_on_behind_it() {
        let all = EventFilter::default();
        let page = |after, first, last| all.range(after, first, last).page(Vec::new(), 100);
        let of = |page: EventPage| (page.next, page.has_more, page.is_beyond);
        assert_eq!(of(page(0, 1, 0)), (0, false, false), "an empty feed");
        assert_eq!(of(page(0, 1, LOOKED_AT + 5)), (LOOKED_AT, true, false));
        assert_eq!(of(page(LOOKED_AT, 1, LOOKED_AT + 5)), (LOOKED_AT + 5, false, false));
        assert_eq!(of(page(3, 50, 60)), (60, false, false), "the events before 50 are deleted");
        assert_eq!(of(page(60, 61, 60)), (60, false, false), "all events are deleted");
        assert_eq!(of(page(61, 1, 60)), (61, false, true));
        // A user has an index of its own.
        let of_user = EventFilter { user: Some(UserId::from_stored("u")), ..EventFilter::default() };
        assert_eq!(of(of_user.range(0, 1, 5 * LOOKED_AT).page(Vec::new(), 100)), (5 * LOOKED_AT, false, false));
    }

    #[test]
    fn the_data_of_an_event_names_its_user() {
        let at = DateTime::UNIX_EPOCH;
        let user = UserId::from_stored("u1");
        let event = NewEvent::new(EventType::AccountStatus, Some(&user), json!({"after": "FROZEN"}), at);
        assert_eq!(event.data(), r#"{"after":"FROZEN","user_id":"u1"}"#);
        let of_all = NewEvent::new(EventType::MonthClosed, None, json!({"month": "2026-10"}), at);
        assert_eq!(of_all.data(), r#"{"month":"2026-10"}"#);
    }
}
