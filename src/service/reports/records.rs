//! The list of consumption records.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{
    ReportService,
    paging::{Page, token_after},
};
use crate::{
    biz::{
        reports::record::{Counted, Record, RecordFilter, RecordType},
        values::{
            error::Result,
            ids::{ApiKeyId, ModelName, UserId},
            invalid::Invalid,
            paging::{Cursor, PageStart},
        },
    },
    service::{
        convert::{int32, int64, optional_span},
        proto::{BillingRecord, ListRecordsReply, ListRecordsRequest},
    },
};

/// Records that a filter by model or API key reads at once, and most reads of one page.
const READ_AT_ONCE: u32 = 500;
const MAX_READS: u32 = 10;
/// Time after which such a page is given out as it is.
const LONGEST_WALK: Duration = Duration::from_millis(300);

impl ReportService {
    pub async fn list_records(&self, request: ListRecordsRequest) -> Result<ListRecordsReply> {
        self.list_records_within(request, LONGEST_WALK).await
    }

    /// As [`Self::list_records`], for a reader with less time: a page by model or API key is given out as it is after
    /// `longest`.
    ///
    /// # Errors
    /// As [`Self::list_records`].
    pub async fn list_records_within(
        &self,
        request: ListRecordsRequest,
        longest: Duration,
    ) -> Result<ListRecordsReply> {
        let page = Page::parse(request.page, request.page_size, &request.page_token)?;
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let filter = self.record_filter(user, &request).await?;
        let (records, next_page_token, counted) = if filter.is_of_calls() {
            if page.start != PageStart::Offset(0) && request.page_token.is_empty() {
                let why = "must be 1 with model or api_key_id; go on with page_token";
                return Err(Invalid::new("page", why).into());
            }
            let (records, next) = match self.narrowed(filter).await?.0 {
                Some(filter) => self.walk(&filter, &page, longest).await?,
                None => (Vec::new(), String::new()),
            };
            // A count would read all of them.
            (records, next, Counted { records: 0, days: None })
        } else {
            let (records, counted) = self.page_of(filter, &page).await?;
            let (records, next) = page.cut(&records, place);
            (records.to_vec(), next, counted)
        };
        Ok(ListRecordsReply {
            records: records.iter().map(record).collect(),
            total: int32(counted.records),
            next_page_token,
            total_records: int64(counted.records),
        })
    }

    /// The records of a page, and one more if another page follows.
    async fn page_of(&self, filter: RecordFilter, page: &Page) -> Result<(Vec<Record>, Counted)> {
        let size = page.size + 1;
        if filter.is_narrow() {
            let (narrowed, counted) = self.narrowed(filter).await?;
            let Some(filter) = narrowed else { return Ok((Vec::new(), counted)) };
            let between = filter.days.map(|days| self.calendar.bounds(days));
            return Ok((self.records.records(&filter, between, &page.start, size).await?, counted));
        }
        let between = filter.days.map(|days| self.calendar.bounds(days));
        Ok(futures_util::try_join!(
            self.records.records(&filter, between, &page.start, size),
            self.records.count_records(&filter),
        )?)
    }

    /// Counts the records of the service and the type, and limits the filter to the days that have some;
    /// `None` if no day has.
    pub(super) async fn narrowed(&self, filter: RecordFilter) -> Result<(Option<RecordFilter>, Counted)> {
        let counted = self.records.count_records(&filter).await?;
        let narrowed = counted.days.map(|days| RecordFilter { days: Some(days), ..filter });
        Ok((narrowed, counted))
    }

    /// The matching records of a page, and its token. Reads a bounded number of records, for a bounded time,
    /// so the page may be short although more follow.
    async fn walk(&self, filter: &RecordFilter, page: &Page, longest: Duration) -> Result<(Vec<Record>, String)> {
        let between = filter.days.map(|days| self.calendar.bounds(days));
        // The database would go on to the next record of the service or the type, however many lie between.
        let all = RecordFilter { service: None, kind: None, ..filter.clone() };
        let (begun, mut start, mut found) = (Instant::now(), page.start.clone(), Vec::new());
        for _ in 0..MAX_READS {
            let records = self.records.records(&all, between, &start, READ_AT_ONCE).await?;
            let is_end = records.len() < READ_AT_ONCE as usize;
            let last = records.last().map(|last| Cursor { created_at: last.created_at, id: last.id.clone() });
            found.extend(records.into_iter().filter(|record| filter.has(record)));
            if is_end || found.len() > page.size as usize {
                let (records, next) = page.cut(&found, place);
                return Ok((records.to_vec(), next));
            }
            start = last.map_or(start, PageStart::After);
            if begun.elapsed() > longest {
                break;
            }
        }
        let next = match &start {
            PageStart::After(Cursor { created_at, id }) => token_after(*created_at, id),
            PageStart::Offset(_) => String::new(),
        };
        Ok((found, next))
    }

    pub(super) async fn record_filter(&self, user: UserId, request: &ListRecordsRequest) -> Result<RecordFilter> {
        let service = self.service_filter(&user, &request.service_name).await?;
        let kind = match request.r#type {
            0 => None,
            number => Some(
                RecordType::from_number(number)
                    .ok_or_else(|| Invalid::new("type", "must be 1 to 4, or 0 for all types"))?,
            ),
        };
        let days = optional_span(&request.from, &request.to, self.calendar.now().day)?;
        let model = ModelName::parse_optional("model", &request.model)?;
        let api_key = ApiKeyId::parse_optional("api_key_id", &request.api_key_id)?;
        Ok(RecordFilter { user, service, kind, days, model, api_key })
    }
}

fn place(record: &Record) -> (DateTime<Utc>, &str) {
    (record.created_at, &record.id)
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
        late_of: record.late_of.map(|month| month.to_string()).unwrap_or_default(),
        cache_write_tokens: int32(usage.cache_write_tokens),
        cache_write_1h_tokens: int32(usage.cache_write_1h_tokens),
        reasoning_tokens: int32(usage.reasoning_tokens),
        audio_input_tokens: int32(usage.audio_input_tokens),
        audio_output_tokens: int32(usage.audio_output_tokens),
        images: int32(usage.images),
        served_model: text(record.served_model.as_ref().map(|model| model.as_str())),
        service_tier: text(record.service_tier.as_ref().map(|tier| tier.as_str())),
    }
}
