//! A progress that keeps nothing.

use async_trait::async_trait;
use billing_service::biz::{jobs::progress::Progress, values::error::StoreError};

/// Has no checkpoint, and ignores reports.
pub struct Unwatched;

#[async_trait]
impl Progress for Unwatched {
    fn position(&self) -> Option<String> {
        None
    }

    fn expect(&self, _items: u64) {}

    async fn reached(&self, _position: &str, _items: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn report(&self, _line: &str) {}
}
