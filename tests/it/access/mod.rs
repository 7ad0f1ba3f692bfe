//! Access to rpcs and routes: the table of docs/security.md on both ports, and the proofs of callers and users.

mod callers;
mod cross_site;
mod doors;
pub mod issuer;
mod matrix;
mod users;

pub use self::matrix::{PageRow, pages_of_the_access_table, routes_of_the_access_table, sha256};
use serde_json::Value;

/// The status and the error code of a reply over REST.
async fn outcome(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    (status, body["metadata"]["error_code"].as_str().unwrap_or_default().to_owned())
}
