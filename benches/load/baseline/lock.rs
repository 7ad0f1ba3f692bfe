//! One lock per user in Redis: `billing:lock:{user_id}` holds the token of its owner.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, Script, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::time::{Instant, sleep};
use tonic::Status;
use uuid::Uuid;

/// TTL of a lock in milliseconds: longer than any transaction.
const EXPIRY_MS: u64 = 60_000;
/// Longest wait for a lock.
const DEADLINE: Duration = Duration::from_secs(25);
/// Pauses between attempts: doubling from the first to the longest. Shorter pauses cost a hot user
/// more attempts than they gain; longer pauses leave the lock unused.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(32);
/// Long, so that slow answers are measured and not cut.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// The locks of all users, over one connection that requests share.
#[derive(Clone)]
pub struct Locks {
    connection: MultiplexedConnection,
    unlock: Script,
}

/// A held lock.
pub struct Held {
    key: String,
    token: String,
}

impl Locks {
    /// Connects to Redis.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self { connection: connect(url).await?, unlock: Script::new(include_str!("unlock.lua")) })
    }

    /// Waits for the lock of `user`, with random pauses between attempts.
    ///
    /// # Errors
    /// The lock is not free in time, or Redis fails.
    pub async fn lock(&self, user: &str) -> Result<Held, Status> {
        let held = Held { key: format!("billing:lock:{{{user}}}"), token: Uuid::now_v7().to_string() };
        let mut set = redis::cmd("SET");
        set.arg(&held.key).arg(&held.token).arg("NX").arg("PX").arg(EXPIRY_MS);
        let deadline = Instant::now() + DEADLINE;
        let mut pause = PAUSE;
        while Instant::now() < deadline {
            let taken: Option<String> = set.query_async(&mut self.connection.clone()).await.map_err(failed)?;
            if taken.is_some() {
                return Ok(held);
            }
            sleep(pause.mul_f64(0.5 + random_fraction())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(Status::unavailable("the lock of the user is not free; retry later"))
    }

    /// Releases a lock.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn unlock(&self, held: Held) -> Result<(), Status> {
        let mut call = self.unlock.key(held.key);
        let deleted: Result<u8, _> = call.arg(held.token).invoke_async(&mut self.connection.clone()).await;
        deleted.map(drop).map_err(failed)
    }
}

/// A connection that requests share.
///
/// # Errors
/// Redis does not answer.
pub async fn connect(url: &str) -> anyhow::Result<MultiplexedConnection> {
    // Without nodelay, commands wait for delayed acknowledgements.
    let tcp = TcpSettings::default().set_nodelay(true);
    let client = Client::open(url.into_connection_info()?.set_tcp_settings(tcp))?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

pub fn failed(error: redis::RedisError) -> Status {
    Status::internal(format!("redis: {error}"))
}

/// A random number from 0 to 1.
fn random_fraction() -> f64 {
    let [.., high, low] = Uuid::now_v7().into_bytes();
    f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
}
