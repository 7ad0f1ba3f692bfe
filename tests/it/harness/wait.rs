//! Waiting for what happens by itself.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Looks again and again until `holds`, or fails the test after half a minute.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "still not so: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What `what` gives, or fails the test after 20 seconds: for what takes no time, unless it
/// never comes.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("it takes too long")
}
