//! Exact values at their limits: the smallest amounts, the largest counts, and quotas and services
//! that change.

mod key_tokens;
mod large;
mod least_amount;
mod periods;
mod reads;
mod retired;

use billing_service::service::proto::{
    ApiKeyQuota, CommitReservationRequest, DeductQuotaRequest, GetApiKeyQuotaRequest, ReserveQuotaRequest,
    SetApiKeyQuotaRequest, Usage,
};

use crate::harness::{Service, charge};

/// The units of `llm` are tokens, and those of `embed` are calls. Both have no free quota.
const MODELS: &[(&str, &str)] = &[
    ("billing.model_services", "{llm: tokens, embed: calls}"),
    (
        "billing.models",
        "{gpt-4.1: {input: 15, cached_input: 4, output: 60}, gpt-4.1-mini: {input: 3, output: 12}, \
         embed-s: {input: 0.15, output: 0}, free-m: {input: 0, output: 0}, tiny: {input: 0.1, output: 0.1}}",
    ),
    ("billing.streams", "{progress: 20ms, grace: 50ms, idle_timeout: 20s}"),
];

fn with<'c>(key: &'c str, value: &'c str) -> Vec<(&'c str, &'c str)> {
    MODELS.iter().copied().chain([(key, value)]).collect()
}

fn tokens(input_tokens: i32, output_tokens: i32) -> Option<Usage> {
    Some(Usage { input_tokens, output_tokens, ..Default::default() })
}

/// A call of user `u` with the key `k`.
fn call(service: &str, model: &str, usage: Option<Usage>) -> DeductQuotaRequest {
    DeductQuotaRequest { model: model.into(), usage, api_key_id: "k".into(), ..charge("u", service, 1) }
}

fn hold(trace: &str, service: &str, model: &str, (input, output): (i32, i32)) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: "u".into(),
        trace_id: trace.into(),
        service_name: service.into(),
        count: 1,
        api_key_id: "k".into(),
        model: model.into(),
        estimated_input_tokens: input,
        estimated_output_tokens: output,
        ..Default::default()
    }
}

fn delivered(trace: &str) -> CommitReservationRequest {
    CommitReservationRequest { user_id: "u".into(), trace_id: trace.into(), ..Default::default() }
}

impl Service {
    /// Sets a quota of the key `k`.
    async fn bind_key(&self, quota_type: &str, period: &str, limit: f64) -> ApiKeyQuota {
        let request = SetApiKeyQuotaRequest {
            api_key_id: "k".into(),
            quota_type: quota_type.into(),
            period: period.into(),
            limit: Some(limit),
        };
        let reply = self.internal.clone().set_api_key_quota(request).await.unwrap().into_inner();
        reply.quotas.into_iter().find(|quota| quota.quota_type == quota_type).unwrap()
    }

    async fn key_used(&self, quota_type: &str) -> f64 {
        let request = GetApiKeyQuotaRequest { api_key_id: "k".into() };
        let reply = self.internal.clone().get_api_key_quota(request).await.unwrap().into_inner();
        reply.quotas.into_iter().find(|quota| quota.quota_type == quota_type).unwrap().used
    }
}
