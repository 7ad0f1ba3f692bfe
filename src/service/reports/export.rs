//! The export of consumption records as CSV. Pages are read as the caller receives them, so the memory
//! does not depend on the length.

use std::{io, sync::Arc, time::Duration};

use axum::body::Bytes;
use chrono::NaiveDate;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::ReportService;
use crate::{
    biz::{
        reports::record::{Record, RecordFilter, RecordStore, RecordType},
        values::{
            calendar::Calendar,
            error::{Error, Result},
            ids::UserId,
            invalid::Invalid,
            paging::{Cursor, PageStart},
        },
    },
    service::proto::ListRecordsRequest,
};

/// Records that are read at once.
const PAGE: u32 = 5_000;
/// Deadline of an export.
const LIMIT: Duration = Duration::from_secs(600);

const COLUMNS: [&str; 20] = [
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
];

/// An export in progress.
struct Export {
    store: Arc<dyn RecordStore>,
    calendar: Arc<Calendar>,
    filter: RecordFilter,
    /// The begin of the next page; `None` at the end.
    next: Option<PageStart>,
    /// Longest time in which the caller takes nothing.
    stall: Duration,
}

impl ReportService {
    /// All records that match the filters of the request, newest first, after a line of column
    /// names. The first page is read before this returns.
    ///
    /// # Errors
    /// As [`ReportService::list_records`]; [`Error::Overloaded`] if too many exports run. A later
    /// failure aborts the stream.
    pub async fn export_records(
        &self,
        request: ListRecordsRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        if request.page != 0 || request.page_size != 0 || !request.page_token.is_empty() {
            return Err(Invalid::new("page", "must be absent: an export has all records").into());
        }
        let user = UserId::parse("user_id", &request.user_id)?;
        let share = self.exports_of_user.take(&user);
        let share =
            share.ok_or_else(|| Error::Overloaded("too many exports of this user at once; retry later".into()))?;
        let permit = self.exports.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::Overloaded("too many exports at once; retry later".into()))?;
        let mut filter = self.record_filter(&request).await?;
        let mut next = Some(PageStart::Offset(0));
        if filter.is_narrow() {
            filter.days = self.records.count_records(&filter).await?.days;
            next = next.filter(|_| filter.days.is_some());
        }
        let (store, calendar) = (self.records.clone(), self.calendar.clone());
        let mut export = Export { store, calendar, filter, next, stall: self.export_stall };
        let mut first = format!("{}\n", COLUMNS.join(",")).into_bytes();
        first.extend(export.page().await?.unwrap_or_default());
        let (pages, taken) = mpsc::channel(1);
        let sending = async move {
            let _permits = (permit, share);
            // A caller that reads very slowly must not keep the permit.
            if tokio::time::timeout(LIMIT, export.send(first, &pages)).await.is_err() {
                tracing::warn!("export timed out; stream aborted");
            }
        };
        tokio::spawn(sending.in_current_span());
        Ok(stream::unfold(Some(taken), async |taken| {
            let mut taken = taken?;
            match taken.recv().await {
                Some(ExportPart::Lines(lines)) => Some((Ok(lines), Some(taken))),
                Some(ExportPart::End) => None,
                // A truncated file must not look complete.
                None => Some((Err(io::Error::other("the export was aborted")), None)),
            }
        }))
    }
}

/// A part of an export.
enum ExportPart {
    Lines(Bytes),
    End,
}

impl Export {
    /// Sends `first`, and then each page when the caller takes it. After a failure, or if the
    /// caller has gone, it sends no end.
    async fn send(&mut self, first: Vec<u8>, pages: &mpsc::Sender<ExportPart>) {
        let mut lines = first;
        loop {
            match tokio::time::timeout(self.stall, pages.send(ExportPart::Lines(lines.into()))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::warn!("the reader of an export took nothing for too long; stream aborted");
                    return;
                }
            }
            lines = match self.page().await {
                Ok(Some(lines)) => lines,
                Ok(None) => return drop(tokio::time::timeout(self.stall, pages.send(ExportPart::End)).await),
                Err(error) => {
                    tracing::warn!(error = %error.in_full(), "export aborted");
                    return;
                }
            };
        }
    }

    /// The lines of the next page; `None` after the last one.
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(start) = self.next.take() else { return Ok(None) };
        let between = self.filter.days.map(|days| self.calendar.bounds(days));
        let records = self.store.records(&self.filter, between, &start, PAGE).await?;
        if records.len() == PAGE as usize {
            let last = records.last();
            self.next = last.map(|last| PageStart::After(Cursor { created_at: last.created_at, id: last.id.clone() }));
        }
        csv_of(records.iter().map(|record| cells(record, self.calendar.at(record.created_at).day))).map(Some)
    }
}

/// Lines of CSV. A reader of CSV gets the same texts back.
///
/// # Errors
/// [`Error::Internal`], which only a defect can cause.
pub fn csv_of<C: AsRef<[u8]>, const N: usize>(lines: impl Iterator<Item = [C; N]>) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::Internal(format!("writing CSV: {error}"));
    // Every text is quoted and unchanged, so that ids stay those of the API. A reader that trims
    // blanks, or splits at semicolons, reads the same ids.
    let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::NonNumeric).from_writer(Vec::new());
    for line in lines {
        writer.write_record(line).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| Error::Internal(format!("writing CSV: {error}")))
}

fn cells(record: &Record, day: NaiveDate) -> [String; COLUMNS.len()] {
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
        record.created_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
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
    ]
}
