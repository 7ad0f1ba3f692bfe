//! A rate limiter that counts the units of each user and minute in Redis. It keeps nothing on disk, knows no balance,
//! and counts a call twice that is sent twice. It shows what charges that are exact and durable cost beside it.

use billing_service::service::proto::{DeductQuotaReply, DeductQuotaRequest};
use chrono::Utc;
use redis::aio::MultiplexedConnection;
use tonic::{Response, Status};

use super::lock::failed;

/// Units of a user in a minute; no run reaches it.
const LIMIT: i64 = 1_000_000_000;
/// Life of a count in seconds: longer than its minute.
const EXPIRY_SECONDS: u32 = 120;

/// The counts of all users, over one connection that requests share.
pub struct Limiter(pub MultiplexedConnection);

impl Limiter {
    /// Counts the units of a call.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn charge(&self, request: &DeductQuotaRequest) -> Result<Response<DeductQuotaReply>, Status> {
        let key = format!("limiter:{{{}}}:{}", request.user_id, Utc::now().timestamp() / 60);
        let mut count = redis::pipe();
        count.cmd("INCRBY").arg(&key).arg(request.count);
        count.cmd("EXPIRE").arg(&key).arg(EXPIRY_SECONDS).ignore();
        let (units,): (i64,) = count.query_async(&mut self.0.clone()).await.map_err(failed)?;
        Ok(Response::new(DeductQuotaReply { success: units <= LIMIT, ..Default::default() }))
    }
}
