//! ListEvents: the feed of events.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::proto::{self, ListEventsReply, ListEventsRequest};
use crate::biz::{
    events::{Event, EventFilter, EventPage, EventType, Position, reader::FeedReader},
    values::{error::Result, ids::UserId, invalid::Invalid},
};

const DEFAULT_LIMIT: u32 = 100;
/// Most events of a page.
pub(super) const MAX_LIMIT: u32 = 1_000;
/// Longest `types`: every type once fits.
pub(super) const MAX_TYPES: usize = 512;
/// Longest cursor.
pub(super) const MAX_CURSOR: usize = 64;
/// The beginning of a cursor with a position alone, before it is encoded.
const UNMARKED: &str = "e1.";
/// The beginning of a cursor with the mark of the event at its position.
const MARKED: &str = "e2.";

/// Lists events.
pub struct EventService {
    feed: Arc<FeedReader>,
}

impl EventService {
    pub fn new(feed: Arc<FeedReader>) -> Self {
        Self { feed }
    }

    pub async fn list_events(&self, request: ListEventsRequest) -> Result<ListEventsReply> {
        let limit = match u32::try_from(request.limit) {
            Ok(0) => DEFAULT_LIMIT,
            Ok(limit) if limit <= MAX_LIMIT => limit,
            _ => return Err(Invalid::new("limit", format!("must be 1 to {MAX_LIMIT}")).into()),
        };
        let after = match request.after.as_str() {
            "" => Cursor::default(),
            cursor => Cursor::decode(cursor).ok_or_else(|| Invalid::new("after", "is not a next of this list"))?,
        };
        let filter =
            EventFilter { types: types(&request.types)?, user: UserId::parse_optional("user_id", &request.user_id)? };
        let page = self.feed.read(&filter, after.position, limit).await?;
        if page.is_beyond || !self.is_of_this_feed(after).await? {
            let why = "is of another feed, as after a restore of an older copy of the database; begin without it";
            return Err(Invalid::new("after", why).into());
        }
        Ok(ListEventsReply {
            next: self.next(after, &page).await?.encode(),
            events: page.events.iter().map(reply).collect(),
            has_more: page.has_more,
        })
    }

    /// False if another event has the position of the cursor now. Deleted events prove nothing.
    async fn is_of_this_feed(&self, cursor: Cursor) -> Result<bool> {
        let Some(mark) = cursor.mark else { return Ok(true) };
        let event = self.feed.event_at(cursor.position).await?;
        Ok(event.is_none_or(|event| mark_of(&event) == mark))
    }

    /// The cursor behind a page.
    async fn next(&self, after: Cursor, page: &EventPage) -> Result<Cursor> {
        let position = page.next;
        if position == after.position {
            return Ok(after);
        }
        let mark = match page.events.last() {
            Some(last) if last.position == position => Some(mark_of(last)),
            _ => self.feed.event_at(position).await?.as_ref().map(mark_of),
        };
        Ok(Cursor { position, mark })
    }
}

fn types(text: &str) -> Result<Vec<EventType>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.len() > MAX_TYPES {
        return Err(Invalid::new("types", format!("must be at most {MAX_TYPES} characters")).into());
    }
    let types = text.split(',').map(|name| name.trim().parse::<EventType>());
    types.collect::<std::result::Result<_, _>>().map_err(Into::into)
}

/// A place in the feed. Its text is opaque to callers.
///
/// After a restore of an older copy of the database, positions are given again, to other events. The mark tells these
/// from the ones that the reader has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cursor {
    position: Position,
    /// Of the event at the position, if it was kept.
    mark: Option<u32>,
}

impl Cursor {
    fn encode(self) -> String {
        let text = match self.mark {
            Some(mark) => format!("{MARKED}{}.{mark}", self.position),
            None => format!("{UNMARKED}{}", self.position),
        };
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    fn decode(cursor: &str) -> Option<Self> {
        if cursor.len() > MAX_CURSOR {
            return None;
        }
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (position, mark) = match text.strip_prefix(MARKED) {
            Some(rest) => rest.split_once('.').map(|(position, mark)| (position, Some(mark)))?,
            None => (text.strip_prefix(UNMARKED)?, None),
        };
        let mark = match mark {
            Some(mark) => Some(u32::try_from(number(mark)?).ok()?),
            None => None,
        };
        // The range of positions in both databases.
        let position = number(position).filter(|position| i64::try_from(*position).is_ok())?;
        Some(Self { position, mark })
    }
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// The last bytes of the id, which are random or a hash.
fn mark_of(event: &Event) -> u32 {
    let [.., a, b, c, d] = *event.id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

fn reply(event: &Event) -> proto::BillingEvent {
    proto::BillingEvent {
        id: event.id.to_string(),
        r#type: event.kind.clone(),
        created_at: Some(event.at.into()),
        user_id: event.user.as_ref().map(UserId::to_string).unwrap_or_default(),
        data: event.data.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_understood_and_another_text_is_not() {
        for position in [0, 7, i64::MAX as u64] {
            for mark in [None, Some(0), Some(u32::MAX)] {
                let cursor = Cursor { position, mark };
                let text = cursor.encode();
                assert!(text.len() <= MAX_CURSOR);
                assert_eq!(Cursor::decode(&text), Some(cursor));
            }
        }
        let of = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let beyond = of(&format!("e1.{}", u64::MAX));
        let (plus, unmarked, empty, large) = (of("e1.+7"), of("e2.7"), of("e2.7."), of("e2.7.4294967296"));
        for bad in ["x", "====", "MTIz", &plus, &beyond, &unmarked, &empty, &large, &"A".repeat(100)] {
            assert_eq!(Cursor::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn types_are_separated_by_commas() {
        assert_eq!(types("balance.low, month.closed").unwrap(), [EventType::BalanceLow, EventType::MonthClosed]);
        assert!(types("").unwrap().is_empty());
        assert!(types("balance.low,").is_err());
        let all = EventType::ALL.map(EventType::name).join(", ");
        assert_eq!(types(&all).unwrap(), EventType::ALL);
    }
}
