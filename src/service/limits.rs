//! The rpcs that set and show caps of users and quotas of API keys.

use std::sync::Arc;

use super::{
    convert::int32,
    proto::{
        ApiKeyQuota, ApiKeyQuotas, GetApiKeyQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsReply,
        SetUserLimitsRequest, UserLimits,
    },
};
use crate::biz::{
    audit_trail::{AuditedCall, Intent, SET_API_KEY_QUOTA, SET_USER_LIMITS},
    limits::{
        caps::{Caps, LimitStore, Requests},
        key_quota::{KeyQuota, KeyQuotaStore, NewKeyQuota, Period, QuotaType},
    },
    settlement::accounts::Accounts,
    values::{
        calendar::{BillingTime, Calendar},
        error::Result,
        ids::{ApiKeyId, UserId},
        invalid::Invalid,
        money::Money,
    },
};

/// Largest quota of requests or tokens. It is exact in a wire double.
pub(super) const MAX_COUNT: f64 = 1e12;

/// Sets and shows caps of users and quotas of API keys.
pub struct LimitService {
    limits: Arc<dyn LimitStore>,
    key_quotas: Arc<dyn KeyQuotaStore>,
    accounts: Arc<Accounts>,
    calendar: Arc<Calendar>,
}

impl LimitService {
    pub fn new(
        limits: Arc<dyn LimitStore>,
        key_quotas: Arc<dyn KeyQuotaStore>,
        accounts: Arc<Accounts>,
        calendar: Arc<Calendar>,
    ) -> Self {
        Self { limits, key_quotas, accounts, calendar }
    }

    pub async fn set_user_limits(
        &self,
        request: SetUserLimitsRequest,
        intent: impl Into<Intent>,
    ) -> Result<SetUserLimitsReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let caps = Caps {
            daily: request.daily_limit.map(|cap| limit("daily_limit", cap)).transpose()?,
            monthly: request.monthly_limit.map(|cap| limit("monthly_limit", cap)).transpose()?,
        };
        let call = AuditedCall::new(SET_USER_LIMITS, intent, "");
        self.limits.set_caps(&user, caps, &call, self.calendar.now()).await??;
        let (account, now) = self.accounts.get(&user).await?;
        Ok(SetUserLimitsReply { success: true, limits: account.requests.map(|requests| limits(requests, now)) })
    }

    pub async fn set_api_key_quota(
        &self,
        request: SetApiKeyQuotaRequest,
        intent: impl Into<Intent>,
    ) -> Result<ApiKeyQuotas> {
        let key = ApiKeyId::parse("api_key_id", &request.api_key_id)?;
        let kind: QuotaType = request.quota_type.parse()?;
        let limit = request.limit.map(|limit| quota_limit(kind, limit)).transpose()?;
        let quota = NewKeyQuota { key: key.clone(), kind, period: request.period.parse()?, limit };
        let call = AuditedCall::new(SET_API_KEY_QUOTA, intent, "");
        self.key_quotas.set_key_quota(&quota, &call, self.calendar.now()).await??;
        self.show_key_quotas(key).await
    }

    pub async fn get_api_key_quota(&self, request: GetApiKeyQuotaRequest) -> Result<ApiKeyQuotas> {
        self.show_key_quotas(ApiKeyId::parse("api_key_id", &request.api_key_id)?).await
    }

    async fn show_key_quotas(&self, key: ApiKeyId) -> Result<ApiKeyQuotas> {
        let (quotas, known) = (self.key_quotas.key_quotas(&key).await?, self.key_quotas.known_since(&key).await?);
        let now = self.calendar.now();
        let shown = |((_, kind), quota): ((ApiKeyId, QuotaType), KeyQuota)| {
            let known = known.get(&kind).map_or(quota.since, |known| known.of(quota.period));
            let begins = match quota.period {
                Period::Day => self.calendar.start_of(now.day),
                Period::Month => self.calendar.start_of(now.month.first_day()),
                Period::Total => quota.since,
            };
            ApiKeyQuota {
                used_since: Some(known.max(begins).into()),
                used_is_partial: known > begins,
                ..key_quota(kind, quota, now)
            }
        };
        let quotas = quotas.into_iter().map(shown).collect();
        Ok(ApiKeyQuotas { api_key_id: key.to_string(), quotas })
    }
}

fn key_quota(kind: QuotaType, quota: KeyQuota, now: BillingTime) -> ApiKeyQuota {
    let shown = |units: i64| match kind {
        QuotaType::Amount => Money::from_micros(units).to_wire(),
        QuotaType::Requests | QuotaType::Tokens => units as f64,
    };
    ApiKeyQuota {
        quota_type: kind.to_string(),
        period: quota.period.name().into(),
        limit: shown(quota.limit),
        used: shown(quota.used(now)),
        remaining: shown(quota.remaining(now)),
        ..Default::default()
    }
}

/// The limit of a quota: a number of requests or tokens, or an amount in millionths.
fn quota_limit(kind: QuotaType, limit: f64) -> Result<i64> {
    match kind {
        QuotaType::Amount => {
            let amount = Money::from_wire("limit", limit)?;
            if amount.is_negative() {
                return Err(Invalid::new("limit", "must not be negative").into());
            }
            Ok(amount.micros())
        }
        // No range contains NaN.
        QuotaType::Requests | QuotaType::Tokens if (0.0..=MAX_COUNT).contains(&limit) && limit.fract() == 0.0 => {
            Ok(limit as i64)
        }
        QuotaType::Requests | QuotaType::Tokens => {
            Err(Invalid::new("limit", format!("must be a whole number, 0 to {MAX_COUNT}")).into())
        }
    }
}

fn limit(field: &str, cap: i32) -> Result<u32> {
    u32::try_from(cap).map_err(|_| Invalid::new(field, "must not be negative").into())
}

pub(super) fn limits(requests: Requests, now: BillingTime) -> UserLimits {
    let (daily, monthly) = requests.used(now);
    UserLimits {
        daily_limit: requests.caps.daily.map(int32),
        monthly_limit: requests.caps.monthly.map(int32),
        daily_used: int32(daily),
        monthly_used: int32(monthly),
    }
}
