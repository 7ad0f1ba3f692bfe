//! MeterStream: the messages of a stream into events, and what it comes to into replies.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};

use super::{
    Api,
    convert::{cost, count, int32, tokens, usage},
    proto::{
        self, MeterStreamReply, MeterStreamRequest, ReserveQuotaRequest, StreamFinish, StreamState,
        meter_stream_reply::Event as Reply, meter_stream_request::Event as Message,
    },
    reservation::{commit_reply, reserve_reply},
};
use crate::biz::{
    error::{Error, Invalid, Result},
    metering::{Ended, Event, Finish, News, Session, State},
    record,
};

/// How long a stream may take to say what it is.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Replies that wait for a gateway to read them; beyond that the newest state stands for all.
const REPLIES: usize = 8;

/// The replies of one stream.
pub type Replies = Pin<Box<dyn Stream<Item = std::result::Result<MeterStreamReply, Status>> + Send>>;

impl Api {
    /// Meters a stream on its own, whatever becomes of its caller. `fill` completes the message
    /// that opens it.
    pub fn meter_stream(
        self: Arc<Self>,
        messages: Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()> + Send + 'static,
    ) -> Replies {
        let (news, told) = mpsc::channel(REPLIES);
        let api = self.clone();
        self.tasks.spawn(async move {
            let mut messages = messages;
            match api.open_stream(&mut messages, fill).await {
                Ok(session) => {
                    api.metrics.streams.opened();
                    let ended = session.run(events(messages), news).await;
                    api.metrics.streams.closed();
                    api.count_stream(ended);
                }
                // The first news: there is room for it.
                Err(error) => drop(news.try_send(News::Failed(error))),
            }
        });
        let told = stream::unfold(told, async |mut told: mpsc::Receiver<News>| Some((told.recv().await?, told)));
        told.map(reply).boxed()
    }

    async fn open_stream(
        &self,
        messages: &mut Streaming<MeterStreamRequest>,
        fill: impl FnOnce(&mut ReserveQuotaRequest) -> Result<()>,
    ) -> Result<Session> {
        let place = self.meter.admit()?;
        let is_first = || Invalid::new("open", "must come first, and soon");
        let first = timeout(OPEN_TIMEOUT, messages.message()).await.map_err(|_| is_first())?;
        let Ok(Some(MeterStreamRequest { event: Some(Message::Open(mut open)) })) = first else {
            return Err(is_first().into());
        };
        fill(&mut open)?;
        let reserve = self.parse_reserve(open)?;
        self.rates.take(&reserve.call.user, reserve.call.content.api_key.as_ref()).await?;
        let session = self.meter.open(reserve, place).await?;
        if session.is_reopened() {
            self.metrics.idempotent_hit.inc();
        } else {
            self.metrics.stream_pending_created.inc();
        }
        Ok(session)
    }

    fn count_stream(&self, ended: Ended) {
        if let Some(finished) = &ended.finished {
            self.count_commit(finished);
        }
        if let Some(settled) = ended.settled.filter(|settled| settled.is_committed()) {
            self.count_commit(&Ok((settled, false)));
        }
        if let Some(compared) = ended.compared {
            self.metrics.streams.compare(compared);
        }
    }
}

/// Ends with the messages, by whatever end: that is one without finish.
fn events(messages: Streaming<MeterStreamRequest>) -> impl Stream<Item = Result<Event>> + Send {
    stream::unfold(messages, async |mut messages| match messages.message().await {
        Ok(Some(message)) => Some((event(message.event), messages)),
        Ok(None) => None,
        Err(status) => {
            tracing::debug!(%status, "a stream broke");
            None
        }
    })
}

fn event(message: Option<Message>) -> Result<Event> {
    match message {
        Some(Message::Output(output)) => Ok(Event::Output(output)),
        Some(Message::Heartbeat(heartbeat)) => Ok(Event::Heartbeat(told(heartbeat.usage)?)),
        Some(Message::Finish(finish)) => parse_finish(finish).map(Event::Finish),
        Some(Message::Open(_)) => Err(Invalid::new("open", "must come once").into()),
        None => Err(Invalid::new("event", "is none that this server knows").into()),
    }
}

/// Nobody means no tokens at all: they have other names where they came from.
fn told(counted: Option<proto::Usage>) -> Result<Option<record::Usage>> {
    Ok(usage(counted)?.filter(|usage| usage.tokens() > 0))
}

fn parse_finish(finish: StreamFinish) -> Result<Finish> {
    Ok(Finish {
        usage: told(finish.usage)?,
        cost: cost("cost", finish.cost)?,
        count: finish.count.map(count).transpose()?,
        hidden_output_tokens: tokens("hidden_output_tokens", finish.hidden_output_tokens)?,
    })
}

fn reply(news: News) -> std::result::Result<MeterStreamReply, Status> {
    let event = match news {
        News::Opened(transaction, replayed) => Reply::Opened(reserve_reply(&transaction, replayed)),
        News::State(state) => Reply::State(state_reply(state)),
        News::Finished(transaction, replayed) => Reply::Finished(commit_reply(&transaction, replayed)),
        News::Failed(error) => return Err(Error::into(error)),
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
