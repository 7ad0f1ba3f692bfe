//! The list of consumption records, by page number or by page token.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Days, NaiveDate};

use super::{
    Api,
    convert::{int32, span},
    proto::{BillingRecord, ListRecordsReply, ListRecordsRequest},
};
use crate::biz::{
    calendar::{DaySpan, parse_day},
    error::{Invalid, Result},
    ids::UserId,
    record::{Cursor, PageStart, Record, RecordFilter, RecordType},
};

const DEFAULT_PAGE_SIZE: u32 = 20;
const MAX_PAGE_SIZE: u32 = 100;
/// Records that page numbers reach; skipping rows costs more the more are skipped,
/// and page tokens do not skip.
const MAX_OFFSET: u32 = 10_000;

impl Api {
    pub async fn list_records(&self, request: ListRecordsRequest) -> Result<ListRecordsReply> {
        let page_size = page_size(request.page_size)?;
        let start = page_start(&request, page_size)?;
        let filter = self.record_filter(&request)?;
        let between = filter.days.map(|days| self.calendar.bounds(days));
        // One more than the page tells whether there is another.
        let (records, total) = futures_util::try_join!(
            self.records.records(&filter, between, &start, page_size + 1),
            self.records.count_records(&filter),
        )?;
        let more = records.len() > page_size as usize;
        let page = &records[..records.len().min(page_size as usize)];
        let next_page_token = match page.last() {
            Some(last) if more => encode_token(last),
            _ => String::new(),
        };
        Ok(ListRecordsReply { records: page.iter().map(record).collect(), total: int32(total), next_page_token })
    }

    fn record_filter(&self, request: &ListRecordsRequest) -> Result<RecordFilter> {
        let service = self.optional_service(&request.service_name)?;
        let kind = match request.r#type {
            0 => None,
            number => Some(
                RecordType::from_number(number)
                    .ok_or_else(|| Invalid::new("type", "must be 1 for free quota, 2 for balance, or 0 for both"))?,
            ),
        };
        Ok(RecordFilter {
            user: UserId::parse("user_id", &request.user_id)?,
            service,
            kind,
            days: self.record_days(&request.from, &request.to)?,
        })
    }

    /// Without `from` all that was, without `to` all there is.
    fn record_days(&self, from: &str, to: &str) -> Result<Option<DaySpan>> {
        if from.is_empty() && to.is_empty() {
            return Ok(None);
        }
        // A record of the next second may be of the next day.
        let tomorrow = self.calendar.now().day + Days::new(1);
        // A beginning in the future is an empty list and no error.
        let last = parse_day("from", from).map_or(tomorrow, |from| from.max(tomorrow));
        span(from, to, last, |_| NaiveDate::default()).map(Some)
    }
}

fn page_size(value: i32) -> Result<u32> {
    match u32::try_from(value) {
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) if size <= MAX_PAGE_SIZE => Ok(size),
        _ => Err(Invalid::new("page_size", format!("must be 1 to {MAX_PAGE_SIZE}")).into()),
    }
}

fn page_start(request: &ListRecordsRequest, page_size: u32) -> Result<PageStart> {
    if !request.page_token.is_empty() {
        let cursor = decode_token(&request.page_token)
            .ok_or_else(|| Invalid::new("page_token", "is not a next_page_token of this list"))?;
        return Ok(PageStart::After(cursor));
    }
    let page = u32::try_from(request.page).map_err(|_| Invalid::new("page", "must not be negative"))?;
    page.max(1)
        .checked_sub(1)
        .and_then(|before| before.checked_mul(page_size))
        .filter(|offset| *offset <= MAX_OFFSET)
        .map(PageStart::Offset)
        .ok_or_else(|| {
            let why = format!("reaches {MAX_OFFSET} records deep; go on with page_token");
            Invalid::new("page", why).into()
        })
}

/// A token says where a page ended; callers need not read it.
fn encode_token(last: &Record) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}.{}", last.created_at.timestamp_micros(), last.id))
}

fn decode_token(token: &str) -> Option<Cursor> {
    if token.len() > 128 {
        return None;
    }
    let decoded = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (micros, id) = decoded.split_once('.')?;
    let is_id = (1..=36).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    let created_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    // The range that both databases can hold.
    let in_range = (0..=253_402_300_799).contains(&created_at.timestamp());
    (is_id && in_range).then(|| Cursor { created_at, id: id.to_owned() })
}

fn record(record: &Record) -> BillingRecord {
    let usage = record.usage.unwrap_or_default();
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    BillingRecord {
        id: record.id.clone(),
        service_name: record.service.to_string(),
        r#type: record.kind as i32,
        amount: record.amount.to_wire(),
        count: int32(record.count),
        created_at: Some(record.created_at.into()),
        trace_id: text(record.trace.as_ref().map(|trace| trace.as_str())),
        api_key_id: text(record.api_key.as_ref().map(|key| key.as_str())),
        model: text(record.model.as_ref().map(|model| model.as_str())),
        input_tokens: int32(usage.input_tokens),
        output_tokens: int32(usage.output_tokens),
        cached_input_tokens: int32(usage.cached_input_tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_that_was_not_given_out_is_refused() {
        for bad in ["x", "====", "MTIz", "LTEuYQ", &"A".repeat(200), "OTk5OTk5OTk5OTk5OTk5OTk5OS5h"] {
            assert_eq!(decode_token(bad), None, "{bad}");
        }
    }

    #[test]
    fn page_numbers_end_where_tokens_take_over() {
        let at = |page| page_start(&ListRecordsRequest { page, ..Default::default() }, 100);
        assert_eq!(at(0).unwrap(), PageStart::Offset(0));
        assert_eq!(at(101).unwrap(), PageStart::Offset(10_000));
        for bad in [102, -1, i32::MAX] {
            assert!(at(bad).unwrap_err().to_string().starts_with("page:"), "{bad}");
        }
    }
}
