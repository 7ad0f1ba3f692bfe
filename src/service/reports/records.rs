//! The list of consumption records.

use super::{ReportService, paging::Page};
use crate::{
    biz::{
        reports::record::{Record, RecordFilter, RecordType},
        values::{error::Result, ids::UserId, invalid::Invalid},
    },
    service::{
        convert::{int32, int64, optional_span},
        proto::{BillingRecord, ListRecordsReply, ListRecordsRequest},
    },
};

impl ReportService {
    pub async fn list_records(&self, request: ListRecordsRequest) -> Result<ListRecordsReply> {
        let page = Page::parse(request.page, request.page_size, &request.page_token)?;
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let filter = self.record_filter(user, &request).await?;
        let between = filter.days.map(|days| self.calendar.bounds(days));
        // The additional entry shows whether another page follows.
        let size = page.size + 1;
        let (records, counted) = if filter.is_narrow() {
            let counted = self.records.count_records(&filter).await?;
            let records = match counted.days {
                Some(days) => {
                    let between = Some(self.calendar.bounds(days));
                    self.records.records(&filter, between, &page.start, size).await?
                }
                None => Vec::new(),
            };
            (records, counted)
        } else {
            futures_util::try_join!(
                self.records.records(&filter, between, &page.start, size),
                self.records.count_records(&filter),
            )?
        };
        let (records, next_page_token) = page.cut(&records, |record| (record.created_at, &record.id));
        Ok(ListRecordsReply {
            records: records.iter().map(record).collect(),
            total: int32(counted.records),
            next_page_token,
            total_records: int64(counted.records),
        })
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
        Ok(RecordFilter { user, service, kind, days })
    }
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
    }
}
