//! Exports as CSV. Pages are read as the caller receives them, so the memory does not depend on the
//! length.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    biz::{
        limits::shares::{Share, Shares},
        values::{
            error::{Error, Result},
            ids::UserId,
        },
    },
    context,
};

/// Rows that are read at once.
pub const PAGE: u32 = 5_000;
/// Deadline of an export.
pub const LIMIT: Duration = Duration::from_secs(600);

/// The bounds of exports: more would delay the other readers of the database.
#[derive(Debug, Clone, Copy)]
pub struct ExportLimits {
    /// Most exports at once.
    pub exports: usize,
    /// Most exports of one user at once, and most exports of all users at once.
    pub per_user: usize,
    /// Longest time in which a reader takes nothing.
    pub stall: Duration,
}

/// Admits exports.
pub struct Exports {
    permits: Arc<Semaphore>,
    /// `None` is the key of exports of all users.
    of_user: Arc<Shares<Option<UserId>>>,
    stall: Duration,
}

/// The permit of an export.
pub struct ExportPermit {
    _permit: OwnedSemaphorePermit,
    _share: Share<Option<UserId>>,
    stall: Duration,
}

impl Exports {
    pub fn new(limits: ExportLimits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.exports));
        Self { permits, of_user: Shares::new(limits.per_user), stall: limits.stall }
    }

    /// A permit for an export of one user, or of all users.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if too many exports run.
    pub fn admit(&self, user: Option<&UserId>) -> Result<ExportPermit> {
        let share = self.of_user.take(&user.cloned());
        let whose = if user.is_some() { "this user" } else { "all users" };
        let share = share
            .ok_or_else(|| Error::Overloaded(format!("too many exports of {whose} at once; retry later").into()))?;
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::Overloaded("too many exports at once; retry later".into()))?;
        Ok(ExportPermit { _permit: permit, _share: share, stall: self.stall })
    }
}

/// The lines of an export, page by page.
#[async_trait]
pub trait Pages: Send + 'static {
    /// The lines of the next page, which may be none; `None` after the last page. Each call reads a
    /// bounded number of rows.
    ///
    /// # Errors
    /// Those of the store.
    async fn page(&mut self) -> Result<Option<Vec<u8>>>;
}

/// A part of an export.
enum ExportPart {
    Lines(Bytes),
    End,
}

/// Streams the names of the columns and all pages. The first page is read before this returns. A later
/// failure aborts the stream.
///
/// # Errors
/// Those of the first page.
pub async fn stream_csv<P: Pages>(
    mut pages: P,
    columns: &[&str],
    permit: ExportPermit,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<P>> {
    let mut first = header(columns);
    first.extend(pages.page().await?.unwrap_or_default());
    Ok(stream_parts(first, pages, permit))
}

/// As [`stream_csv`], for an export whose first page may take long: the names of the columns are sent at
/// once. A failure of the first page aborts the stream too.
pub fn stream_csv_at_once<P: Pages>(
    pages: P,
    columns: &[&str],
    permit: ExportPermit,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<P> {
    stream_parts(header(columns), pages, permit)
}

fn header(columns: &[&str]) -> Vec<u8> {
    format!("{}\n", columns.join(",")).into_bytes()
}

fn stream_parts<P: Pages>(
    first: Vec<u8>,
    mut pages: P,
    permit: ExportPermit,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<P> {
    let (sender, taken) = mpsc::channel(1);
    let sending = async move {
        // A caller that reads very slowly must not keep the permit.
        if tokio::time::timeout(LIMIT, send(&mut pages, first, &sender, permit.stall)).await.is_err() {
            tracing::warn!("export timed out; stream aborted");
        }
        drop(permit);
    };
    tokio::spawn(context::carry(sending));
    stream::unfold(Some(taken), async |taken| {
        let mut taken = taken?;
        match taken.recv().await {
            Some(ExportPart::Lines(lines)) => Some((Ok(lines), Some(taken))),
            Some(ExportPart::End) => None,
            // A truncated file must not look complete.
            None => Some((Err(io::Error::other("the export was aborted")), None)),
        }
    })
}

/// Sends `first`, and then each page when the caller takes it. After a failure, or if the caller has
/// gone, it sends no end.
async fn send(pages: &mut impl Pages, first: Vec<u8>, parts: &mpsc::Sender<ExportPart>, stall: Duration) {
    let mut lines = first;
    loop {
        // Pages without a matching row send nothing, but notice a caller that has gone.
        if lines.is_empty() {
            if parts.is_closed() {
                return;
            }
        } else {
            match tokio::time::timeout(stall, parts.send(ExportPart::Lines(lines.into()))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::warn!("export stalled: reader took no data; stream aborted");
                    return;
                }
            }
        }
        // A page may take minutes to read. A caller that has gone must not keep the permit so long. Pages whose query
        // goes on then bound those queries themselves.
        let page = tokio::select! {
            page = pages.page() => page,
            () = parts.closed() => return,
        };
        lines = match page {
            Ok(Some(lines)) => lines,
            Ok(None) => return drop(tokio::time::timeout(stall, parts.send(ExportPart::End)).await),
            Err(error) => {
                tracing::warn!(error = %error.in_full(), "export aborted");
                return;
            }
        };
    }
}

/// Lines of CSV. A reader of CSV gets the same texts back.
///
/// # Errors
/// [`Error::Internal`], which only a defect can cause.
pub fn csv_of<C: AsRef<[u8]>, L: IntoIterator<Item = C>>(lines: impl Iterator<Item = L>) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::Internal(format!("writing CSV: {error}"));
    // Every text is quoted and unchanged, so that ids stay those of the API. A reader that trims
    // blanks, or splits at semicolons, reads the same ids.
    let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::NonNumeric).from_writer(Vec::new());
    for line in lines {
        writer.write_record(line).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| Error::Internal(format!("writing CSV: {error}")))
}

/// A time in UTC, in microseconds, as it is stored.
pub fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    /// Pages that never come, or fail.
    struct Without(Option<Error>);

    #[async_trait]
    impl Pages for Without {
        async fn page(&mut self) -> Result<Option<Vec<u8>>> {
            match self.0.take() {
                Some(error) => Err(error),
                None => std::future::pending().await,
            }
        }
    }

    fn permit() -> ExportPermit {
        let stall = Duration::from_secs(30);
        Exports::new(ExportLimits { exports: 1, per_user: 1, stall }).admit(None).unwrap()
    }

    #[tokio::test]
    async fn the_columns_are_sent_before_the_first_page() {
        let mut lines = std::pin::pin!(stream_csv_at_once(Without(None), &["a", "b"], permit()));
        assert_eq!(lines.next().await.unwrap().unwrap(), "a,b\n");
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_frees_its_permit_while_a_page_is_read() {
        let stall = Duration::from_secs(30);
        let exports = Exports::new(ExportLimits { exports: 1, per_user: 1, stall });
        let mut lines = Box::pin(stream_csv_at_once(Without(None), &["a"], exports.admit(None).unwrap()));
        lines.next().await.unwrap().unwrap();
        assert!(exports.admit(None).is_err());
        drop(lines);
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(exports.admit(None).is_ok());
    }

    #[tokio::test]
    async fn a_file_whose_first_page_fails_does_not_look_complete() {
        let failing = Without(Some(Error::Internal("no page".into())));
        let lines: Vec<_> = stream_csv_at_once(failing, &["a"], permit()).collect().await;
        assert_eq!(lines.len(), 2);
        assert!(lines[0].is_ok() && lines[1].is_err(), "{lines:?}");
    }
}
