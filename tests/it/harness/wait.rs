//! Waits for a condition or a future.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Waits until `holds`. Fails the test after half a minute.
pub async fn until(condition: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {condition}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The output of a future. Fails the test after 20 seconds. For futures that end at once or
/// never.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    in_time("the future", future).await
}

/// Like [`soon`], with the name of the future for the failure.
pub async fn in_time<T>(name: &str, future: impl Future<Output = T>) -> T {
    let ended = timeout(Duration::from_secs(20), future).await;
    ended.unwrap_or_else(|_| panic!("{name} does not end in time"))
}
