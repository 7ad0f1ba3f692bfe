//! Events that two nodes write at once.

use super::{pairs::two_servers, shared};
use crate::events::feed::assert_readers_miss_nothing;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_writers_on_two_nodes_miss_nothing() {
    let [one, other] = two_servers(shared().await, &[]).await;
    assert_readers_miss_nothing(&one, &other).await;
}
