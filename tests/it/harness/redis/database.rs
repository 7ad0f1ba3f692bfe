//! A logical database of a Redis server.

use std::{collections::BTreeMap, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult,
    aio::MultiplexedConnection, cmd, io::tcp::TcpSettings,
};

/// Key to field to value.
pub type Hashes = BTreeMap<String, BTreeMap<String, String>>;

/// Long enough for a busy machine, and short enough to end a test that waits for a dead server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisDatabase {
    /// `HOST:PORT`.
    pub addr: String,
    pub db: u16,
}

impl RedisDatabase {
    /// A connection for the test.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.unwrap()
    }

    /// # Errors
    /// The server does not answer in time.
    pub async fn try_connection(&self) -> RedisResult<MultiplexedConnection> {
        let (host, port) = self.addr.rsplit_once(':').unwrap();
        let info = ConnectionAddr::Tcp(host.to_owned(), port.parse().unwrap())
            .into_connection_info()?
            // Otherwise a small command waits for the acknowledgement of the previous one.
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
            .set_redis_settings(RedisConnectionInfo::default().set_db(self.db.into()));
        let timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(REPLY_TIMEOUT));
        Client::open(info)?.get_multiplexed_async_connection_with_config(&timeouts).await
    }

    /// All hashes whose keys match the pattern.
    pub async fn hashes(&self, pattern: &str) -> Hashes {
        let mut connection = self.connection().await;
        let mut found = Hashes::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000).arg("TYPE").arg("hash");
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await.unwrap();
            for key in keys {
                let hash: BTreeMap<String, String> =
                    cmd("HGETALL").arg(&key).query_async(&mut connection).await.unwrap();
                // The key was deleted after the scan.
                if !hash.is_empty() {
                    found.insert(key, hash);
                }
            }
            if next == 0 {
                return found;
            }
            cursor = next;
        }
    }

    /// Flushes only this logical database.
    pub async fn flush(&self) {
        let () = cmd("FLUSHDB").query_async(&mut self.connection().await).await.unwrap();
    }
}
