//! The gateway's side of MeterStream: standard input stands for the output of a model, and
//! what the service says of it is printed. It stops delivering when it is told to.
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
    let mut next = |what: &str| arguments.next().with_context(|| format!("{what} is missing"));
    let server = next("the server")?;
    let open = ReserveQuotaRequest {
        user_id: next("the user")?,
        service_name: next("the service")?,
        model: next("the model")?,
        trace_id: next("the trace id")?,
        count: 1,
        // Of the prompt as CountTokens counts it, and the most that the model may answer.
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
                // Nothing goes out to the user before this.
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
            None => bail!("a reply of a newer server"),
        }
    }
    Ok(())
}

/// Sends chunks of a few bytes, wherever they end, until there are no more or it must stop, and
/// then what finishes the stream. Sending fails once it has ended.
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
