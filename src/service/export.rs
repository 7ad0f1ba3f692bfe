//! The export of consumption records as CSV: read page by page as the caller takes it, so
//! that its length costs no memory.

use std::{io, sync::Arc, time::Duration};

use axum::body::Bytes;
use futures_util::{Stream, stream};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{Api, proto::ListRecordsRequest};
use crate::biz::{
    error::{Error, Invalid, Result},
    paging::{Cursor, PageStart},
    record::{Record, RecordFilter, RecordType},
};

/// Exports at once; more would take the database from those who wait for it.
pub const MAX_EXPORTS: usize = 8;
/// Records that are read at once.
const PAGE: u32 = 5_000;
/// How long an export may take.
const LIMIT: Duration = Duration::from_secs(600);

const COLUMNS: [&str; 12] = [
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
];

/// An export under way.
struct Export {
    api: Arc<Api>,
    filter: RecordFilter,
    /// Where the next page begins; `None` at the end.
    next: Option<PageStart>,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
}

impl Api {
    /// All records that the request's filters let through, newest first, with a line of
    /// column names. The first page is read before this returns.
    ///
    /// # Errors
    /// As [`Api::list_records`]; [`Error::Overloaded`] where too many export at once. What
    /// fails later breaks the stream off.
    pub async fn export_records(
        self: &Arc<Self>,
        request: ListRecordsRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        if request.page != 0 || request.page_size != 0 || !request.page_token.is_empty() {
            return Err(Invalid::new("page", "is of no use here: an export has all records").into());
        }
        let place = self.exports.clone().try_acquire_owned();
        let place = place.map_err(|_| Error::Overloaded("too many exports at once; retry later".into()))?;
        let mut export = Export {
            api: self.clone(),
            filter: self.record_filter(&request)?,
            next: Some(PageStart::Offset(0)),
            deadline: Instant::now() + LIMIT,
            _place: place,
        };
        let mut first = csv_of([COLUMNS].into_iter())?;
        first.extend(export.page().await?.unwrap_or_default());
        let rest = stream::try_unfold((Some(Bytes::from(first)), export), async |(first, mut export)| {
            if let Some(first) = first {
                return Ok(Some((first, (None, export))));
            }
            let page = export.page().await.map_err(|error| {
                tracing::warn!(%error, "an export was broken off");
                io::Error::other("the export was broken off")
            })?;
            Ok(page.map(|page| (Bytes::from(page), (None, export))))
        });
        Ok(rest)
    }
}

impl Export {
    /// The lines of the next page; `None` behind the last.
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(start) = self.next.take() else { return Ok(None) };
        let between = self.filter.days.map(|days| self.api.calendar.bounds(days));
        let read = self.api.records.records(&self.filter, between, &start, PAGE);
        let records = timeout_at(self.deadline, read)
            .await
            .map_err(|_| Error::Overloaded("the export took too long; ask for fewer days".into()))??;
        if records.len() == PAGE as usize {
            let last = records.last();
            self.next = last.map(|last| PageStart::After(Cursor { created_at: last.created_at, id: last.id.clone() }));
        }
        csv_of(records.iter().map(cells)).map(Some)
    }
}

fn csv_of<C: AsRef<[u8]>, const N: usize>(lines: impl Iterator<Item = [C; N]>) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::Internal(format!("writing CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        writer.write_record(line).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| Error::Internal(format!("writing CSV: {error}")))
}

fn cells(record: &Record) -> [String; COLUMNS.len()] {
    let usage = record.usage.unwrap_or_default();
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let kind = match record.kind {
        RecordType::Free => "free",
        RecordType::Balance => "balance",
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
    ]
}
