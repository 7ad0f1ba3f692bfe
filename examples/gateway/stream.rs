//! The gateway's side of MeterStream. The source stands for the output of a model. The example prints the
//! replies of the service, and stops delivering when the service asks for it.

use std::{io::Read, thread, time::Duration};

use billing_service::service::proto::{
    CommitReservationRequest, MeterStreamRequest, ReserveQuotaRequest, StreamFinish, StreamHeartbeat,
    billing_internal_service_client::BillingInternalServiceClient, meter_stream_reply::Event as Reply,
    meter_stream_request::Event as Message,
};
use futures_util::stream::unfold;
use tokio::{
    sync::mpsc::{self, Receiver},
    time::{Instant, interval_at, sleep},
};
use tonic::{
    Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::retry;

/// Bytes of a chunk of the output.
const CHUNK: usize = 16;
/// A model may be silent for longer than the service waits for a stream.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Messages that wait to be sent.
const WAITING: usize = 8;

pub fn open(user: &str, service: &str, model: &str, trace: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: user.into(),
        service_name: service.into(),
        model: model.into(),
        trace_id: trace.into(),
        count: 1,
        // The prompt as CountTokens counts it, and the longest answer of the model.
        estimated_input_tokens: 100,
        estimated_output_tokens: 200,
        ..Default::default()
    }
}

/// Meters the source. A stream that breaks is opened again with the same trace id, and gets the output from its
/// start, which counts once. The service ends a stream that stays away, or that nobody hears of for
/// `billing.streams.idle_timeout`, and charges what it knows. So a stream that cannot be opened again is committed
/// with all that was delivered; the part that is charged counts once.
///
/// # Errors
/// The refusal, or an unknown outcome: keep the delivered text, and commit it later.
pub async fn run(
    (channel, authorize): (Channel, impl Interceptor + Clone),
    open: ReserveQuotaRequest,
    source: impl Read + Send + 'static,
    mut write: impl FnMut(&str),
) -> Result<(), Status> {
    let mut client = BillingInternalServiceClient::new(InterceptedService::new(channel, authorize));
    let mut output = Output { chunks: chunks(source), delivered: Vec::new(), has_ended: false };
    let mut number = 1;
    loop {
        match session(&mut client, &open, &mut output, &mut write).await {
            Err(status) if retry::is_unknown(&status) && number < retry::ATTEMPTS => {
                sleep(retry::pause(&status, number)).await;
                number += 1;
            }
            Err(status) if output.delivered.is_empty() => return Err(status),
            Err(_) => break,
            Ok(()) => return Ok(()),
        }
    }
    let commit = CommitReservationRequest {
        user_id: open.user_id,
        trace_id: open.trace_id,
        output_text: Some(output.text()),
        ..Default::default()
    };
    let charge =
        retry::until_known(async || client.clone().commit_reservation(commit.clone()).await).await?.into_inner();
    write(&format!("finished: {} charged, {} left", charge.amount, charge.balance));
    Ok(())
}

/// The output of the model.
struct Output {
    chunks: Receiver<Vec<u8>>,
    /// All that was delivered to the user.
    delivered: Vec<u8>,
    has_ended: bool,
}

impl Output {
    /// The delivered text, without an incomplete character at its end.
    fn text(&self) -> String {
        self.delivered.utf8_chunks().map(|chunk| chunk.valid()).collect()
    }
}

/// Reads the source in a thread, because standard input blocks. A chunk may end inside a character.
fn chunks(mut source: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, chunks) = mpsc::channel(WAITING);
    thread::spawn(move || {
        let mut chunk = [0; CHUNK];
        while let Ok(read @ 1..) = source.read(&mut chunk) {
            if sender.blocking_send(chunk[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    chunks
}

async fn session<I: Interceptor>(
    client: &mut BillingInternalServiceClient<InterceptedService<Channel, I>>,
    open: &ReserveQuotaRequest,
    output: &mut Output,
    write: &mut impl FnMut(&str),
) -> Result<(), Status> {
    let (messages, sent) = mpsc::channel(WAITING);
    let sent = unfold(sent, async |mut sent: Receiver<Message>| {
        let event = sent.recv().await;
        event.map(|event| (MeterStreamRequest { event: Some(event) }, sent))
    });
    let send = async |message| messages.send(message).await.map_err(|_| Status::unavailable("the stream has ended"));
    send(Message::Open(open.clone())).await?;
    let mut replies = client.meter_stream(sent).await?.into_inner();
    // Output is delivered to the user only after the reservation.
    let (mut is_open, mut has_finished) = (false, false);
    // The first tick of an interval would come at once.
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    loop {
        tokio::select! {
            reply = replies.message() => match reply?.and_then(|reply| reply.event) {
                Some(Reply::Opened(opened)) => {
                    write(&format!("opened: {} held", opened.amount));
                    is_open = true;
                    if !output.delivered.is_empty() {
                        send(Message::Output(output.delivered.clone())).await?;
                    }
                }
                Some(Reply::State(state)) => {
                    write(&format!("{state:?}"));
                    output.has_ended |= state.stop;
                }
                Some(Reply::Finished(finished)) => {
                    write(&format!("finished: {} charged, {} left", finished.amount, finished.balance));
                    return Ok(());
                }
                None => return Err(Status::unavailable("the stream ended without a charge")),
            },
            chunk = output.chunks.recv(), if is_open && !output.has_ended => match chunk {
                Some(chunk) => {
                    // Here the gateway passes the chunk on.
                    output.delivered.extend(&chunk);
                    send(Message::Output(chunk)).await?;
                }
                None => output.has_ended = true,
            },
            _ = heartbeat.tick(), if is_open && !has_finished => {
                send(Message::Heartbeat(StreamHeartbeat::default())).await?;
            }
        }
        if is_open && output.has_ended && !has_finished {
            has_finished = true;
            send(Message::Finish(StreamFinish::default())).await?;
        }
    }
}
