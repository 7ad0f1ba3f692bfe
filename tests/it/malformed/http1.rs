//! Requests over HTTP/1.1, written byte by byte: with damage to the lengths and lines of the protocol, too.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    damage::{damage, happens, noise, one_of},
    request::Request,
    server::Target,
    tally::Tally,
};
use crate::harness::caller::Dice;

/// Damage to the protocol itself, in percent of the requests. After it the connection is of no more use.
const BROKEN: usize = 25;
/// Deadline of an answer, above every deadline of the server.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const MAX_ANSWER: usize = 4 << 20;

pub async fn send(target: &Target, mut dice: Dice, requests: usize) -> Tally {
    let mut tally = Tally::default();
    let mut open: [Option<Connection>; 2] = [None, None];
    for _ in 0..requests {
        let request = Request::random(&mut dice, target);
        let connection = &mut open[usize::from(request.is_public)];
        let addr = if request.is_public { target.http } else { target.grpc };
        let mut bytes = written(&request);
        let is_broken = happens(&mut dice, BROKEN);
        if is_broken {
            break_protocol(&mut dice, &mut bytes);
            *connection = None;
        }
        let mut answer = Ok(None);
        let mut used = None;
        // The server may have closed a connection that was used before.
        for reused in [connection.take(), None] {
            let is_reused = reused.is_some();
            let connection = used.insert(match reused {
                Some(connection) => connection,
                None => Connection::open(addr).await,
            });
            answer = timeout(ANSWER, connection.exchange(&bytes, request.method == "HEAD", is_broken)).await;
            if !is_reused || !matches!(answer, Ok(None)) {
                break;
            }
        }
        match answer {
            Ok(Some(answer)) => {
                tally.rest(answer.status, &answer.body, || bytes.escape_ascii().to_string());
                *connection = used.filter(|_| !is_broken && answer.keeps_alive);
            }
            // A connection without an answer has ended, which only broken requests may cause.
            Ok(None) if is_broken => tally.code("none"),
            Ok(None) => {
                tally.fault(format!("no answer to {}", bytes.escape_ascii()));
                tally.code("none");
            }
            Err(_) => {
                tally.fault(format!("no answer in time to {}", bytes.escape_ascii()));
                tally.code("none");
            }
        }
    }
    tally
}

/// A request as HTTP/1.1 writes it.
fn written(request: &Request) -> Vec<u8> {
    let mut bytes = format!("{} {} HTTP/1.1\r\nhost: b\r\n", request.method, request.path).into_bytes();
    for (name, value) in &request.headers {
        bytes.extend(name.as_bytes());
        bytes.extend(b": ");
        bytes.extend(value);
        bytes.extend(b"\r\n");
    }
    if !request.body.is_empty() || request.method == "POST" {
        bytes.extend(format!("content-length: {}\r\n", request.body.len()).as_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(&request.body);
    bytes
}

fn break_protocol(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let with_header = |header: &str| text.replacen("\r\n", &format!("\r\n{header}\r\n"), 1).into_bytes();
    *bytes = match dice.below(10) {
        0 => noise(dice, 300),
        1 => with_header("content-length: 7"),
        2 => with_header("content-length: 99999999999999999999"),
        3 => with_header(one_of(dice, &["transfer-encoding: chunked", "transfer-encoding: gzip, chunked, x"])),
        4 => {
            let head = text.split("\r\n\r\n").next().unwrap().replace("content-length", "x-length");
            let chunks = [
                "5\r\n{\"a\":\r\n0\r\n\r\n",
                "zz\r\n",
                "-1\r\n",
                "ffffffffffffffffff\r\n",
                "5;x=\u{1}\r\n12345\r\n0\r\nx: y\r\n\r\n",
            ];
            format!("{head}\r\ntransfer-encoding: chunked\r\n\r\n{}", one_of(dice, &chunks)).into_bytes()
        }
        5 => text
            .replacen("HTTP/1.1", one_of(dice, &["HTTP/1.0", "HTTP/9.9", "http/1.1", "HTTP/2.0", ""]), 1)
            .into_bytes(),
        6 => text
            .replacen("host: b\r\n", one_of(dice, &["", "host: a\r\nhost: b\r\n", "host : b\r\n", "host: \0\r\n"]), 1)
            .into_bytes(),
        7 => text.replace("\r\n", one_of(dice, &["\n", "\r", "\r\n ", "\r\n\t"])).into_bytes(),
        8 => bytes[..dice.below(bytes.len())].to_vec(),
        _ => {
            damage(dice, bytes);
            std::mem::take(bytes)
        }
    };
}

struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    keeps_alive: bool,
}

impl Connection {
    async fn open(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.unwrap(), unread: Vec::new() }
    }

    /// The answer, or the last one if the bytes were several requests; `None` if there is none. A request that
    /// is broken may lack its end, so the connection is then closed for writing.
    async fn exchange(&mut self, bytes: &[u8], is_head: bool, is_broken: bool) -> Option<Answer> {
        // The server may close while it is still being written to.
        let written = self.stream.write_all(bytes).await;
        if !is_broken {
            return self.answer(is_head).await;
        }
        if written.is_ok() {
            let _ = self.stream.shutdown().await;
        }
        let mut last: Option<Answer> = None;
        while let Some(answer) = self.answer(is_head).await {
            // The first fault counts, and otherwise the last answer.
            if answer.status >= 500 {
                return Some(answer);
            }
            last = Some(answer);
        }
        last
    }

    async fn answer(&mut self, is_head: bool) -> Option<Answer> {
        let end = self.read_until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&self.unread[..end]).to_lowercase();
        self.unread.drain(..end);
        let status = head.strip_prefix("http/1.")?.get(2..5)?.parse().ok()?;
        let header = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim).unwrap_or_default()
        };
        let keeps_alive = header("connection") != "close";
        let body = if is_head || matches!(status, 100..200 | 204 | 304) {
            Vec::new()
        } else if header("transfer-encoding") == "chunked" {
            let end = self.read_until(b"0\r\n\r\n").await?;
            self.unread.drain(..end).collect()
        } else {
            let length: usize = header("content-length").parse().ok()?;
            while self.unread.len() < length {
                self.read().await?;
            }
            self.unread.drain(..length).collect()
        };
        Some(Answer { status, body, keeps_alive })
    }

    /// Reads until `mark`, and returns the position behind it.
    async fn read_until(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.unread.windows(mark.len()).position(|window| window == mark) {
                return Some(at + mark.len());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Option<()> {
        assert!(self.unread.len() < MAX_ANSWER, "an answer without an end");
        let read = self.stream.read_buf(&mut self.unread).await.unwrap_or(0);
        (read > 0).then_some(())
    }
}
