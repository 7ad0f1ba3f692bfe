//! Top-ups are not served yet; callers are told to come back, and nothing changes.

use super::{
    Api,
    proto::{RechargeCallbackReply, RechargeCallbackRequest, RechargeReply, RechargeRequest},
};
use crate::biz::error::{Error, Result};

impl Api {
    pub async fn recharge(&self, _: RechargeRequest) -> Result<RechargeReply> {
        Err(not_served())
    }

    /// An unavailable callback is sent again by payment-service; one that was
    /// answered would be lost.
    pub async fn recharge_callback(&self, _: RechargeCallbackRequest) -> Result<RechargeCallbackReply> {
        Err(not_served())
    }
}

fn not_served() -> Error {
    Error::PaymentUnavailable("this version does not take top-ups yet; retry later".into())
}
