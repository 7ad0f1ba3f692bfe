//! Retries with the same trace id. A charge is made once, whatever the number of its attempts.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Most attempts of a call.
pub const ATTEMPTS: u32 = 6;
/// Deadline of an attempt.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// Attempts of a check, and their deadline. A user waits for it, and each attempt counts toward the rate limits.
const CHECKS: u32 = 2;
const CHECK_DEADLINE: Duration = Duration::from_secs(2);
/// The pause before the second attempt. It doubles with each further one.
const PAUSE: Duration = Duration::from_millis(200);
/// `billing.settlement.retry_timeout` of the server. An attempt without an answer may still be made for so long.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// Repeats `attempt` until its outcome is known. Every attempt must send the same trace id.
///
/// # Errors
/// The refusal, or a failure after which the outcome is unknown ([`is_unknown`]): keep the call, and send it again
/// later with the same trace id.
pub async fn until_known<T>(mut attempt: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let mut earlier: Option<(Instant, Status)> = None;
    let mut number = 0;
    loop {
        number += 1;
        let status = match within(DEADLINE, attempt()).await {
            Ok(reply) => return Ok(reply),
            Err(status) => status,
        };
        let is_last = number >= ATTEMPTS;
        match (is_unknown(&status), earlier.take()) {
            (true, _) if is_last => return Err(status),
            (true, _) => {
                let after = pause(&status, number);
                earlier = Some((Instant::now(), status));
                sleep(after).await;
            }
            (false, None) => return Err(status),
            // A refusal says nothing about the attempt before, which may still be made.
            (false, Some((_, earlier))) if is_last => return Err(earlier),
            // Ask once more when it is either made or given up.
            (false, Some((at, _))) => sleep_until(at + SETTLED_AFTER).await,
        }
    }
}

/// Asks a question that changes nothing.
///
/// # Errors
/// That of the last attempt.
pub async fn ask<T>(mut attempt: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let mut number = 1;
    loop {
        match within(CHECK_DEADLINE, attempt()).await {
            Err(status) if is_unknown(&status) && number < CHECKS => number += 1,
            answer => return answer,
        }
    }
}

async fn within<T>(deadline: Duration, attempt: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(deadline, attempt).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

/// Whether the call may have been made in spite of the error.
pub fn is_unknown(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::Cancelled
    )
}

/// The pause that the server asks for, or one that grows.
pub fn pause(status: &Status, number: u32) -> Duration {
    let details = status.get_error_details();
    let asked = details.retry_info().and_then(|info| info.retry_delay);
    asked.unwrap_or(PAUSE * 2_u32.pow(number - 1))
}
