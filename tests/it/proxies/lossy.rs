//! A connection to the service that loses one reply, or a part of one: the caller never learns that its charge was
//! made.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Bytes before each frame of HTTP/2.
const FRAME_HEAD: usize = 9;
/// The type of a frame with a message of a reply.
const DATA: u8 = 0;
/// The type of a frame of headers, with which each reply begins.
const HEADERS: u8 = 1;

/// What is lost. The connection ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The second reply, of any connection.
    SecondReply,
    /// The third message over HTTP/2, of any connection; all later ones are passed on.
    ThirdMessage,
}

/// Passes everything on, but for what is lost.
pub async fn lossy(server: SocketAddr, lost: Lost) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        // A client may send its requests on several connections.
        let passed = Arc::<AtomicUsize>::default();
        loop {
            let (client, _) = socket.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(pass(client, server, lost, passed.clone()));
        }
    });
    addr
}

async fn pass(mut client: TcpStream, mut server: TcpStream, lost: Lost, passed: Arc<AtomicUsize>) {
    let ((mut requests, mut to_client), (mut answers, mut to_server)) = (client.split(), server.split());
    let up = tokio::io::copy(&mut requests, &mut to_server);
    let down = async {
        let (mut read, mut reader) = (Vec::new(), Reader::default());
        let (part_lost, before) = match lost {
            Lost::SecondReply => (Part::Reply, 1),
            Lost::ThirdMessage => (Part::Message, 2),
        };
        while answers.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {
            while let Some((length, part)) = reader.part(&read) {
                if part == part_lost && passed.fetch_add(1, Relaxed) == before {
                    return;
                }
                let part: Vec<u8> = read.drain(..length).collect();
                if to_client.write_all(&part).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}

/// A part of what the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The begin of a reply.
    Reply,
    /// A message of a reply.
    Message,
    Other,
}

/// Finds the replies on a connection.
#[derive(Default)]
struct Reader {
    is_http1: bool,
    /// The streams of HTTP/2 with a reply. Its trailers are headers too.
    streams: Vec<Vec<u8>>,
}

impl Reader {
    /// The length of the first frame of HTTP/2, or of all bytes of HTTP/1.1; and its part.
    fn part(&mut self, bytes: &[u8]) -> Option<(usize, Part)> {
        let begins_http1 = bytes.starts_with(b"HTTP/1.1 ");
        self.is_http1 |= begins_http1;
        if self.is_http1 {
            let part = if begins_http1 { Part::Reply } else { Part::Other };
            return (!bytes.is_empty()).then_some((bytes.len(), part));
        }
        let head = bytes.get(..FRAME_HEAD)?;
        let length = FRAME_HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if bytes.len() < length {
            return None;
        }
        let part = match head[3] {
            DATA => Part::Message,
            HEADERS if !self.streams.iter().any(|stream| stream == &head[5..]) => {
                self.streams.push(head[5..].to_vec());
                Part::Reply
            }
            _ => Part::Other,
        };
        Some((length, part))
    }
}
