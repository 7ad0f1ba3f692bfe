//! Retries with the same trace id. A charge is made once, whatever the number of its attempts.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Most attempts of a call.
pub const ATTEMPTS: u32 = 6;
/// Deadline of an attempt.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// The pause before the second attempt. It doubles with each further one.
const PAUSE: Duration = Duration::from_millis(200);
/// `billing.settlement.retry_timeout` of the server. An attempt without an answer may still be made for so long.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// Repeats `attempt` until its outcome is known. Every attempt must send the same trace id.
///
/// # Errors
/// The refusal, or the failure of the last attempt. Then the outcome is unknown: keep the call, and send it
/// again later with the same trace id.
pub async fn until_known<T>(mut attempt: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let mut unknown_at = None;
    let mut number = 1;
    loop {
        let answer = timeout(DEADLINE, attempt()).await;
        let status = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(reply) => return Ok(reply),
            Err(status) => status,
        };
        if number == ATTEMPTS {
            return Err(status);
        }
        if is_unknown(&status) {
            unknown_at = Some(Instant::now());
            sleep(pause(&status, number)).await;
        } else if let Some(at) = unknown_at.take() {
            // A refusal says nothing about the attempt before, which may still be made. Ask once more.
            sleep_until(at + SETTLED_AFTER).await;
        } else {
            return Err(status);
        }
        number += 1;
    }
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
