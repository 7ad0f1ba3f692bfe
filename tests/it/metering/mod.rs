//! MeterStream: streams that finish, break or are reopened, and concurrent streams.

mod ages;
mod breaks;
mod crowds;
mod finishes;
mod metrics;
mod outages;
mod periods;
mod policies;
mod refusals;
mod served;
mod stops;

use billing_service::service::proto::{
    CommitReservationReply, GetTransactionReply, GetTransactionRequest, MeterStreamReply, MeterStreamRequest,
    ReserveQuotaReply, ReserveQuotaRequest, StreamFinish, StreamHeartbeat, StreamState, Usage,
    billing_internal_service_client::BillingInternalServiceClient, meter_stream_reply::Event as Reply,
    meter_stream_request::Event as Message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::harness::{Service, wait::soon};

/// `llm`, `chat` and `rag` are priced by model. `llm` has free calls, `chat` has free tokens, and `rag` has
/// no free quota. A token of `dear` costs one yuan, and a token of `gpt-4.1` some millionths.
pub const MODELS: &[(&str, &str)] = &[
    ("billing.model_services", "{llm: calls, chat: tokens, rag: calls}"),
    ("billing.free_quotas", "{passport: 10000, payment: 1000, asset: 1000, llm: 2, chat: 100}"),
    (
        "billing.models",
        "{gpt-4.1: {input: 2, cached_input: 0.5, output: 8}, dear: {input: 1000000, output: 1000000}, \
         text-cheap: {input: 0, output: 0.1}}",
    ),
    ("billing.streams", "{progress: 20ms, grace: 50ms, idle_timeout: 20s}"),
];

/// [`MODELS`] with one key changed or added.
pub fn models_with<'c>(key: &'c str, value: &'c str) -> Vec<(&'c str, &'c str)> {
    MODELS.iter().copied().filter(|(other, _)| *other != key).chain([(key, value)]).collect()
}

/// A stream of user `u`.
pub fn stream(trace: &str, service: &str, model: &str, (input, output): (i32, i32)) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: "u".into(),
        trace_id: trace.into(),
        service_name: service.into(),
        count: 1,
        model: model.into(),
        estimated_input_tokens: input,
        estimated_output_tokens: output,
        ..Default::default()
    }
}

/// A text of `tokens` tokens. Several such texts can be joined.
pub fn words(tokens: usize) -> String {
    " hello".repeat(tokens)
}

pub fn usage(input_tokens: i32, cached_input_tokens: i32, output_tokens: i32) -> Option<Usage> {
    Some(Usage { input_tokens, output_tokens, cached_input_tokens, ..Default::default() })
}

/// The gateway's side of a stream.
pub struct Gateway {
    messages: mpsc::Sender<MeterStreamRequest>,
    replies: Streaming<MeterStreamReply>,
}

impl Gateway {
    pub async fn open(service: &Service, open: ReserveQuotaRequest) -> (Self, ReserveQuotaReply) {
        Self::try_open(service.internal.clone(), open).await.unwrap()
    }

    pub async fn try_open(
        client: BillingInternalServiceClient<Channel>,
        open: ReserveQuotaRequest,
    ) -> Result<(Self, ReserveQuotaReply), Status> {
        let mut gateway = Self::call(client).await;
        gateway.send(Message::Open(open)).await;
        match gateway.next().await? {
            Reply::Opened(opened) => Ok((gateway, opened)),
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Starts the call, and sends no message yet.
    async fn call(mut client: BillingInternalServiceClient<Channel>) -> Self {
        let (messages, sent) = mpsc::channel(64);
        let replies = soon(client.meter_stream(ReceiverStream::new(sent))).await.unwrap().into_inner();
        Self { messages, replies }
    }

    async fn send(&self, event: Message) {
        // If the stream has failed, the next reply has the error.
        let _ = self.messages.send(MeterStreamRequest { event: Some(event) }).await;
    }

    pub async fn output(&self, text: impl Into<Vec<u8>>) {
        self.send(Message::Output(text.into())).await;
    }

    async fn heartbeat(&self, usage: Option<Usage>) {
        self.send(Message::Heartbeat(StreamHeartbeat { usage })).await;
    }

    pub async fn next(&mut self) -> Result<Reply, Status> {
        let reply = soon(self.replies.message()).await?.expect("the stream goes on");
        Ok(reply.event.expect("every reply has an event"))
    }

    /// Reads replies until a state fulfils the condition.
    pub async fn state(&mut self, is_so: impl Fn(&StreamState) -> bool) -> StreamState {
        loop {
            match self.next().await.unwrap() {
                Reply::State(state) if is_so(&state) => return state,
                Reply::State(_) => {}
                other => panic!("not a state: {other:?}"),
            }
        }
    }

    /// Delivers `tokens` tokens, and waits until they are counted. `before` is the number of tokens delivered before.
    async fn deliver(&mut self, before: i32, tokens: i32) -> StreamState {
        self.output(words(tokens as usize)).await;
        self.state(|state| state.output_tokens == before + tokens).await
    }

    /// Like [`Self::deliver`], and waits until the tokens are durable.
    pub async fn deliver_durably(&mut self, before: i32, tokens: i32) -> StreamState {
        self.output(words(tokens as usize)).await;
        self.state(|state| state.durable_output_tokens == before + tokens).await
    }

    pub async fn finish(&mut self, finish: StreamFinish) -> Result<CommitReservationReply, Status> {
        self.send(Message::Finish(finish)).await;
        loop {
            match self.next().await? {
                Reply::Finished(finished) => {
                    assert!(soon(self.replies.message()).await.unwrap().is_none(), "the finish ends the stream");
                    return Ok(finished);
                }
                Reply::State(_) => {}
                other => panic!("not finished: {other:?}"),
            }
        }
    }

    /// Reads replies until the stream fails.
    async fn failure(&mut self) -> Status {
        loop {
            match self.next().await {
                Err(status) => return status,
                Ok(Reply::State(_)) => {}
                Ok(other) => panic!("no failure: {other:?}"),
            }
        }
    }
}

impl Service {
    async fn metered(&self, trace: &str) -> GetTransactionReply {
        let request = GetTransactionRequest { user_id: "u".into(), trace_id: trace.into() };
        self.internal.clone().get_transaction(request).await.unwrap().into_inner()
    }

    /// Waits until a transaction has a status.
    pub async fn ended(&self, trace: &str, status: &str) -> GetTransactionReply {
        crate::harness::wait::until(&format!("{trace} is {status}"), async || {
            self.metered(trace).await.status == status
        })
        .await;
        self.metered(trace).await
    }

    /// The user has no held balance, and the audit is clean.
    async fn assert_nothing_is_held(&self, user: &str) {
        let account = self.account(user).await;
        assert_eq!(account.held, 0.0);
        assert!(account.quotas.iter().all(|quota| quota.held_quota == 0), "{:?}", account.quotas);
        self.assert_audit_is_clean().await;
    }
}
