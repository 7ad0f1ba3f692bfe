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
    timeout(Duration::from_secs(20), future).await.expect("the future ends in time")
}
