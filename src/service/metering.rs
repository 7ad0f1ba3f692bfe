//! MeterStream: converts the messages of a stream to events, and its state to replies.

use std::{future::ready, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tonic::{Response, Streaming};

use super::{
    call::CallParser,
    charge::outcome,
    convert::{cost, count, int32, service_tier, tokens, usage},
    errors::{self, Paced},
    gen_ai,
    proto::{
        self, MeterStreamReply, MeterStreamRequest, ReserveQuotaRequest, StreamFinish, StreamState,
        meter_stream_reply::Event as Reply, meter_stream_request::Event as Message,
    },
    request::RequestId,
    reservation::{commit_reply, reserve_reply},
};
use crate::{
    biz::{
        limits::{
            rate_limit::RateGuard,
            shares::{Share, Shares},
        },
        metering::{Ended, Event, Finish, Meter, MeterState, Session, Update},
        settlement::{
            posting::Reserve,
            transaction::{Status, TransactionStore},
        },
        values::{
            error::{Error, Result},
            invalid::Invalid,
            usage::Usage,
        },
    },
    context,
    metrics::{ChargeObserver, Operation},
};

/// Latest deadline of the first message of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Streams that begin together end at deadlines that differ by up to this time.
const OPEN_SPREAD: Duration = Duration::from_millis(500);
/// Most replies that wait for a slow gateway. Beyond them only the newest state is sent.
const REPLIES: usize = 8;

/// The replies of one stream.
pub type Replies = Pin<Box<dyn Stream<Item = std::result::Result<MeterStreamReply, tonic::Status>> + Send>>;

/// Meters streams.
pub struct StreamService {
    pub calls: Arc<CallParser>,
    pub rates: Arc<RateGuard>,
    pub meter: Meter,
    pub transactions: Arc<dyn TransactionStore>,
    pub observer: ChargeObserver,
    /// Streams that go on when their callers go away.
    pub tasks: TaskTracker,
    /// A permit for each stream whose first message has not come.
    pub unopened: Arc<Semaphore>,
    /// The shares of each caller in these permits, and in the open streams.
    pub unopened_of_caller: Arc<Shares<Arc<str>>>,
    pub open_of_caller: Arc<Shares<Arc<str>>>,
}

/// The permits of a stream whose first message has not come.
struct Unopened {
    _one_of_all: OwnedSemaphorePermit,
    _of_caller: Share<Arc<str>>,
}

impl StreamService {
    /// Meters a stream in a task of its own, which goes on when the caller goes away. `fill` completes
    /// the opening message; `request_id` names the request if the stream fails.
    pub fn meter_stream(
        self: &Arc<Self>,
        mut messages: Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()> + Send + 'static,
        caller: Arc<str>,
        request_id: RequestId,
    ) -> Response<Replies> {
        // A stream that says nothing takes no place of those that are metered, and a refused one takes no task.
        let unopened = match self.admit_unopened(&caller) {
            Ok(unopened) => unopened,
            Err(error) => return self.refuse(&error, &request_id),
        };
        let (updates, replies) = mpsc::channel(REPLIES);
        let (service, opening_id) = (self.clone(), request_id.clone());
        let metering = async move {
            match service.open_stream(&mut messages, fill, (&caller, unopened), &opening_id).await {
                Ok((session, share)) => {
                    let open = service.observer.open_stream();
                    let ended = session.run(events(messages, service.calls.clone()), updates).await;
                    service.count_stream(ended);
                    drop((open, share));
                }
                // This is the first update, so there is room for it.
                Err(error) => drop(updates.try_send(Update::Failed(error))),
            }
        };
        self.tasks.spawn(context::carry(metering));
        let replies =
            stream::unfold(replies, async |mut replies: mpsc::Receiver<Update>| Some((replies.recv().await?, replies)));
        // Replies are built while the body is written, outside the task of the request.
        let request = context::current();
        let failed = move |error| {
            let log = || errors::log(&error, &request_id);
            match &request {
                Some(request) => context::within(request, log),
                None => log(),
            }
            errors::status(&error, &request_id)
        };
        Response::new(replies.map(move |update| reply(update).map_err(&failed)).boxed())
    }

    /// The permits of a stream that begins.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if too many streams wait for their first message, or as many are open as may be. A
    /// stream takes its place among the open ones with its first message.
    fn admit_unopened(&self, caller: &Arc<str>) -> Result<Unopened> {
        self.meter.check_room()?;
        if !self.open_of_caller.has_left(caller) {
            return Err(too_many_of_caller());
        }
        let of_caller = self.unopened_of_caller.take(caller);
        let one_of_all = self.unopened.clone().try_acquire_owned().ok();
        let permits = of_caller.zip(one_of_all);
        let (of_caller, one_of_all) =
            permits.ok_or_else(|| Error::Overloaded("too many streams wait for their open; retry later".into()))?;
        Ok(Unopened { _one_of_all: one_of_all, _of_caller: of_caller })
    }

    /// The answer to a stream that is refused at once, for a bound of all callers or of one.
    fn refuse(&self, error: &Error, request_id: &RequestId) -> Response<Replies> {
        self.observer.count_reserve(Err(errors::failure(error)));
        let refused: Replies = stream::once(ready(Err(errors::status(error, request_id)))).boxed();
        let mut response = Response::new(refused);
        response.extensions_mut().insert(Paced);
        response
    }

    async fn open_stream(
        &self,
        messages: &mut Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()>,
        admitted: (&Arc<str>, Unopened),
        request_id: &RequestId,
    ) -> Result<(Session, Share<Arc<str>>)> {
        let opened = self.try_open_stream(messages, fill, admitted, request_id).await;
        let is_reopened = opened.as_ref().map(|(session, _)| session.is_reopened());
        self.observer.count_reserve(is_reopened.map_err(errors::failure));
        opened
    }

    async fn try_open_stream(
        &self,
        messages: &mut Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()>,
        (caller, unopened): (&Arc<str>, Unopened),
        request_id: &RequestId,
    ) -> Result<(Session, Share<Arc<str>>)> {
        let is_first = || Invalid::new("open", "must come first, and soon");
        let first = self.meter.unless_stopped(timeout(open_timeout(), messages.message())).await?;
        let Ok(Ok(Some(MeterStreamRequest { event: Some(Message::Open(mut open)) }))) = first else {
            return Err(is_first().into());
        };
        drop(unopened);
        let of_caller = self.open_of_caller.take(caller).ok_or_else(too_many_of_caller)?;
        let permit = self.meter.admit()?;
        let in_flight = self.observer.begin(Operation::Reserve);
        let opened = match fill(&mut open).and_then(|()| self.calls.reserve(open)) {
            Ok(reserve) => {
                request_id.note_trace_id(&reserve.call.trace);
                self.reserve_stream(reserve, permit).await
            }
            Err(error) => Err(error),
        };
        in_flight.end();
        opened.map(|session| (session, of_caller))
    }

    async fn reserve_stream(&self, reserve: Reserve, permit: OwnedSemaphorePermit) -> Result<Session> {
        let call = &reserve.call;
        if let Err(refusal) = self.rates.take(&call.user, call.content.api_key.as_ref()).await {
            // A reopened stream was admitted before, and its delivery goes on unmetered while it waits.
            let found = self.transactions.transaction(&call.user, &call.trace).await?;
            if found.is_none_or(|found| found.status != Status::Pending) {
                return Err(refusal);
            }
        }
        self.meter.open(reserve, permit).await
    }

    fn count_stream(&self, ended: Ended) {
        if let Some(finished) = &ended.finished {
            if let Ok((transaction, effect)) = finished {
                let usage = transaction.reservation.as_ref().and_then(|reservation| reservation.usage());
                gen_ai::note_served(transaction.served_model(), usage);
                context::note_replayed(effect.is_repeat());
            }
            self.observer.count_commit(outcome(finished));
        }
        if let Some((settled, effect)) = &ended.settled {
            self.observer.count_ended(settled, *effect);
        }
        if let Some(compared) = ended.compared {
            self.observer.count_comparison(compared);
        }
    }
}

fn open_timeout() -> Duration {
    OPEN_TIMEOUT - OPEN_SPREAD.mul_f64(fastrand::f64())
}

fn too_many_of_caller() -> Error {
    Error::Overloaded("too many streams of this caller are open; retry later".into())
}

/// The events of the messages. Readers stop at the first error.
fn events(messages: Streaming<MeterStreamRequest>, calls: Arc<CallParser>) -> impl Stream<Item = Result<Event>> + Send {
    stream::unfold((messages, calls), async |(mut messages, calls)| match messages.message().await {
        Ok(Some(message)) => Some((event(message.event, &calls), (messages, calls))),
        Ok(None) => None,
        // The message is too large or can't be decoded, or the connection broke.
        Err(status) => Some((Err(Invalid::new("event", status.message()).into()), (messages, calls))),
    })
}

fn event(message: Option<Message>, calls: &CallParser) -> Result<Event> {
    match message {
        Some(Message::Output(output)) => Ok(Event::Output(output)),
        Some(Message::Heartbeat(heartbeat)) => Ok(Event::Heartbeat(vendor_usage(heartbeat.usage)?)),
        Some(Message::Finish(finish)) => parse_finish(finish, calls).map(Event::Finish),
        Some(Message::Open(_)) => Err(Invalid::new("open", "must come once").into()),
        None => Err(Invalid::new("event", "is none that this server knows").into()),
    }
}

/// The usage that the vendor counted. Zero tokens count as no usage.
fn vendor_usage(counted: Option<proto::Usage>) -> Result<Option<Usage>> {
    Ok(usage(counted)?.filter(|usage| !usage.is_empty()))
}

fn parse_finish(finish: StreamFinish, calls: &CallParser) -> Result<Finish> {
    Ok(Finish {
        usage: vendor_usage(finish.usage)?,
        cost: cost("cost", finish.cost)?,
        count: finish.count.map(count).transpose()?,
        hidden_output_tokens: tokens("hidden_output_tokens", finish.hidden_output_tokens)?,
        service_tier: service_tier(&finish.service_tier)?,
        served: calls.served(&finish.model)?,
    })
}

fn reply(update: Update) -> Result<MeterStreamReply> {
    let event = match update {
        Update::Opened(transaction, replayed) => Reply::Opened(reserve_reply(&transaction, replayed)),
        Update::State(state) => Reply::State(state_reply(state)),
        Update::Finished(transaction, replayed) => Reply::Finished(commit_reply(&transaction, replayed)),
        Update::Failed(error) => return Err(error),
    };
    Ok(MeterStreamReply { event: Some(event) })
}

fn state_reply(state: MeterState) -> StreamState {
    StreamState {
        output_tokens: int32(state.output_tokens),
        durable_output_tokens: int32(state.durable_output_tokens),
        cost: state.amount.to_wire(),
        held: state.held.to_wire(),
        stop: state.stop,
    }
}
