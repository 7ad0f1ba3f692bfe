//! A connection to the service that loses one reply: the caller never learns that its charge was made.

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
/// The type of a frame of headers, with which each reply begins.
const HEADERS: u8 = 1;

/// Passes everything on, but for the second reply: it ends the connection instead.
pub async fn lossy(server: SocketAddr) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        // A client may send its requests on several connections.
        let replies = Arc::<AtomicUsize>::default();
        loop {
            let (client, _) = socket.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(pass(client, server, replies.clone()));
        }
    });
    addr
}

async fn pass(mut client: TcpStream, mut server: TcpStream, replies: Arc<AtomicUsize>) {
    let ((mut requests, mut to_client), (mut answers, mut to_server)) = (client.split(), server.split());
    let up = tokio::io::copy(&mut requests, &mut to_server);
    let down = async {
        let (mut read, mut reader) = (Vec::new(), Reader::default());
        while answers.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {
            while let Some((length, begins)) = reader.part(&read) {
                if begins && replies.fetch_add(1, Relaxed) == 1 {
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

/// Finds the replies on a connection.
#[derive(Default)]
struct Reader {
    is_http1: bool,
    /// The streams of HTTP/2 with a reply. Its trailers are headers too.
    streams: Vec<Vec<u8>>,
}

impl Reader {
    /// The length of the first frame of HTTP/2, or of all bytes of HTTP/1.1; and whether a reply begins with it.
    fn part(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        let begins_http1 = bytes.starts_with(b"HTTP/1.1 ");
        self.is_http1 |= begins_http1;
        if self.is_http1 {
            return (!bytes.is_empty()).then_some((bytes.len(), begins_http1));
        }
        let head = bytes.get(..FRAME_HEAD)?;
        let length = FRAME_HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if bytes.len() < length {
            return None;
        }
        let begins = head[3] == HEADERS && !self.streams.iter().any(|stream| stream == &head[5..]);
        self.streams.extend(begins.then(|| head[5..].to_vec()));
        Some((length, begins))
    }
}
