//! A TCP proxy in the test process that disturbs its connections.

use std::{
    io::{self, ErrorKind},
    mem::take,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::harness::private_server::free_port;

/// Time limit for the server to process requests of a closed client.
const LAST_REQUESTS_TIMEOUT: Duration = Duration::from_secs(10);

/// The proxy runs on the runtime of its test, and ends when dropped.
pub struct Proxy {
    addr: SocketAddr,
    disturbances: Arc<Disturbances>,
    /// None while connections are refused.
    accepting: Option<JoinHandle<()>>,
}

struct Disturbances {
    target: Mutex<String>,
    orders: watch::Sender<Orders>,
    reset_after_request: AtomicBool,
    connections: Mutex<JoinSet<()>>,
}

/// The two directions of a connection.
const REQUESTS: usize = 0;
const REPLIES: usize = 1;

#[derive(Clone, Copy, Default)]
struct Orders {
    /// Whether requests are stalled, and whether replies are.
    stalled: [bool; 2],
    /// Number of resets. A connection that was accepted before the last reset is to be reset.
    resets: u64,
}

impl Proxy {
    /// Starts a proxy to `target`, which is `HOST:PORT`.
    pub async fn start(target: impl Into<String>) -> Self {
        // A port of the range for servers, so that it is still free after [`Self::refuse`].
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let disturbances = Arc::new(Disturbances {
            target: Mutex::new(target.into()),
            orders: watch::Sender::default(),
            reset_after_request: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let mut proxy = Self { addr, disturbances, accepting: None };
        proxy.refuse(false).await;
        proxy
    }

    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Connects new connections to another server. Open connections stay.
    pub fn lead_to(&self, target: impl Into<String>) {
        *self.disturbances.target.lock().unwrap() = target.into();
    }

    /// The number of open connections.
    pub fn open_connections(&self) -> usize {
        let mut connections = self.disturbances.connections.lock().unwrap();
        while connections.try_join_next().is_some() {}
        connections.len()
    }

    /// Aborts all open connections on both sides. Returns when they are closed.
    pub async fn reset_all(&self) {
        let open = take(&mut *self.disturbances.connections.lock().unwrap());
        self.disturbances.orders.send_modify(|orders| orders.resets += 1);
        open.join_all().await;
    }

    /// Passes the next request on, and resets its connection before the reply comes back. The server has
    /// processed all requests of that connection by then. The first request of a new connection may be
    /// its greeting.
    pub fn reset_after_request(&self) {
        self.disturbances.reset_after_request.store(true, Ordering::SeqCst);
    }

    /// While true, no bytes flow in any direction, and no side sees that the other has closed.
    pub fn stall(&self, stalled: bool) {
        self.disturbances.orders.send_modify(|orders| orders.stalled = [stalled; 2]);
    }

    /// While true, requests pass and replies do not.
    pub fn stall_replies(&self, stalled: bool) {
        self.disturbances.orders.send_modify(|orders| orders.stalled[REPLIES] = stalled);
    }

    /// While true, new connections are refused. Open connections stay open.
    pub async fn refuse(&mut self, refused: bool) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // The end of the task closes the listener.
            let _ = accepting.await;
        }
        if !refused {
            let listener = TcpListener::bind(self.addr).await.unwrap();
            self.accepting = Some(tokio::spawn(accept(listener, self.disturbances.clone())));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.disturbances.connections.lock().unwrap().abort_all();
    }
}

async fn accept(listener: TcpListener, disturbances: Arc<Disturbances>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut connections = disturbances.connections.lock().unwrap();
        while connections.try_join_next().is_some() {}
        let resets = disturbances.orders.borrow().resets;
        connections.spawn(serve(client, disturbances.clone(), resets));
    }
}

enum End {
    /// One side closed the connection, or failed.
    Closed,
    Reset,
    /// A reply has begun, and must not pass.
    ReplyLost,
}

/// `resets` is the number of resets at the time when the client was accepted.
async fn serve(client: TcpStream, disturbances: Arc<Disturbances>, resets: u64) {
    let target = disturbances.target.lock().unwrap().clone();
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let mut orders = disturbances.orders.subscribe();
    let (requests, replies) = (Way(REQUESTS, orders.clone()), Way(REPLIES, orders.clone()));
    let reply_lost = AtomicBool::new(false);
    let before_request = || {
        if disturbances.reset_after_request.swap(false, Ordering::SeqCst) {
            reply_lost.store(true, Ordering::SeqCst);
        }
        true
    };
    let before_reply = || !reply_lost.load(Ordering::SeqCst);
    let end = tokio::select! {
        biased;
        _ = orders.wait_for(|orders| orders.resets > resets) => End::Reset,
        end = pass(&client, &server, requests, before_request) => end,
        end = pass(&server, &client, replies, before_reply) => end,
    };
    match end {
        End::Closed => {}
        End::Reset => {
            client.set_zero_linger().unwrap();
            server.set_zero_linger().unwrap();
        }
        End::ReplyLost => {
            let _ = timeout(LAST_REQUESTS_TIMEOUT, finish(&mut server)).await;
            client.set_zero_linger().unwrap();
        }
    }
}

/// One direction, and the orders for both.
struct Way(usize, watch::Receiver<Orders>);

impl Way {
    async fn until_flowing(&mut self) -> io::Result<()> {
        let Self(way, orders) = self;
        orders.wait_for(|orders| !orders.stalled[*way]).await.map(|_| ()).map_err(io::Error::other)
    }
}

/// Passes bytes on until one side ends, or until bytes must not pass.
async fn pass(from: &TcpStream, to: &TcpStream, mut way: Way, may_pass: impl Fn() -> bool) -> End {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match read_some(from, &mut buffer, &mut way).await {
            Ok(0) | Err(_) => return End::Closed,
            Ok(read) => read,
        };
        if !may_pass() {
            return End::ReplyLost;
        }
        if write_all(to, &buffer[..read], &mut way).await.is_err() {
            return End::Closed;
        }
    }
}

async fn read_some(from: &TcpStream, buffer: &mut [u8], way: &mut Way) -> io::Result<usize> {
    loop {
        from.readable().await?;
        way.until_flowing().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], way: &mut Way) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        way.until_flowing().await?;
        // The borrow blocks the start of a stall, so no bytes flow after the start.
        let orders = way.1.borrow();
        if orders.stalled[way.0] {
            continue;
        }
        match to.try_write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            written => bytes = &bytes[written?..],
        }
    }
    Ok(())
}

/// Waits until the server has processed its requests, and discards the replies.
async fn finish(server: &mut TcpStream) -> io::Result<()> {
    server.shutdown().await?;
    let mut buffer = [0; 4096];
    while server.read(&mut buffer).await? > 0 {}
    Ok(())
}
