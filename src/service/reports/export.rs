//! The export of a user's consumption records as CSV.

use std::{io, sync::Arc};

use async_trait::async_trait;
use axum::body::Bytes;
use chrono::NaiveDate;
use futures_util::Stream;

use super::ReportService;
use crate::{
    biz::{
        reports::record::{Record, RecordFilter, RecordStore, RecordType},
        values::{
            calendar::Calendar,
            error::Result,
            ids::UserId,
            invalid::Invalid,
            paging::{Cursor, PageStart},
        },
    },
    service::{
        exports::{PAGE, Pages, csv_of, stream_csv, time_text},
        proto::ListRecordsRequest,
    },
};

/// The columns of a record.
pub const COLUMNS: [&str; 22] = [
    "id",
    "created_at",
    "service_name",
    "type",
    "amount",
    "count",
    "trace_id",
    "api_key_id",
    "model",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "billing_day",
    "late_of",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "images",
    "served_model",
    "service_tier",
];

/// The last columns, which came after exports of all users had columns of their own behind the others.
pub const LATER_COLUMNS: usize = 2;

/// An export in progress.
struct RecordPages {
    store: Arc<dyn RecordStore>,
    calendar: Arc<Calendar>,
    filter: RecordFilter,
    /// The begin of the next page; `None` at the end.
    next: Option<PageStart>,
}

impl ReportService {
    /// All records that match the filters of the request, newest first, after a line of column
    /// names. The first page is read before this returns.
    ///
    /// # Errors
    /// As [`ReportService::list_records`]; [`Error::Overloaded`](crate::biz::values::error::Error) if too
    /// many exports run. A later failure aborts the stream.
    pub async fn export_records(
        &self,
        request: ListRecordsRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        if request.page != 0 || request.page_size != 0 || !request.page_token.is_empty() {
            return Err(Invalid::new("page", "must be absent: an export has all records").into());
        }
        let user = UserId::parse("user_id", &request.user_id)?;
        let permit = self.exports.admit(Some(&user))?;
        let mut filter = self.record_filter(user, &request).await?;
        let mut next = Some(PageStart::Offset(0));
        if filter.is_narrow() {
            match self.narrowed(filter.clone()).await?.0 {
                Some(narrowed) => filter = narrowed,
                None => next = None,
            }
        }
        let (store, calendar) = (self.records.clone(), self.calendar.clone());
        stream_csv(RecordPages { store, calendar, filter, next }, &COLUMNS, permit).await
    }
}

#[async_trait]
impl Pages for RecordPages {
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(start) = self.next.take() else { return Ok(None) };
        let between = self.filter.days.map(|days| self.calendar.bounds(days));
        let records = self.store.records(&self.filter, between, &start, PAGE).await?;
        if records.len() == PAGE as usize {
            let last = records.last();
            self.next = last.map(|last| PageStart::After(Cursor { created_at: last.created_at, id: last.id.clone() }));
        }
        let matching = records.iter().filter(|record| self.filter.has(record));
        csv_of(matching.map(|record| record_cells(record, self.calendar.at(record.created_at).day))).map(Some)
    }
}

/// The cells of a record, in the order of [`COLUMNS`].
pub fn record_cells(record: &Record, day: NaiveDate) -> [String; COLUMNS.len()] {
    let usage = record.usage.unwrap_or_default();
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let kind = match record.kind {
        RecordType::Free => "free",
        RecordType::Balance => "balance",
        RecordType::FreeRefund => "free_refund",
        RecordType::BalanceRefund => "balance_refund",
    };
    [
        record.id.clone(),
        time_text(record.created_at),
        record.service.to_string(),
        kind.into(),
        record.amount.to_string(),
        record.count.to_string(),
        text(record.trace.as_ref().map(|trace| trace.as_str())),
        text(record.api_key.as_ref().map(|key| key.as_str())),
        text(record.model.as_ref().map(|model| model.as_str())),
        usage.input_tokens.to_string(),
        usage.output_tokens.to_string(),
        usage.cached_input_tokens.to_string(),
        day.to_string(),
        record.late_of.map(|month| month.to_string()).unwrap_or_default(),
        usage.cache_write_tokens.to_string(),
        usage.cache_write_1h_tokens.to_string(),
        usage.reasoning_tokens.to_string(),
        usage.audio_input_tokens.to_string(),
        usage.audio_output_tokens.to_string(),
        usage.images.to_string(),
        text(record.served_model.as_ref().map(|model| model.as_str())),
        text(record.service_tier.as_ref().map(|tier| tier.as_str())),
    ]
}
