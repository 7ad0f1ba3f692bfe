//! Readers of the feed: positions for the committed events, then a page.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use super::{Event, EventFeed, EventFilter, EventPage, PLACED_AT_ONCE, Placing, Position};
use crate::biz::values::error::StoreError;

/// Transactions that give positions before one page is read.
const MAX_PLACINGS: u32 = 20;
/// Longest wait of a reader for others that give positions. Then it gets the events that have one.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pause after a transaction that gave no positions.
const PAUSE: Duration = Duration::from_millis(20);

/// Reads the feed.
pub struct FeedReader {
    feed: Arc<dyn EventFeed>,
    /// One reader of a process gives positions at a time, so that readers hold one connection together.
    placing: Mutex<()>,
}

impl FeedReader {
    pub fn new(feed: Arc<dyn EventFeed>) -> Self {
        Self { feed, placing: Mutex::default() }
    }

    /// Reads a page, with the events that are committed now. If another reader is giving them positions and does not
    /// finish, the page has the events before them, and says that more follow.
    ///
    /// # Errors
    /// As [`EventFeed::place_events`]; a conflict if it lasts.
    pub async fn read(&self, filter: &EventFilter, after: Position, limit: u32) -> Result<EventPage, StoreError> {
        let are_placed = self.place_events().await?;
        let page = self.read_placed(filter, after, limit).await?;
        Ok(EventPage { has_more: page.has_more || !are_placed, ..page })
    }

    /// The event at a position, if it is kept.
    ///
    /// # Errors
    /// As [`EventFeed::placed_events`].
    pub async fn event_at(&self, position: Position) -> Result<Option<Event>, StoreError> {
        let page = self.feed.placed_events(&EventFilter::default(), position.saturating_sub(1), 1).await?;
        Ok(page.events.into_iter().next().filter(|event| event.position == position))
    }

    /// Reads a page of the events that have positions already.
    ///
    /// # Errors
    /// As [`EventFeed::placed_events`].
    pub async fn read_placed(
        &self,
        filter: &EventFilter,
        after: Position,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        self.feed.placed_events(filter, after, limit).await
    }

    /// Gives positions to all events that are committed now. False if `limit` has passed before; a repeat goes on.
    ///
    /// # Errors
    /// As [`Self::place_events`].
    pub async fn place_all(&self, limit: Duration) -> Result<bool, StoreError> {
        let begun = Instant::now();
        // Ends: by the limit.
        loop {
            if self.place_events().await? {
                return Ok(true);
            }
            if begun.elapsed() >= limit {
                return Ok(false);
            }
        }
    }

    /// Gives positions to the committed events, for a bounded time. Returns whether all have one.
    ///
    /// # Errors
    /// As [`EventFeed::place_events`]; a conflict if it lasts.
    pub async fn place_events(&self) -> Result<bool, StoreError> {
        let Ok(_turn) = timeout(PATIENCE, self.placing.lock()).await else { return Ok(false) };
        let (begun, mut conflict) = (Instant::now(), None);
        for _ in 0..MAX_PLACINGS {
            conflict = match self.feed.place_events().await {
                Ok(Placing::Placed(placed)) if placed < PLACED_AT_ONCE => return Ok(true),
                Ok(Placing::Placed(_)) => {
                    conflict = None;
                    continue;
                }
                Ok(Placing::Elsewhere) => None,
                Err(error @ StoreError::Conflict(_)) => Some(error),
                Err(error) => return Err(error),
            };
            if begun.elapsed() >= PATIENCE {
                break;
            }
            sleep(PAUSE).await;
        }
        match conflict {
            None => Ok(false),
            Some(error) => {
                tracing::warn!(%error, "new events get no position; the feed stands still");
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};
    use tokio::sync::Notify;

    use super::*;
    use crate::biz::events::OldEvents;

    /// A feed of so many events without a position.
    struct Unplaced(AtomicU32);

    #[async_trait]
    impl EventFeed for Unplaced {
        async fn place_events(&self) -> Result<Placing, StoreError> {
            let placed = self.0.load(Relaxed).min(PLACED_AT_ONCE);
            self.0.fetch_sub(placed, Relaxed);
            Ok(Placing::Placed(placed))
        }

        async fn placed_events(&self, _: &EventFilter, _: Position, _: u32) -> Result<EventPage, StoreError> {
            Ok(EventPage::default())
        }

        async fn old_events(&self, _: DateTime<Utc>, _: i64) -> Result<OldEvents, StoreError> {
            Ok(OldEvents::default())
        }

        async fn delete_events(&self, _: &[i64]) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_events_get_positions_unless_the_time_ends_before() {
        let unplaced = Arc::new(Unplaced(AtomicU32::new(50_001)));
        let reader = FeedReader::new(unplaced.clone());
        assert_eq!(reader.place_all(Duration::ZERO).await, Ok(false));
        assert!(unplaced.0.load(Relaxed) > 0);
        assert_eq!(reader.place_all(Duration::from_secs(5)).await, Ok(true));
        assert_eq!(unplaced.0.load(Relaxed), 0);
    }

    /// A feed without events, whose placings end in this way.
    struct Fake {
        placing: Result<Placing, StoreError>,
        placings: AtomicU32,
        /// A placing ends when this was notified.
        gate: Option<Notify>,
    }

    #[async_trait]
    impl EventFeed for Fake {
        async fn place_events(&self) -> Result<Placing, StoreError> {
            self.placings.fetch_add(1, Relaxed);
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            self.placing.clone()
        }

        async fn placed_events(&self, _: &EventFilter, _: Position, _: u32) -> Result<EventPage, StoreError> {
            Ok(EventPage::default())
        }

        async fn old_events(&self, _: DateTime<Utc>, _: i64) -> Result<OldEvents, StoreError> {
            Ok(OldEvents::default())
        }

        async fn delete_events(&self, _: &[i64]) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn reader(placing: Result<Placing, StoreError>, gate: Option<Notify>) -> (Arc<Fake>, FeedReader) {
        let fake = Arc::new(Fake { placing, placings: AtomicU32::new(0), gate });
        (fake.clone(), FeedReader::new(fake))
    }

    async fn has_more(reader: &FeedReader) -> Result<bool, StoreError> {
        reader.read(&EventFilter::default(), 0, 1).await.map(|page| page.has_more)
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_says_that_more_follows_while_events_have_no_position() {
        for (placing, expected) in [
            (Placing::Placed(0), false),
            (Placing::Placed(PLACED_AT_ONCE - 1), false),
            (Placing::Placed(PLACED_AT_ONCE), true),
            (Placing::Elsewhere, true),
        ] {
            let (fake, reader) = reader(Ok(placing), None);
            assert_eq!(has_more(&reader).await, Ok(expected), "{placing:?}");
            assert_eq!(fake.placings.load(Relaxed), if expected { MAX_PLACINGS } else { 1 });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_that_lasts_is_not_hidden() {
        let conflict = StoreError::Conflict("the position is taken".into());
        let (_, reader) = reader(Err(conflict.clone()), None);
        assert_eq!(has_more(&reader).await, Err(conflict));
    }

    #[tokio::test(start_paused = true)]
    async fn one_reader_gives_positions_and_the_others_do_not_wait_for_it_for_long() {
        let (fake, reader) = reader(Ok(Placing::Placed(0)), Some(Notify::new()));
        let first = has_more(&reader);
        let others = async {
            for _ in 0..3 {
                assert_eq!(has_more(&reader).await, Ok(true));
            }
            assert_eq!(fake.placings.load(Relaxed), 1);
            fake.gate.as_ref().unwrap().notify_one();
        };
        assert_eq!(tokio::join!(first, others).0, Ok(false));
    }
}
