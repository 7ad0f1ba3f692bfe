//! Requests of REST over HTTP/2. Some connections break the frames of the protocol.

use std::{future::poll_fn, net::SocketAddr, pin::Pin, time::Duration};

use axum::body::{Body, HttpBody};
use http::{HeaderName, HeaderValue};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use super::{damage::happens, raw_http2, request::Request, server::Target, tally::Tally};
use crate::harness::caller::Dice;

/// Connections with broken frames, in percent of the requests.
const BROKEN: usize = 15;
/// Deadline of an answer, above every deadline of the server.
const ANSWER: Duration = Duration::from_secs(30);

pub async fn send(target: &Target, mut dice: Dice, requests: usize) -> Tally {
    let mut tally = Tally::default();
    let mut open: [Option<Connection>; 2] = [None, None];
    for _ in 0..requests {
        let drafted = Request::random(&mut dice, target);
        let addr = if drafted.is_public { target.http } else { target.grpc };
        if happens(&mut dice, BROKEN) {
            let frames = raw_http2::broken(&mut dice, &drafted);
            match timeout(ANSWER, raw_http2::send(addr, &frames)).await {
                // The answer is compressed; the counts of the server show a fault.
                Ok(()) => tally.code("frames"),
                Err(_) => {
                    tally.fault(format!("the connection stays open after {}", frames.escape_ascii()));
                    tally.code("none");
                }
            }
            continue;
        }
        let Some(request) = request(addr, &drafted) else {
            // The client's library refuses the request line.
            tally.code("unsent");
            continue;
        };
        let connection = &mut open[usize::from(drafted.is_public)];
        if !connection.as_ref().is_some_and(http2::SendRequest::is_ready) {
            *connection = Some(connect(addr).await);
        }
        match timeout(ANSWER, answer(connection.as_mut().unwrap(), request)).await {
            Ok(Ok((status, body))) => tally.rest(status, &body, || drafted.shown()),
            Ok(Err(error)) => {
                tally.fault(format!("{error:?} after {}", drafted.shown()));
                tally.code("none");
            }
            Err(_) => {
                tally.fault(format!("no answer in time to {}", drafted.shown()));
                tally.code("none");
            }
        }
    }
    tally
}

pub type Connection = http2::SendRequest<Body>;

pub async fn connect(addr: SocketAddr) -> Connection {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(addr: SocketAddr, drafted: &Request) -> Option<http::Request<Body>> {
    let mut request = http::Request::builder()
        .method(drafted.method.as_str())
        .uri(format!("http://{addr}{}", drafted.path))
        .body(Body::from(drafted.body.clone()))
        .ok()?;
    for (name, value) in &drafted.headers {
        let (name, value) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value));
        request.headers_mut().append(name.ok()?, value.ok()?);
    }
    Some(request)
}

async fn answer(connection: &mut Connection, request: http::Request<Body>) -> hyper::Result<(u16, Vec<u8>)> {
    let response = connection.send_request(request).await?;
    let status = response.status().as_u16();
    Ok((status, read(response.into_body()).await?.0))
}

/// A body, and its trailers.
pub async fn read(mut body: Incoming) -> hyper::Result<(Vec<u8>, Option<http::HeaderMap>)> {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame?.into_data() {
            Ok(data) => bytes.extend(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes, trailers))
}
