//! CheckQuota: whether a call would be covered. Proxies ask the same in their own protocols.

mod authorize;
mod fields;
mod policies;
mod rate_limit;

use std::{sync::Arc, time::Instant};

pub use self::{
    authorize::{Authorization, UNCOVERED},
    fields::FIELDS,
};

use super::{
    convert::{cost, count, estimate, int32, int64, service_tier},
    errors,
    json::UnknownPolicy,
    proto::{CheckQuotaReply, CheckQuotaRequest},
};
use crate::{
    biz::{
        account::catalog::Catalog,
        check::{Check, Decision, Quotas, Verdict},
        values::{
            calendar::Calendar,
            error::{Error, Result},
            ids::{ApiKeyId, ModelName, UserId},
        },
    },
    metrics::Metrics,
};

/// Answers checks.
pub struct CheckService {
    quotas: Quotas,
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    calendar: Arc<Calendar>,
    /// The policy for unknown keys of descriptors and unknown headers.
    unknown: UnknownPolicy,
}

impl CheckService {
    pub fn new(
        quotas: Quotas,
        catalog: Arc<Catalog>,
        metrics: Arc<Metrics>,
        calendar: Arc<Calendar>,
        unknown: UnknownPolicy,
    ) -> Self {
        Self { quotas, catalog, metrics, calendar, unknown }
    }

    pub async fn check_quota(&self, request: CheckQuotaRequest) -> Result<CheckQuotaReply> {
        self.checked(request).await.map(check_reply)
    }

    /// Decides on a call, and counts the check.
    async fn checked(&self, request: CheckQuotaRequest) -> Result<Verdict> {
        let started = Instant::now();
        let service = request.service_name.clone();
        let verdict = self.verdict(request).await;
        let result = match &verdict {
            Ok(verdict) => reason(&verdict.decision).replace(' ', "_"),
            Err(error) => errors::failure(error).label(),
        };
        self.metrics.checks.count(&self.catalog, &service, &result, started.elapsed());
        verdict
    }

    async fn verdict(&self, request: CheckQuotaRequest) -> Result<Verdict> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let api_key = ApiKeyId::parse_optional("api_key_id", &request.api_key_id)?;
        let model = ModelName::parse_optional("model", &request.model)?;
        let usage = estimate(request.estimated_input_tokens, request.estimated_output_tokens)?;
        let cost = cost("estimated_cost", request.estimated_cost)?;
        let (service, count) = (request.service_name, count(request.count)?);
        let service_tier = service_tier(&request.service_tier)?;
        let check = Check { user, count, cost, service, api_key, model, service_tier, usage };
        self.quotas.check(&check).await
    }
}

/// The reason of a check, in the words of the contract.
fn reason(decision: &Decision) -> String {
    match decision {
        Decision::Free => "free".into(),
        Decision::Balance => "balance".into(),
        Decision::Refused(Error::InsufficientBalance { .. }) => "insufficient balance".into(),
        Decision::Refused(Error::InsufficientQuota(limit)) => limit.to_string(),
        Decision::Refused(refusal @ Error::AccountNotActive(_)) => refusal.to_string(),
        Decision::Refused(_) => "refused".into(),
    }
}

fn check_reply(verdict: Verdict) -> CheckQuotaReply {
    let (error_code, retry_after_ms) = match &verdict.decision {
        Decision::Refused(refusal) => (errors::kind(refusal).error_code, errors::retry_after_ms(refusal)),
        Decision::Free | Decision::Balance => ("", None),
    };
    CheckQuotaReply {
        allowed: error_code.is_empty(),
        reason: reason(&verdict.decision),
        free_remaining: int32(verdict.free_remaining),
        balance: verdict.balance.to_wire(),
        daily_remaining: verdict.daily_remaining.map(int32),
        monthly_remaining: verdict.monthly_remaining.map(int32),
        estimated_cost: verdict.amount.to_wire(),
        error_code: error_code.into(),
        retry_after_ms,
        free_remaining_units: int64(verdict.free_remaining),
    }
}
