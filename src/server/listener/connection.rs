//! One connection: the handshake, the protocol, and its requests until the end.

use std::{fmt::Display, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    activity::{Activity, End, HEADER_TIMEOUT, Rules, Step},
    handle::Connection,
    limits::ListenerLimits,
    observed::Observed,
    pace::{Ends, Pace},
    requests::{App, Requests},
    sending::StreamExecutor,
    starts::Starts,
    stream::{Protocol, Stream},
    tls::{Tls, peer_certificate},
};
use crate::service::origin::{Peer, PeerCertificate};

/// Interval of keep-alive pings on a silent HTTP/2 connection.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Most requests in flight on one HTTP/2 connection. h2 closes a connection with too many small unread
/// frames, which pile up under overload. This many requests stay below that bound.
const MAX_STREAMS: u32 = 1_024;

/// The parts that all connections of a port share.
pub struct Server<S> {
    app: S,
    tls: Option<Tls>,
    limits: ListenerLimits,
    http1: http1::Builder,
    count_end: Box<dyn Fn(&'static str) + Send + Sync>,
}

/// A connection that was accepted.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub is_beyond_limit: bool,
    /// For the layers behind the listener.
    pub handle: Connection,
    /// Slows the retries of refused calls; `None` for a proxy, which has the calls of many clients.
    pub pace: Option<Arc<Pace>>,
    /// The stop of the server, for this connection alone: all connections wait for it.
    pub stop: CancellationToken,
}

impl<S: App> Server<S> {
    /// `count_end` gets the limit that ended a connection.
    pub fn new(
        app: S,
        tls: Option<Tls>,
        limits: ListenerLimits,
        count_end: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        // The deadline of hyper also ends pauses between requests, and the activity has one of its own.
        http1.timer(TokioTimer::new()).header_read_timeout(None);
        Self { app, tls, limits, http1, count_end: Box::new(count_end) }
    }

    /// Serves one connection to its end.
    ///
    /// # Errors
    /// The fault that ended it early.
    pub async fn serve(&self, accepted: Accepted) -> Result<(), String> {
        let Accepted { stream, peer, is_beyond_limit, handle, pace, stop } = accepted;
        let activity = Activity::begin();
        let begun = tokio::select! {
            begun = self.begin(Observed { stream, activity: activity.clone() }) => begun?,
            () = stop.cancelled() => return Ok(()),
        };
        let Begun { mut stream, protocol, certificate } = begun;
        if protocol == Protocol::Http1 {
            activity.speaks_http1();
            if is_beyond_limit {
                activity.close_after_reply();
            }
        }
        let refused = pace.as_ref().map(|pace| pace.ends()).unwrap_or_default();
        let requests = Requests {
            app: self.app.clone(),
            peer: Peer(peer),
            certificate,
            is_beyond_limit,
            connection: handle.clone(),
            pace,
            activity: activity.clone(),
        };
        let rules = if is_beyond_limit { Rules::beyond_limit() } else { Rules::of(&self.limits) };
        let watch = Watch { activity, handle, rules, drained: None, is_aged: false, refused, stop };
        match protocol {
            Protocol::Http1 => self.watch(self.http1.serve_connection(TokioIo::new(stream), requests), watch).await,
            Protocol::Http2 => {
                let starts = Arc::<Starts>::default();
                stream.take_turns(starts.clone());
                self.watch(self.http2(starts).serve_connection(TokioIo::new(stream), requests), watch).await
            }
        }
    }

    fn http2(&self, starts: Arc<Starts>) -> http2::Builder<StreamExecutor> {
        let ListenerLimits { write_timeout, connection_window, .. } = self.limits;
        let mut http2 = http2::Builder::new(StreamExecutor { write_timeout, starts });
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_connection_window_size(connection_window)
            .max_concurrent_streams(MAX_STREAMS);
        http2
    }

    async fn begin(&self, stream: Observed) -> Result<Begun, String> {
        let (mut stream, certificate) = match &self.tls {
            None => (Stream::plain(stream), None),
            Some(tls) => {
                let shaken = within(HEADER_TIMEOUT, tls.accept(stream)).await;
                let stream = shaken.inspect_err(|_| (self.count_end)("handshake"))?;
                let certificate = peer_certificate(&stream);
                (Stream::tls(stream), certificate)
            }
        };
        let protocol = within(HEADER_TIMEOUT, stream.protocol()).await?;
        Ok(Begun { stream, protocol, certificate })
    }

    /// Runs a connection until its end, or until a limit ends it.
    async fn watch<C>(&self, connection: C, mut watch: Watch) -> Result<(), String>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut connection = pin!(connection);
        loop {
            let drain = match watch.activity.step(watch.rules, watch.drained, watch.is_aged) {
                Step::Close(end) => {
                    self.count(end);
                    return Err(format!("closed: {end:?}"));
                }
                Step::Drain(end) => end,
                Step::Wait(pause) => tokio::select! {
                    biased;
                    ended = connection.as_mut() => return ended.map_err(text),
                    () = sleep(pause) => continue,
                    () = watch.stop.cancelled(), if watch.drained.is_none() => End::Drained,
                    () = watch.refused.drain.cancelled(), if watch.drained.is_none() => End::Refusals,
                    // The client sends refused calls after it was told of the end.
                    () = watch.refused.close.cancelled() => return Err("closed: refused calls".into()),
                },
            };
            self.count(drain);
            if drain == End::Age && watch.activity.is_http1() {
                // HTTP/1.1 can't announce an end, and a close would meet the next request. The next reply
                // announces it.
                watch.activity.close_after_reply();
                watch.is_aged = true;
            } else {
                connection.as_mut().graceful_shutdown();
                watch.handle.drain();
                watch.drained = Some(watch.activity.now());
            }
        }
    }

    fn count(&self, end: End) {
        if let Some(reason) = end.reason() {
            (self.count_end)(reason);
        }
    }
}

/// A connection whose first bytes have shown its protocol.
struct Begun {
    stream: Stream,
    protocol: Protocol,
    certificate: Option<PeerCertificate>,
}

/// The state of a connection towards its limits.
struct Watch {
    activity: Arc<Activity>,
    handle: Connection,
    rules: Rules,
    /// The begin of the drain.
    drained: Option<u64>,
    is_aged: bool,
    refused: Ends,
    stop: CancellationToken,
}

async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    timeout(limit, step).await.map_err(text)?.map_err(text)
}

fn text(error: impl Display) -> String {
    error.to_string()
}
