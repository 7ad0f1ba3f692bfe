//! The gateway's side of a metered stream.

use std::time::Duration;

use billing_service::service::proto::{
    MeterStreamRequest, ReserveQuotaRequest, StreamFinish,
    billing_internal_service_client::BillingInternalServiceClient, meter_stream_reply::Event as Reply,
    meter_stream_request::Event as Message,
};
use futures_util::stream::unfold;
use tokio::{
    sync::mpsc::{self, Receiver},
    time::sleep,
};
use tonic::{Status, transport::Channel};
use uuid::Uuid;

/// One chunk, which is one token.
const CHUNK: &str = " token";

/// Opens a stream for `user`, sends `chunks` chunks of one token, and finishes the stream. Each
/// chunk is sent after the answer to the previous one and a pause. Returns the number of chunks.
///
/// # Errors
/// The stream fails, or ends without a finish.
pub async fn meter(channel: &Channel, user: String, chunks: u32, pause: Duration) -> Result<u64, Status> {
    let (messages, sent) = mpsc::channel(4);
    let sent = unfold(sent, async |mut sent: Receiver<Message>| {
        let event = sent.recv().await;
        event.map(|event| (MeterStreamRequest { event: Some(event) }, sent))
    });
    let send = async |event| messages.send(event).await.map_err(|_| Status::aborted("the stream has ended"));
    send(Message::Open(open(user, chunks))).await?;
    let mut replies = BillingInternalServiceClient::new(channel.clone()).meter_stream(sent).await?.into_inner();
    let mut counted = 0;
    while let Some(reply) = replies.message().await? {
        let is_counted = match reply.event {
            Some(Reply::Opened(_)) => true,
            // A report also causes a state, which does not count another chunk.
            Some(Reply::State(state)) => state.output_tokens == counted,
            Some(Reply::Finished(_)) => return Ok(u64::from(chunks)),
            None => return Err(Status::unknown("an empty reply")),
        };
        if is_counted && counted == chunks as i32 {
            send(Message::Finish(StreamFinish::default())).await?;
            // Matches no further state.
            counted = i32::MAX;
        } else if is_counted {
            // Even a sleep of zero takes a millisecond.
            if !pause.is_zero() {
                sleep(pause).await;
            }
            send(Message::Output(CHUNK.into())).await?;
            counted += 1;
        }
    }
    Err(Status::unknown("no finish"))
}

fn open(user_id: String, chunks: u32) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id,
        service_name: "chat".into(),
        model: "gpt-4.1".into(),
        count: 1,
        trace_id: Uuid::now_v7().to_string(),
        estimated_input_tokens: 100,
        estimated_output_tokens: chunks as i32,
        ..Default::default()
    }
}
