//! MeterStream: the messages of a stream into events, and what it comes to into replies.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tonic::Streaming;

use super::{
    Api,
    convert::{cost, count, int32, tokens, usage},
    proto::{
        self, MeterStreamReply, MeterStreamRequest, ReserveQuotaRequest, StreamFinish, StreamState,
        meter_stream_reply::Event as Reply, meter_stream_request::Event as Message,
    },
    reservation::{commit_reply, reserve_reply},
};
use crate::{
    biz::{
        metering::{Ended, Event, Finish, Session, State, Update},
        settlement::{
            posting::{Effect, Reserve},
            transaction::{Status, Transaction},
        },
        values::{
            error::{Error, Result},
            invalid::Invalid,
            usage,
        },
    },
    metrics::in_flight::{InFlight, Operation},
};

/// How long a stream may take to say what it is.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Replies that wait for a gateway to read them; beyond that the newest state stands for all.
const REPLIES: usize = 8;

/// The replies of one stream.
pub type Replies = Pin<Box<dyn Stream<Item = std::result::Result<MeterStreamReply, tonic::Status>> + Send>>;

impl Api {
    /// Meters a stream on its own, whatever becomes of its caller. `fill` completes the message
    /// that opens it.
    pub fn meter_stream(
        self: Arc<Self>,
        mut messages: Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()> + Send + 'static,
    ) -> Replies {
        let (updates, replies) = mpsc::channel(REPLIES);
        let api = self.clone();
        self.tasks.spawn(async move {
            match api.open_stream(&mut messages, fill).await {
                Ok(session) => {
                    let open = api.metrics.streams.open();
                    let ended = session.run(events(messages), updates).await;
                    api.count_stream(ended);
                    drop(open);
                }
                // The first news: there is room for it.
                Err(error) => drop(updates.try_send(Update::Failed(error))),
            }
        });
        let replies =
            stream::unfold(replies, async |mut replies: mpsc::Receiver<Update>| Some((replies.recv().await?, replies)));
        replies.map(reply).boxed()
    }

    async fn open_stream(
        &self,
        messages: &mut Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()>,
    ) -> Result<Session> {
        let opened = self.try_open_stream(messages, fill).await;
        self.count_reserve(opened.as_ref().map(Session::is_reopened));
        opened
    }

    async fn try_open_stream(
        &self,
        messages: &mut Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()>,
    ) -> Result<Session> {
        let place = self.meter.admit()?;
        let is_first = || Invalid::new("open", "must come first, and soon");
        let first = self.meter.unless_stopped(timeout(OPEN_TIMEOUT, messages.message())).await?;
        let Ok(Ok(Some(MeterStreamRequest { event: Some(Message::Open(mut open)) }))) = first else {
            return Err(is_first().into());
        };
        let in_flight = InFlight::begin(&self.metrics, Operation::Reserve);
        let opened = match fill(&mut open).and_then(|()| self.parse_reserve(open)) {
            Ok(reserve) => self.reserve_stream(reserve, place).await,
            Err(error) => Err(error),
        };
        in_flight.end();
        opened
    }

    async fn reserve_stream(&self, reserve: Reserve, place: OwnedSemaphorePermit) -> Result<Session> {
        let call = &reserve.call;
        if let Err(refusal) = self.rates.take(&call.user, call.content.api_key.as_ref()).await {
            // A stream that is opened again was admitted before, and loses money if it waits.
            let found = self.transactions.transaction(&call.user, &call.trace).await?;
            if found.is_none_or(|found| found.status != Status::Pending) {
                return Err(refusal);
            }
        }
        self.meter.open(reserve, place).await
    }

    fn count_stream(&self, ended: Ended) {
        if let Some(finished) = &ended.finished {
            self.count_commit(finished);
        }
        if let Some((settled, effect)) = ended.settled {
            self.count_ended(settled, effect);
        }
        if let Some(compared) = ended.compared {
            self.metrics.streams.compare(compared);
        }
    }

    /// Counts what became of a reservation that nobody ended.
    pub fn count_ended(&self, ended: Transaction, effect: Effect) {
        if ended.is_committed() && effect != Effect::Found {
            self.count_commit(&Ok((ended, effect)));
        }
    }
}

/// Ends with the messages; whoever takes them ends with the first error.
fn events(messages: Streaming<MeterStreamRequest>) -> impl Stream<Item = Result<Event>> + Send {
    stream::unfold(messages, async |mut messages| match messages.message().await {
        Ok(Some(message)) => Some((event(message.event), messages)),
        Ok(None) => None,
        // Too large, not to be decoded, or the connection broke; then nobody hears of it.
        Err(status) => Some((Err(Invalid::new("event", status.message()).into()), messages)),
    })
}

fn event(message: Option<Message>) -> Result<Event> {
    match message {
        Some(Message::Output(output)) => Ok(Event::Output(output)),
        Some(Message::Heartbeat(heartbeat)) => Ok(Event::Heartbeat(replies(heartbeat.usage)?)),
        Some(Message::Finish(finish)) => parse_finish(finish).map(Event::Finish),
        Some(Message::Open(_)) => Err(Invalid::new("open", "must come once").into()),
        None => Err(Invalid::new("event", "is none that this server knows").into()),
    }
}

/// Nobody means no tokens at all: they have other names where they came from.
fn replies(counted: Option<proto::Usage>) -> Result<Option<usage::Usage>> {
    Ok(usage(counted)?.filter(|usage| usage.tokens() > 0))
}

fn parse_finish(finish: StreamFinish) -> Result<Finish> {
    Ok(Finish {
        usage: replies(finish.usage)?,
        cost: cost("cost", finish.cost)?,
        count: finish.count.map(count).transpose()?,
        hidden_output_tokens: tokens("hidden_output_tokens", finish.hidden_output_tokens)?,
    })
}

fn reply(update: Update) -> std::result::Result<MeterStreamReply, tonic::Status> {
    let event = match update {
        Update::Opened(transaction, replayed) => Reply::Opened(reserve_reply(&transaction, replayed)),
        Update::State(state) => Reply::State(state_reply(state)),
        Update::Finished(transaction, replayed) => Reply::Finished(commit_reply(&transaction, replayed)),
        Update::Failed(error) => return Err(Error::into(error)),
    };
    Ok(MeterStreamReply { event: Some(event) })
}

fn state_reply(state: State) -> StreamState {
    StreamState {
        output_tokens: int32(state.output_tokens),
        durable_output_tokens: int32(state.durable_output_tokens),
        cost: state.amount.to_wire(),
        held: state.held.to_wire(),
        stop: state.stop,
    }
}
