//! A call of known cost: check, work, charge.

use billing_service::service::proto::{
    CheckQuotaRequest, DeductQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use tonic::{
    Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::retry;

pub fn call(user: &str, service: &str, count: i32, trace: &str) -> DeductQuotaRequest {
    DeductQuotaRequest {
        user_id: user.into(),
        service_name: service.into(),
        count,
        trace_id: trace.into(),
        // The work is done before the charge, so the charge is not refused for money.
        delivered: true,
        ..Default::default()
    }
}

/// # Errors
/// The refusal of the check or of the charge, or a charge whose outcome is unknown.
pub async fn run(
    (channel, authorize): (Channel, impl Interceptor + Clone),
    call: DeductQuotaRequest,
    mut write: impl FnMut(&str),
) -> Result<(), Status> {
    let client = BillingInternalServiceClient::new(InterceptedService::new(channel, authorize));
    let check = CheckQuotaRequest {
        user_id: call.user_id.clone(),
        service_name: call.service_name.clone(),
        count: call.count,
        ..Default::default()
    };
    let verdict = retry::ask(async || client.clone().check_quota(check.clone()).await).await?.into_inner();
    if !verdict.allowed {
        write(&format!("refused: {} ({})", verdict.reason, verdict.error_code));
        return Ok(());
    }
    // Here the gateway passes the call on. A call that fails is not charged.
    let charge = retry::until_known(async || client.clone().deduct_quota(call.clone()).await).await?.into_inner();
    let again = if charge.replayed { ", by an earlier attempt" } else { "" };
    write(&format!("charged: {} free, {} for {}{again}", charge.free_count, charge.paid_count, charge.amount));
    Ok(())
}
