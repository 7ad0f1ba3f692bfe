//! One stream from its reservation to its charge.

use std::{future::pending, pin::pin, time::Duration};

use chrono::TimeDelta;
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Comparison, Ended, Event, Finish, Meter, News, metered::Metered};
use crate::biz::{
    error::{Error, Invalid, Result},
    record::Usage,
    settlement::{
        engine::{Engine, Settled},
        posting::{Cause, Expire, RecordIds, Report, Reserve},
        transaction::Transaction,
    },
    tokens::{Encoding, StreamCounter},
};

/// Between two attempts to settle a stream that broke.
const PAUSE: Duration = Duration::from_secs(1);

impl Meter {
    /// A place for a stream.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when all are taken.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit> {
        let place = self.open.clone().try_acquire_owned();
        place.map_err(|_| Error::Overloaded("too many streams are open; retry later".into()))
    }

    /// Reserves, or finds the reservation of a stream that broke and takes it over.
    ///
    /// # Errors
    /// Those of a reserve, and [`Error::TransactionState`] where the reservation has ended.
    pub async fn open(&self, reserve: Reserve, place: OwnedSemaphorePermit) -> Result<Session> {
        let (stream, ttl) = (reserve.call.record_ids.main, reserve.ttl);
        // Before anything is held: the vocabulary may have to be built.
        let model = reserve.call.content.model.clone();
        let encoding = model.map_or_else(Encoding::default, |model| Encoding::of_model(model.as_str()));
        let counter = self.tokens.stream(encoding).await?;
        let (mut reservation, is_reopened) = self.engine.reserve(reserve).await?;
        if is_reopened {
            (reservation, _) = self.engine.report(take_over(&reservation, stream, ttl)).await?;
        }
        let metered = Metered::new(reservation);
        let (meter, counter) = (self.clone(), Some(counter));
        Ok(Session { meter, metered, counter, heard: Instant::now(), place, is_reopened })
    }
}

/// A stream that is open.
pub struct Session {
    meter: Meter,
    metered: Metered,
    /// Absent only while it counts.
    counter: Option<StreamCounter>,
    /// When the gateway was last heard of.
    heard: Instant,
    place: OwnedSemaphorePermit,
    is_reopened: bool,
}

/// What ends a stream.
enum End {
    Finish(Finish),
    Broken(Error),
    /// The reservation has ended, or has another stream.
    Gone(Error),
}

impl Session {
    /// As it was last committed.
    pub fn reservation(&self) -> &Transaction {
        self.metered.reservation()
    }

    /// Whether it takes the place of a stream that broke.
    pub fn is_reopened(&self) -> bool {
        self.is_reopened
    }

    /// Meters until the stream ends, and settles it. Tells `news` what the gateway should
    /// know; one that does not read is not waited for.
    pub async fn run(mut self, events: impl Stream<Item = Result<Event>> + Send, news: mpsc::Sender<News>) -> Ended {
        // A place for the last word, which must not get lost.
        let Ok(last) = news.clone().reserve_owned().await else { return self.settle_broken(None).await };
        let _ = news.try_send(News::Opened(Box::new(self.reservation().clone()), self.is_reopened));
        let end = self.meter(events, &news).await;
        drop(news);
        if let Err(error) = self.count_all().await {
            tracing::warn!(%error, trace_id = %self.reservation().trace, "the end of a stream was not counted");
        }
        match end {
            End::Finish(finish) => match self.finish(finish).await {
                Ok((transaction, replayed)) => {
                    last.send(News::Finished(Box::new(transaction.clone()), replayed));
                    let vendors = finish.usage.and_then(|usage| self.compare(usage, finish.hidden_output_tokens));
                    Ended { finished: Some(Ok((transaction, replayed))), compared: vendors, settled: None }
                }
                Err(error) => {
                    last.send(News::Failed(error.clone()));
                    // The outcome may be unknown; what can't be priced is not believed.
                    let _ = finish.usage.map(|usage| self.metered.told(usage));
                    self.settle_broken(Some(Err(error))).await
                }
            },
            End::Broken(error) => {
                last.send(News::Failed(error));
                self.settle_broken(None).await
            }
            End::Gone(error) => {
                last.send(News::Failed(error));
                Ended::default()
            }
        }
    }

    async fn meter(&mut self, events: impl Stream<Item = Result<Event>> + Send, news: &mpsc::Sender<News>) -> End {
        let Meter { settings, stop, .. } = self.meter.clone();
        let mut events = pin!(events);
        let mut reporting = Reporting::default();
        let mut owes_state = false;
        loop {
            let idle_at = self.heard + settings.idle_timeout;
            let next_report = self.metered.next_report(&settings).filter(|_| !reporting.is_on_its_way());
            tokio::select! {
                // What ends it first, then answers, then what comes: none of them starves
                // another, for a report is looked after in each round.
                biased;
                () = stop.cancelled() => {
                    return End::Broken(Error::Overloaded("the server is stopping; open the stream again".into()));
                }
                () = news.closed() => return End::Broken(Error::Overloaded("the gateway has gone".into())),
                (asked, settled) = reporting.done() => {
                    if let Err(error) = self.metered.reported(asked, settled.map(|(transaction, _)| transaction)) {
                        return End::Gone(error);
                    }
                    owes_state = true;
                }
                Ok(place) = news.reserve(), if owes_state => {
                    place.send(News::State(self.metered.state()));
                    owes_state = false;
                }
                event = events.next() => {
                    self.heard = Instant::now();
                    owes_state = true;
                    match event {
                        Some(Ok(Event::Output(chunk))) => {
                            if let Err(error) = self.count(chunk).await {
                                return End::Broken(error);
                            }
                        }
                        Some(Ok(Event::Heartbeat(told))) => {
                            if let Err(error) = told.map_or(Ok(()), |usage| self.metered.told(usage)) {
                                return End::Broken(error);
                            }
                        }
                        Some(Ok(Event::Finish(finish))) => return End::Finish(finish),
                        Some(Err(error)) => return End::Broken(error),
                        None => return End::Broken(Invalid::new("event", "the stream ended without finish").into()),
                    }
                }
                () = sleep_until(next_report.unwrap_or(idle_at).min(idle_at)) => {
                    if self.heard + settings.idle_timeout <= Instant::now() {
                        return End::Broken(Invalid::new("event", "nothing came for too long; send heartbeats").into());
                    }
                }
            }
            if !reporting.is_on_its_way()
                && let Some(report) = self.metered.due_report(Instant::now(), &settings)
            {
                reporting.send(&self.meter.engine, report);
            }
        }
    }

    async fn count(&mut self, chunk: Vec<u8>) -> Result<()> {
        let counter = self.counter.take().ok_or_else(|| Error::Internal("a stream lost its count".into()))?;
        let (counter, tokens) = self.meter.tokens.push(counter, chunk).await?;
        self.metered.counted(tokens);
        self.counter = Some(counter);
        Ok(())
    }

    /// Counts what no cut was found in yet, and a character that will never be complete.
    async fn count_all(&mut self) -> Result<()> {
        if let Some(counter) = self.counter.take() {
            let tokens = self.meter.tokens.finish(counter).await?;
            self.metered.counted(tokens);
        }
        Ok(())
    }

    async fn finish(&self, finish: Finish) -> Result<(Transaction, bool)> {
        self.meter.engine.commit(self.metered.commit(finish)).await
    }

    fn compare(&self, vendors: Usage, hidden_output_tokens: u32) -> Option<Comparison> {
        let model = self.reservation().content.model.as_ref();
        Comparison::new(model, self.metered.counted_output(), vendors, hidden_output_tokens)
    }

    /// Makes what was delivered durable at once, waits for the stream to be opened again,
    /// and charges it where it was not. What can't be settled until the hold expires, or until
    /// the process ends, is left to the sweep.
    async fn settle_broken(self, finished: Option<Result<(Transaction, bool)>>) -> Ended {
        let Session { meter, metered, place, .. } = self;
        let Meter { engine, settings, waiting, stop, .. } = &meter;
        drop(place);
        let deadline = Instant::now() + settings.ttl.to_std().unwrap_or_default();
        let left = Ended { finished, ..Ended::default() };
        // Where too many wait already there is no grace.
        let waits = waiting.try_acquire();
        if waits.is_ok() {
            let grace = TimeDelta::from_std(settings.grace).unwrap_or(settings.ttl);
            let report = metered.report(grace, None);
            if until_settled(stop, deadline, || engine.report(report.clone())).await.is_none()
                || stop.run_until_cancelled(sleep(settings.grace)).await.is_none()
            {
                return left;
            }
        }
        let Transaction { user, trace, record_id: stream, .. } = metered.reservation().clone();
        let cause = Cause::Broken { stream, usage: metered.delivered() };
        let expire = Expire { user, trace, cause, record_ids: RecordIds::fresh() };
        let settled = until_settled(stop, deadline, || engine.expire(expire.clone())).await;
        Ended { settled: settled.flatten(), ..left }
    }
}

/// The report that is on its way, if one is, with its target.
#[derive(Default)]
struct Reporting(Option<(Option<Usage>, BoxFuture<'static, Settled>)>);

impl Reporting {
    fn is_on_its_way(&self) -> bool {
        self.0.is_some()
    }

    fn send(&mut self, engine: &Engine, report: Report) {
        self.0 = Some((report.target, engine.report(report).boxed()));
    }

    /// Waits for ever where none is on its way.
    async fn done(&mut self) -> (Option<Usage>, Settled) {
        let Some((target, settled)) = &mut self.0 else { return pending().await };
        let done = (*target, settled.await);
        self.0 = None;
        done
    }
}

/// Tries again while the database does not answer; `None` when that was to no avail, or
/// refused.
async fn until_settled<T, F: Future<Output = Result<T>>>(
    stop: &CancellationToken,
    deadline: Instant,
    attempt: impl Fn() -> F,
) -> Option<T> {
    loop {
        match attempt().await {
            Ok(done) => return Some(done),
            Err(Error::Overloaded(_)) if !stop.is_cancelled() && Instant::now() + PAUSE < deadline => {
                stop.run_until_cancelled(sleep(PAUSE)).await;
            }
            // Ended, or taken over.
            Err(Error::TransactionState(_) | Error::TransactionNotFound(_)) => return None,
            Err(error) => {
                tracing::warn!(%error, "a stream that broke is left to the sweep");
                return None;
            }
        }
    }
}

fn take_over(reservation: &Transaction, stream: Uuid, ttl: TimeDelta) -> Report {
    Report {
        user: reservation.user.clone(),
        trace: reservation.trace.clone(),
        stream,
        takes_over: true,
        usage: None,
        target: None,
        ttl,
    }
}
