//! Tests of the proxy in the harness.

use std::{io::ErrorKind, time::Duration};

use redis::{AsyncCommands, RedisResult, Script, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{
    redis::{Proxy, RedisDatabase, shared},
    wait::{soon, until},
};

/// Long enough for flowing bytes to arrive.
const A_WHILE: Duration = Duration::from_millis(200);

/// A proxy to the shared server, and a logical database: directly and through the proxy.
async fn proxied() -> (Proxy, RedisDatabase, RedisDatabase) {
    let direct = shared().await;
    let proxy = Proxy::start(direct.addr.clone()).await;
    let proxied = RedisDatabase { addr: proxy.addr(), ..direct.clone() };
    (proxy, proxied, direct)
}

async fn increment(connection: &mut MultiplexedConnection) -> RedisResult<i64> {
    Script::new("return redis.call('INCR', KEYS[1])").key("counter").invoke_async(connection).await
}

#[tokio::test]
async fn commands_pass_through_the_proxy() {
    let (_proxy, proxied, direct) = proxied().await;
    let large = "x".repeat(3_000_000);
    let () = proxied.connection().await.set("key", &large).await.unwrap();
    let (sent, got): (String, String) =
        (direct.connection().await.get("key").await.unwrap(), proxied.connection().await.get("key").await.unwrap());
    assert!(sent == large && got == large);
}

#[tokio::test]
async fn a_reset_ends_every_open_connection_and_no_later_one() {
    let (proxy, proxied, _) = proxied().await;
    let mut raw = TcpStream::connect(proxy.addr()).await.unwrap();
    raw.write_all(b"PING\r\n").await.unwrap();
    let mut pong = [0; 7];
    raw.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
    let mut connection = proxied.connection().await;

    proxy.reset_all().await;

    let reset = soon(raw.read(&mut pong)).await;
    assert_eq!(reset.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(increment(&mut connection).await.unwrap_err().is_connection_dropped());
    assert_eq!(increment(&mut proxied.connection().await).await, Ok(1));
}

#[tokio::test]
async fn a_script_whose_reply_is_lost_has_run_once() {
    let (proxy, proxied, direct) = proxied().await;
    let mut connection = proxied.connection().await;
    // The server has the script, so that a run is one request.
    assert_eq!(increment(&mut connection).await, Ok(1));

    proxy.reset_after_request();
    assert!(increment(&mut connection).await.unwrap_err().is_connection_dropped());
    let count: i64 = direct.connection().await.get("counter").await.unwrap();
    assert_eq!(count, 2);

    assert_eq!(increment(&mut proxied.connection().await).await, Ok(3));
}

#[tokio::test]
async fn a_lost_reply_is_a_reset_and_not_an_end_of_the_stream() {
    let (proxy, ..) = proxied().await;
    let mut raw = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.reset_after_request();
    raw.write_all(b"PING\r\n").await.unwrap();
    let mut pong = [0; 7];
    assert_eq!(soon(raw.read(&mut pong)).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn nothing_flows_while_stalled_and_everything_after() {
    let (proxy, proxied, direct) = proxied().await;
    let mut connection = proxied.connection().await;
    let mut beside = direct.connection().await;
    assert_eq!(increment(&mut connection).await, Ok(1));

    proxy.stall(true);
    let mut stalled = tokio::spawn(async move { increment(&mut connection).await });
    assert!(timeout(A_WHILE, &mut stalled).await.is_err());
    let count: i64 = beside.get("counter").await.unwrap();
    assert_eq!(count, 1);

    proxy.stall(false);
    assert_eq!(soon(stalled).await.unwrap(), Ok(2));
}

#[tokio::test]
async fn requests_flow_while_replies_are_stalled() {
    let (proxy, proxied, direct) = proxied().await;
    let mut connection = proxied.connection().await;
    // The server has the script, so that a run is one request.
    assert_eq!(increment(&mut connection).await, Ok(1));

    proxy.stall_replies(true);
    let mut unanswered = tokio::spawn(async move { increment(&mut connection).await });
    let mut beside = direct.connection().await;
    until("the request is processed", async || beside.get::<_, i64>("counter").await == Ok(2)).await;
    assert!(timeout(A_WHILE, &mut unanswered).await.is_err());

    proxy.stall_replies(false);
    assert_eq!(soon(unanswered).await.unwrap(), Ok(2));
}

#[tokio::test]
async fn messages_of_the_server_do_not_flow_while_stalled() {
    let (proxy, _, direct) = proxied().await;
    // All logical databases share the channels.
    let channel = proxy.addr();
    let mut raw = TcpStream::connect(proxy.addr()).await.unwrap();
    raw.write_all(format!("SUBSCRIBE {channel}\r\n").as_bytes()).await.unwrap();
    let mut said = [0; 200];
    assert!(soon(raw.read(&mut said)).await.unwrap() > 0);

    proxy.stall(true);
    let heard: i64 = direct.connection().await.publish(&channel, "news").await.unwrap();
    assert_eq!(heard, 1);
    assert!(timeout(A_WHILE, raw.read(&mut said)).await.is_err());
    proxy.stall(false);
    let length = soon(raw.read(&mut said)).await.unwrap();
    assert!(String::from_utf8_lossy(&said[..length]).contains("news"));
}

#[tokio::test]
async fn a_stalled_connection_can_be_reset() {
    let (proxy, proxied, _) = proxied().await;
    let mut connection = proxied.connection().await;
    proxy.stall(true);
    let stalled = tokio::spawn(async move { increment(&mut connection).await });
    proxy.reset_all().await;
    assert!(soon(stalled).await.unwrap().unwrap_err().is_connection_dropped());
}

#[tokio::test]
async fn new_connections_are_refused_and_open_connections_stay() {
    let (mut proxy, proxied, _) = proxied().await;
    let mut connection = proxied.connection().await;
    proxy.refuse(true).await;
    let refused = TcpStream::connect(proxy.addr()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(increment(&mut connection).await, Ok(1));
    proxy.refuse(false).await;
    assert_eq!(increment(&mut proxied.connection().await).await, Ok(2));
}
