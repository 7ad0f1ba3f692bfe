//! A TCP proxy in the test process that disturbs the connections which go through it.

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

/// How long a server may take to carry out requests whose client is gone.
const LAST_REQUESTS_TIMEOUT: Duration = Duration::from_secs(10);

/// It runs on the runtime of the test that starts it, and ends when dropped.
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

/// Ways of bytes.
const REQUESTS: usize = 0;
const REPLIES: usize = 1;

#[derive(Clone, Copy, Default)]
struct Orders {
    /// Requests are held up, and replies.
    stalled: [bool; 2],
    /// Connections that were accepted before the last of them are to be reset.
    resets: u64,
}

impl Proxy {
    /// In front of `target`, which is `HOST:PORT`.
    pub async fn start(target: impl Into<String>) -> Self {
        // Chosen as those of servers are, so that it is free when connections are no longer refused.
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

    /// From now on new connections lead to another server. Open ones stay.
    pub fn lead_to(&self, target: impl Into<String>) {
        *self.disturbances.target.lock().unwrap() = target.into();
    }

    /// How many connections go through it.
    pub fn open_connections(&self) -> usize {
        let mut connections = self.disturbances.connections.lock().unwrap();
        while connections.try_join_next().is_some() {}
        connections.len()
    }

    /// Aborts all open connections, on both sides; returns when they are gone.
    pub async fn reset_all(&self) {
        let open = take(&mut *self.disturbances.connections.lock().unwrap());
        self.disturbances.orders.send_modify(|orders| orders.resets += 1);
        open.join_all().await;
    }

    /// Has the next request passed on, and its connection reset before any of the reply comes
    /// back. By then the server has carried out all that it was sent on that connection. The
    /// first request of a new connection may be its greeting.
    pub fn reset_after_request(&self) {
        self.disturbances.reset_after_request.store(true, Ordering::SeqCst);
    }

    /// While true, no bytes flow either way, and nobody learns that the other has closed.
    pub fn stall(&self, stalled: bool) {
        self.disturbances.orders.send_modify(|orders| orders.stalled = [stalled; 2]);
    }

    /// While true, requests get through and no reply comes back.
    pub fn stall_replies(&self, stalled: bool) {
        self.disturbances.orders.send_modify(|orders| orders.stalled[REPLIES] = stalled);
    }

    /// While true, nobody listens; connections that are open stay so.
    pub async fn refuse(&mut self, refused: bool) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // The listener is closed when the task has gone.
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
    /// One side closed, or is gone.
    Closed,
    Reset,
    /// The reply has begun to come, and must not pass.
    ReplyLost,
}

/// `resets` is how many there had been when the client was accepted.
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

/// One of the two ways, and the orders for both.
struct Way(usize, watch::Receiver<Orders>);

impl Way {
    async fn until_flowing(&mut self) -> io::Result<()> {
        let Self(way, orders) = self;
        orders.wait_for(|orders| !orders.stalled[*way]).await.map(|_| ()).map_err(io::Error::other)
    }
}

/// Passes bytes on until one side ends, or one piece must not pass.
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
        // Nobody can begin a stall while this is looked at, so nothing flows once one has begun.
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

/// Lets the server carry out what it was sent, and takes what it says to that.
async fn finish(server: &mut TcpStream) -> io::Result<()> {
    server.shutdown().await?;
    let mut buffer = [0; 4096];
    while server.read(&mut buffer).await? > 0 {}
    Ok(())
}
