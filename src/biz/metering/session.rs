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
    metered::{Metered, Sent},
};
use crate::biz::{
    metering::tokens::{Encoding, Patience, StreamCounter},
    settlement::{
        engine::{Engine, Reported, Settled},
        posting::{Report, Reserve},
        transaction::Transaction,
    },
    values::{
        error::{Error, Result},
        ids::ModelName,
        invalid::Invalid,
        usage::Usage,
    },
};

/// The messages of a stream.
type Events<'e> = Pin<&'e mut (dyn Stream<Item = Result<Event>> + Send)>;

impl Meter {
    /// A permit for a stream.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if too many streams are open.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit> {
        self.open.clone().try_acquire_owned().map_err(|_| too_many())
    }

    /// Checks that a stream could get a permit now.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if too many streams are open.
    pub fn check_room(&self) -> Result<()> {
        if self.open.available_permits() > 0 { Ok(()) } else { Err(too_many()) }
    }

    /// The result of `work`, unless the process is asked to stop.
    ///
    /// # Errors
    /// [`Error::Overloaded`].
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.stop.run_until_cancelled(work).await.ok_or_else(stopping)
    }

    /// Opens a stream: makes its reservation, or takes over the reservation of a broken stream.
    ///
    /// # Errors
    /// The errors of a reserve, and [`Error::TransactionState`] if the reservation has ended.
    pub async fn open(&self, reserve: Reserve, permit: OwnedSemaphorePermit) -> Result<Session> {
        let (stream, ttl) = (reserve.call.record_ids.main, reserve.ttl);
        // Before the reserve, because building the vocabulary may fail or take long.
        let counter = self.tokens.stream(Encoding::of(reserve.call.content.model.as_ref())).await?;
        let (mut reservation, effect) = self.engine.reserve(reserve).await?;
        let is_reopened = effect.is_repeat();
        if is_reopened {
            (reservation, _) = self.engine.report(take_over(&reservation, stream, ttl)).await?;
        }
        let metered = Metered::new(reservation);
        let (meter, counter) = (self.clone(), Some(counter));
        Ok(Session { meter, metered, counter, last_message_at: Instant::now(), permit, is_reopened, is_left: false })
    }
}

/// An open stream.
pub struct Session {
    meter: Meter,
    metered: Metered,
    /// Absent only while a chunk is counted.
    counter: Option<StreamCounter>,
    /// The time of the gateway's last message.
    last_message_at: Instant,
    permit: OwnedSemaphorePermit,
    is_reopened: bool,
    /// Whether the gateway has gone.
    is_left: bool,
}

/// Limits of reading on after a stream broke: bytes of output, and messages.
const MAX_LEFT: usize = 1024 * 1024;
const MAX_LEFT_MESSAGES: usize = 10_000;
/// Longest life of a stream, also with heartbeats.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// The end of listening to a stream.
enum End {
    Finish(Finish),
    Broken(Error),
    /// The reservation has ended, or another stream took it over.
    Gone(Error),
}

impl Session {
    /// The reservation as last committed.
    pub fn reservation(&self) -> &Transaction {
        self.metered.reservation()
    }

    /// Whether this stream took over the reservation of a broken one.
    pub fn is_reopened(&self) -> bool {
        self.is_reopened
    }

    /// Meters the stream until it ends, and settles it. Sends messages for the gateway to
    /// `updates`, and does not wait for a gateway that does not read them.
    pub async fn run(
        mut self,
        events: impl Stream<Item = Result<Event>> + Send,
        updates: mpsc::Sender<Update>,
    ) -> Ended {
        // Room for the last message is reserved at the start, so that it can always be sent.
        let last = LastMessage(updates.clone().reserve_owned().await.ok());
        let _ = updates.try_send(Update::Opened(Box::new(self.reservation().clone()), self.is_reopened));
        let mut events = pin!(events.fuse());
        let end = match self.listen(events.as_mut(), &updates).await {
            End::Broken(error) => {
                self.is_left = updates.is_closed();
                self.read_on(events, error).await
            }
            end => end,
        };
        drop(updates);
        if let Err(error) = self.count_all().await {
            tracing::warn!(%error, trace_id = %self.reservation().trace, "end of a stream not counted");
        }
        match end {
            End::Finish(finish) => self.finish(finish, last).await,
            End::Broken(error) => {
                last.send(Update::Failed(error));
                self.end_broken(None).await
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
            let idle_at = (self.last_message_at + settings.idle_timeout).min(ends_at);
            let next_report = self.metered.next_report(&settings).filter(|_| !reporting.is_in_flight());
            tokio::select! {
                // In order: the end of the stream, replies, messages. No branch starves another,
                // because each round also checks whether a report is due.
                biased;
                () = stop.cancelled() => return End::Broken(stopping()),
                () = updates.closed() => return End::Broken(Error::Overloaded("the gateway has closed the stream; open it again".into())),
                (sent, settled) = reporting.done() => {
                    if let Err(error) = self.metered.set_reported(sent, settled) {
                        return if self.metered.is_gone() { End::Gone(error) } else { End::Broken(error) };
                    }
                    owes_state = true;
                }
                Ok(permit) = updates.reserve(), if owes_state => {
                    permit.send(Update::State(self.metered.state()));
                    owes_state = false;
                }
                event = events.next() => {
                    self.last_message_at = Instant::now();
                    owes_state = true;
                    if let Some(end) = self.take(event).await {
                        return end;
                    }
                }
                () = sleep_until(next_report.unwrap_or(idle_at).min(idle_at)) => {
                    if idle_at <= Instant::now() {
                        let why = "no message for too long, or open for a day; send heartbeats, and finish the stream";
                        return End::Broken(Invalid::new("event", why).into());
                    }
                }
            }
            if !reporting.is_in_flight()
                && let Some(report) = self.metered.due_report(Instant::now(), &settings)
            {
                reporting.send(&self.meter.engine, report);
            }
        }
    }

    /// Handles the next message. Returns the end of the stream, if the message ends it.
    async fn take(&mut self, event: Option<Result<Event>>) -> Option<End> {
        let taken = match event {
            Some(Ok(Event::Output(chunk))) => self.count(chunk).await,
            Some(Ok(Event::Heartbeat(usage))) => usage.map_or(Ok(()), |usage| self.metered.set_upstream(usage)),
            Some(Ok(Event::Finish(finish))) => return Some(End::Finish(finish)),
            Some(Err(error)) => Err(error),
            None => {
                Err(Invalid::new("event", "the stream ended without finish; open it again, and send finish").into())
            }
        };
        taken.err().map(End::Broken)
    }

    /// Handles the messages that had arrived when the stream broke: their output was delivered,
    /// and one of them may finish the stream.
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
        let counter =
            self.counter.take().ok_or_else(|| Error::Internal("the token counter of the stream is missing".into()))?;
        let (counter, tokens) = self.meter.tokens.push(counter, chunk, self.patience()).await?;
        self.metered.set_counted(tokens);
        self.counter = Some(counter);
        Ok(())
    }

    /// A gateway that went away leaves text behind, and perhaps many streams of it at once. Only a long
    /// text can be left out, and only while no core is free.
    fn patience(&self) -> Patience {
        if self.is_left { Patience::IfFree } else { Patience::Wait }
    }

    /// Counts the rest of the text, and an incomplete character at its end.
    async fn count_all(&mut self) -> Result<()> {
        if let Some(counter) = self.counter.take() {
            let tokens = self.meter.tokens.finish(counter, self.patience()).await?;
            self.metered.set_counted(tokens);
        }
        Ok(())
    }

    /// Commits with the gateway's finish. If the outcome is unknown, the gateway gets that error at
    /// once, and the same commit is retried, because the gateway sends no further message.
    async fn finish(self, finish: Finish, last: LastMessage) -> Ended {
        let engine = &self.meter.engine;
        let vendors = finish.usage.map(|usage| (usage, finish.hidden_output_tokens));
        let served = finish.served.as_ref().map(|served| served.model.clone());
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
            Ok(_) => Ended { finished: Some(settled), compared: self.compare(vendors, served), settled: None },
            // The finish was refused, so the counted tokens are charged.
            Err(_) => self.end_broken(Some(settled)).await,
        }
    }

    /// Frees the permit, and settles the stream as broken.
    async fn end_broken(self, finished: Option<Settled>) -> Ended {
        let Session { meter, metered, permit, .. } = self;
        drop(permit);
        Ended { finished, settled: settle_broken(&meter, &metered).await, compared: None }
    }

    /// Compares our count with the usage of the vendor and its hidden output tokens. The text was counted in
    /// the encoding of the reserved model, which may not be that of the one that served.
    fn compare(&self, vendors: Option<(Usage, u32)>, served: Option<ModelName>) -> Option<Comparison> {
        let reserved = self.reservation().content.model.as_ref();
        let model = served.as_ref().or(reserved);
        let (usage, hidden_output_tokens) = vendors.filter(|_| Encoding::of(model) == Encoding::of(reserved))?;
        Comparison::new(model, self.metered.comparable()?, usage, hidden_output_tokens)
    }
}

/// The report in flight, if any.
#[derive(Default)]
struct Reporting(Option<(Sent, BoxFuture<'static, Reported>)>);

impl Reporting {
    fn is_in_flight(&self) -> bool {
        self.0.is_some()
    }

    fn send(&mut self, engine: &Engine, report: Report) {
        let sent = Sent { target: report.target, stop: report.stop };
        self.0 = Some((sent, engine.report(report).boxed()));
    }

    /// Completes with the report in flight; never completes without one.
    async fn done(&mut self) -> (Sent, Reported) {
        let Some((sent, settled)) = &mut self.0 else { return pending().await };
        let done = (*sent, settled.await);
        self.0 = None;
        done
    }
}

/// Room for the last message to the gateway; `None` if the gateway has gone.
struct LastMessage(Option<OwnedPermit<Update>>);

impl LastMessage {
    fn send(self, update: Update) {
        if let Some(permit) = self.0 {
            permit.send(update);
        }
    }
}

fn too_many() -> Error {
    Error::Overloaded("too many streams are open; retry later".into())
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
        stop: None,
    }
}
