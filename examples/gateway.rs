//! The gateway's side of MeterStream. Standard input stands for the output of a model. The example
//! prints the replies of the service, and stops delivering when the service asks for it.
//!
//! `cargo run --example gateway -- http://localhost:9107 USER SERVICE MODEL TRACE_ID < FILE`

use std::{
    env::args,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, bail};
use billing_service::service::proto::{
    MeterStreamRequest, ReserveQuotaRequest, StreamFinish,
    billing_internal_service_client::BillingInternalServiceClient, meter_stream_reply::Event as Reply,
    meter_stream_request::Event as Message,
};
use futures_util::stream::unfold;
use tokio::sync::mpsc::{self, Receiver, Sender};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = args().skip(1);
    let mut next = |name: &str| arguments.next().with_context(|| format!("{name} is missing"));
    let server = next("argument SERVER")?;
    let open = ReserveQuotaRequest {
        user_id: next("argument USER")?,
        service_name: next("argument SERVICE")?,
        model: next("argument MODEL")?,
        trace_id: next("argument TRACE_ID")?,
        count: 1,
        // The prompt as CountTokens counts it, and the longest answer of the model.
        estimated_input_tokens: 100,
        estimated_output_tokens: 200,
        ..Default::default()
    };

    let (messages, sent) = mpsc::channel(8);
    messages.send(Message::Open(open)).await?;
    let sent = unfold(sent, async |mut sent: Receiver<Message>| {
        let event = sent.recv().await;
        event.map(|event| (MeterStreamRequest { event: Some(event) }, sent))
    });
    let mut client = BillingInternalServiceClient::connect(server).await?;
    let mut replies = client.meter_stream(sent).await?.into_inner();
    let must_stop = Arc::new(AtomicBool::new(false));
    while let Some(reply) = replies.message().await? {
        match reply.event {
            Some(Reply::Opened(opened)) => {
                println!("opened: {} held", opened.amount);
                // Output is delivered to the user only after the reservation.
                thread::spawn({
                    let (messages, must_stop) = (messages.clone(), must_stop.clone());
                    move || deliver(&messages, &must_stop)
                });
            }
            Some(Reply::State(state)) => {
                println!("{state:?}");
                must_stop.store(state.stop, Ordering::Relaxed);
            }
            Some(Reply::Finished(finished)) => {
                println!("finished: {} charged, {} left", finished.amount, finished.balance)
            }
            None => bail!("unknown reply; the server is newer than this example"),
        }
    }
    Ok(())
}

/// Sends chunks of a few bytes until the input ends or the service asks to stop. Then sends the
/// finish. A chunk may end inside a character. A send fails after the stream has ended.
fn deliver(messages: &Sender<Message>, must_stop: &AtomicBool) {
    let mut chunk = [0; 16];
    while !must_stop.load(Ordering::Relaxed)
        && let Ok(read @ 1..) = std::io::stdin().read(&mut chunk)
    {
        if messages.blocking_send(Message::Output(chunk[..read].to_vec())).is_err() {
            return;
        }
    }
    let _ = messages.blocking_send(Message::Finish(StreamFinish::default()));
}
