//! A proxy in front of MariaDB that runs the first statements of a migration and holds their reply back, so that the
//! process can be killed between two statements.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// Bytes before the content of each packet: a length and a number.
const HEAD: usize = 4;
/// The command of a packet with the text of statements.
const QUERY: u8 = 3;
const OK: u8 = 0;

pub struct MigrationProxy {
    /// `data.database.source` of the database behind the proxy.
    pub source: String,
    held: Arc<Mutex<Held>>,
    reached: UnboundedReceiver<Result<(), String>>,
}

/// The migration to hold, the text of its first statements, and their number.
#[derive(Default)]
struct Held {
    migration: String,
    first: String,
    number: usize,
}

impl MigrationProxy {
    pub async fn start(source: &str) -> Self {
        let (user, rest) = source.split_once("@tcp(").unwrap();
        let (server, rest) = rest.split_once(')').unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = format!("{user}@tcp({}){rest}", socket.local_addr().unwrap());
        let (held, (sender, reached)) = (Arc::<Mutex<Held>>::default(), unbounded_channel());
        tokio::spawn(accept(socket, server.to_owned(), held.clone(), sender));
        Self { source, held, reached }
    }

    /// Only the first of the statements of `migration` run from now on.
    pub fn hold(&self, migration: &str, first: &[&str]) {
        *self.held.lock().unwrap() =
            Held { migration: migration.to_owned(), first: first.concat(), number: first.len() };
    }

    /// Waits until the statements have run.
    pub async fn stands(&mut self) -> Result<(), String> {
        self.reached.recv().await.unwrap()
    }
}

async fn accept(
    socket: TcpListener,
    server: String,
    held: Arc<Mutex<Held>>,
    reached: UnboundedSender<Result<(), String>>,
) {
    loop {
        let (client, _) = socket.accept().await.unwrap();
        let server = TcpStream::connect(&server).await.unwrap();
        // A packet does not wait for the acknowledgement of the one before.
        for side in [&client, &server] {
            side.set_nodelay(true).unwrap();
        }
        let (held, reached) = (held.clone(), reached.clone());
        // An error is the end of one of the two connections, which ends the other one.
        tokio::spawn(async move { pass(client, server, &held, &reached).await });
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    held: &Mutex<Held>,
    reached: &UnboundedSender<Result<(), String>>,
) -> std::io::Result<()> {
    let (mut sent, mut answered) = (Vec::new(), Vec::new());
    loop {
        let bytes = tokio::select! {
            bytes = client.read_buf(&mut sent) => bytes?,
            bytes = server.read_buf(&mut answered) => bytes?,
        };
        if bytes == 0 {
            return Ok(());
        }
        client.write_all(&answered).await?;
        answered.clear();
        while let Some(packet) = first_packet(&mut sent) {
            let Some((first, number)) = shortened(held, &packet) else {
                server.write_all(&packet).await?;
                continue;
            };
            server.write_all(&first).await?;
            // Fails if the test has ended.
            let _ = reached.send(replies(&mut server, number).await);
            // The process waits for the reply until it is killed.
            client.read_u8().await?;
        }
    }
}

/// Takes a whole packet.
fn first_packet(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let head = bytes.get(..HEAD)?;
    let length = HEAD + u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    (bytes.len() >= length).then(|| bytes.drain(..length).collect())
}

/// The packet of the first statements and their number, if `packet` is the held migration.
fn shortened(held: &Mutex<Held>, packet: &[u8]) -> Option<(Vec<u8>, usize)> {
    let held = held.lock().unwrap();
    let is_held = packet.get(HEAD) == Some(&QUERY) && &packet[HEAD + 1..] == held.migration.as_bytes();
    is_held.then(|| {
        let length = u32::try_from(1 + held.first.len()).unwrap().to_le_bytes();
        let head = [length[0], length[1], length[2], packet[3], QUERY];
        ([&head, held.first.as_bytes()].concat(), held.number)
    })
}

/// Reads a reply for each statement. No statement of a migration returns rows.
async fn replies(server: &mut TcpStream, number: usize) -> Result<(), String> {
    let (mut bytes, mut done) = (Vec::new(), 0);
    while done < number {
        let read = server.read_buf(&mut bytes).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("MariaDB closed the connection".into());
        }
        while let Some(packet) = first_packet(&mut bytes) {
            if packet[HEAD] != OK {
                return Err(String::from_utf8_lossy(&packet[HEAD..]).into_owned());
            }
            done += 1;
        }
    }
    if done == number { Ok(()) } else { Err(format!("{done} replies for {number} statements")) }
}
