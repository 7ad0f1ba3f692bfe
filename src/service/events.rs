//! ListEvents: the feed of events.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::proto::{self, ListEventsReply, ListEventsRequest};
use crate::biz::{
    events::{Event, EventFilter, EventType, Position, reader::FeedReader},
    values::{error::Result, ids::UserId, invalid::Invalid},
};

const DEFAULT_LIMIT: u32 = 100;
/// Most events of a page.
pub(super) const MAX_LIMIT: u32 = 1_000;
/// Longest `types`: every type once fits.
pub(super) const MAX_TYPES: usize = 512;
/// Longest cursor.
pub(super) const MAX_CURSOR: usize = 64;
/// The beginning of each cursor, before it is encoded.
const CURSOR: &str = "e1.";

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
            "" => 0,
            cursor => decode(cursor).ok_or_else(|| Invalid::new("after", "is not a next of this list"))?,
        };
        let filter =
            EventFilter { types: types(&request.types)?, user: UserId::parse_optional("user_id", &request.user_id)? };
        let page = self.feed.read(&filter, after, limit).await?;
        if page.is_beyond {
            let why =
                "is beyond the newest event, as after a restore of an older copy of the database; begin without it";
            return Err(Invalid::new("after", why).into());
        }
        Ok(ListEventsReply {
            events: page.events.iter().map(reply).collect(),
            next: encode(page.next),
            has_more: page.has_more,
        })
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

/// A position as a cursor, which is opaque to callers.
fn encode(position: Position) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{CURSOR}{position}"))
}

fn decode(cursor: &str) -> Option<Position> {
    if cursor.len() > MAX_CURSOR {
        return None;
    }
    let decoded = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let digits = decoded.strip_prefix(CURSOR)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // The range of positions in both databases.
    digits.parse().ok().filter(|position| is_number && i64::try_from(*position).is_ok())
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
            assert_eq!(decode(&encode(position)), Some(position));
        }
        let plus = BASE64_URL_SAFE_NO_PAD.encode("e1.+7");
        let beyond = BASE64_URL_SAFE_NO_PAD.encode(format!("e1.{}", u64::MAX));
        for bad in ["x", "====", "MTIz", &plus, &beyond, &"A".repeat(100)] {
            assert_eq!(decode(bad), None, "{bad}");
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
