//! One stream from its reservation to its charge.

use std::{
    future::pending,
    pin::{Pin, pin},
    time::Duration,
};

use chrono::TimeDelta;
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        mpsc::{self, OwnedPermit},
    },
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{
    Comparison, Ended, Event, Finish, Meter, Update,
    disconnect::{settle_broken, until_settled},
    metered::Metered,
};
use crate::biz::{
    metering::tokens::{Encoding, StreamCounter},
    reports::record::Usage,
    settlement::{
        engine::{Engine, Reported, Settled},
        posting::{Report, Reserve},
        transaction::Transaction,
    },
    values::error::{Error, Invalid, Result},
};

/// What comes of a stream.
type Events<'e> = Pin<&'e mut (dyn Stream<Item = Result<Event>> + Send)>;

impl Meter {
    /// A place for a stream.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when all are taken.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = self.open.clone().try_acquire_owned();
        permit.map_err(|_| Error::Overloaded("too many streams are open; retry later".into()))
    }

    /// What `work` comes to, unless the process is to stop.
    ///
    /// # Errors
    /// [`Error::Overloaded`].
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.stop.run_until_cancelled(work).await.ok_or_else(stopping)
    }

    /// Reserves, or finds the reservation of a stream that broke and takes it over.
    ///
    /// # Errors
    /// Those of a reserve, and [`Error::TransactionState`] where the reservation has ended.
    pub async fn open(&self, reserve: Reserve, permit: OwnedSemaphorePermit) -> Result<Session> {
        let (stream, ttl) = (reserve.call.record_ids.main, reserve.ttl);
        // Before anything is held: the vocabulary may have to be built.
        let counter = self.tokens.stream(Encoding::of(reserve.call.content.model.as_ref())).await?;
        let (mut reservation, effect) = self.engine.reserve(reserve).await?;
        let is_reopened = effect.is_repeat();
        if is_reopened {
            (reservation, _) = self.engine.report(take_over(&reservation, stream, ttl)).await?;
        }
        let metered = Metered::new(reservation);
        let (meter, counter) = (self.clone(), Some(counter));
        Ok(Session { meter, metered, counter, heard: Instant::now(), permit, is_reopened })
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
    permit: OwnedSemaphorePermit,
    is_reopened: bool,
}

/// What can still be read of a stream that broke or must stop: bytes of output, and messages.
const MAX_LEFT: usize = 1024 * 1024;
const MAX_LEFT_MESSAGES: usize = 10_000;
/// No stream lives longer, however often its gateway says that it does.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3_600);

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
    pub async fn run(
        mut self,
        events: impl Stream<Item = Result<Event>> + Send,
        updates: mpsc::Sender<Update>,
    ) -> Ended {
        // A place for the last word, which must not get lost where anybody listens.
        let last = LastWord(updates.clone().reserve_owned().await.ok());
        let _ = updates.try_send(Update::Opened(Box::new(self.reservation().clone()), self.is_reopened));
        let mut events = pin!(events.fuse());
        let end = match self.listen(events.as_mut(), &updates).await {
            End::Broken(error) => self.read_on(events, error).await,
            end => end,
        };
        drop(updates);
        if let Err(error) = self.count_all().await {
            tracing::warn!(%error, trace_id = %self.reservation().trace, "the end of a stream was not counted");
        }
        match end {
            End::Finish(finish) => self.finish(finish, last).await,
            End::Broken(error) => {
                last.send(Update::Failed(error));
                self.broke(None).await
            }
            End::Gone(error) => {
                last.send(Update::Failed(error));
                Ended::default()
            }
        }
    }

    async fn listen(&mut self, mut events: Events<'_>, updates: &mpsc::Sender<Update>) -> End {
        let Meter { settings, stop, .. } = self.meter.clone();
        let mut reporting = Reporting::default();
        let (mut owes_state, ends_at) = (false, Instant::now() + LONGEST_LIFE);
        loop {
            let idle_at = (self.heard + settings.idle_timeout).min(ends_at);
            let next_report = self.metered.next_report(&settings).filter(|_| !reporting.is_on_its_way());
            tokio::select! {
                // What ends it first, then answers, then what comes: none of them starves
                // another, for a report is looked after in each round.
                biased;
                () = stop.cancelled() => return End::Broken(stopping()),
                () = updates.closed() => return End::Broken(Error::Overloaded("the gateway has gone".into())),
                (asked, settled) = reporting.done() => {
                    if let Err(error) = self.metered.set_reported(asked, settled) {
                        return if self.metered.is_gone() { End::Gone(error) } else { End::Broken(error) };
                    }
                    owes_state = true;
                }
                Ok(permit) = updates.reserve(), if owes_state => {
                    permit.send(Update::State(self.metered.state()));
                    owes_state = false;
                }
                event = events.next() => {
                    self.heard = Instant::now();
                    owes_state = true;
                    if let Some(end) = self.take(event).await {
                        return end;
                    }
                }
                () = sleep_until(next_report.unwrap_or(idle_at).min(idle_at)) => {
                    if idle_at <= Instant::now() {
                        let why = "nothing came for too long, or it went on for a day; send heartbeats, and finish";
                        return End::Broken(Invalid::new("event", why).into());
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

    /// Takes what came of the stream; tells whether that ends it.
    async fn take(&mut self, event: Option<Result<Event>>) -> Option<End> {
        let taken = match event {
            Some(Ok(Event::Output(chunk))) => self.count(chunk).await,
            Some(Ok(Event::Heartbeat(told))) => told.map_or(Ok(()), |usage| self.metered.set_upstream(usage)),
            Some(Ok(Event::Finish(finish))) => return Some(End::Finish(finish)),
            Some(Err(error)) => Err(error),
            None => Err(Invalid::new("event", "the stream ended without finish").into()),
        };
        taken.err().map(End::Broken)
    }

    /// What had come already when the stream broke was delivered too, and may even finish it.
    async fn read_on(&mut self, mut events: Events<'_>, error: Error) -> End {
        let mut left = MAX_LEFT;
        for _ in 0..MAX_LEFT_MESSAGES {
            let Some(Some(Ok(event))) = events.next().now_or_never() else { break };
            if let Event::Output(chunk) = &event {
                let Some(less) = left.checked_sub(chunk.len()) else { break };
                left = less;
            }
            if let Some(end) = self.take(Some(Ok(event))).await {
                return end;
            }
        }
        End::Broken(error)
    }

    async fn count(&mut self, chunk: Vec<u8>) -> Result<()> {
        let counter = self.counter.take().ok_or_else(|| Error::Internal("a stream lost its count".into()))?;
        let (counter, tokens) = self.meter.tokens.push(counter, chunk).await?;
        self.metered.set_counted(tokens);
        self.counter = Some(counter);
        Ok(())
    }

    /// Counts what no cut was found in yet, and a character that will never be complete.
    async fn count_all(&mut self) -> Result<()> {
        if let Some(counter) = self.counter.take() {
            let tokens = self.meter.tokens.finish(counter).await?;
            self.metered.set_counted(tokens);
        }
        Ok(())
    }

    /// Charges as the gateway says. While the outcome is unknown the very same is asked again,
    /// though the gateway is told at once: it was its last word.
    async fn finish(self, finish: Finish, last: LastWord) -> Ended {
        let engine = &self.meter.engine;
        let commit = self.metered.commit(finish);
        let mut settled = engine.commit(commit.clone()).await;
        match &settled {
            Ok((transaction, effect)) => {
                last.send(Update::Finished(Box::new(transaction.clone()), effect.is_repeat()));
            }
            Err(error) => {
                last.send(Update::Failed(error.clone()));
                if matches!(error, Error::Overloaded(_)) {
                    let Meter { stop, .. } = &self.meter;
                    let again = until_settled(stop, engine.closed(), || engine.commit(commit.clone())).await;
                    settled = again.map_or(settled, Ok);
                }
            }
        }
        match settled {
            Ok(_) => Ended { finished: Some(settled), compared: self.compare(finish), settled: None },
            // What it asked can't be charged: then what was counted is.
            Err(_) => self.broke(Some(settled)).await,
        }
    }

    /// Gives its place to others, and is settled.
    async fn broke(self, finished: Option<Settled>) -> Ended {
        let Session { meter, metered, permit, .. } = self;
        drop(permit);
        Ended { finished, settled: settle_broken(&meter, &metered).await, compared: None }
    }

    fn compare(&self, finish: Finish) -> Option<Comparison> {
        let model = self.reservation().content.model.as_ref();
        Comparison::new(model, self.metered.comparable()?, finish.usage?, finish.hidden_output_tokens)
    }
}

/// The report that is on its way, if one is, with its target.
#[derive(Default)]
struct Reporting(Option<(Option<Usage>, BoxFuture<'static, Reported>)>);

impl Reporting {
    fn is_on_its_way(&self) -> bool {
        self.0.is_some()
    }

    fn send(&mut self, engine: &Engine, report: Report) {
        self.0 = Some((report.target, engine.report(report).boxed()));
    }

    /// Waits for ever where none is on its way.
    async fn done(&mut self) -> (Option<Usage>, Reported) {
        let Some((target, settled)) = &mut self.0 else { return pending().await };
        let done = (*target, settled.await);
        self.0 = None;
        done
    }
}

/// The place for what a stream is told last, unless its gateway has gone.
struct LastWord(Option<OwnedPermit<Update>>);

impl LastWord {
    fn send(self, update: Update) {
        if let Some(permit) = self.0 {
            permit.send(update);
        }
    }
}

fn stopping() -> Error {
    Error::Overloaded("the server is stopping; open the stream again".into())
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
