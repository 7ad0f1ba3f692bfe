//! The actions on an account, its limits and its API keys.

use super::{
    action::Action,
    field::{Field, Values, parse_amount},
};
use crate::{
    biz::{
        audit_trail::{
            ADJUST_BALANCE, INITIALIZE_USER, SET_ACCOUNT_STATUS, SET_ALERTS, SET_API_KEY_QUOTA, SET_USER_LIMITS,
            SET_USER_PLAN,
        },
        values::{error::Result, invalid::Invalid, money::Money},
    },
    console::format,
    service::{
        Api,
        proto::{
            AdjustBalanceRequest, GetAccountRequest, GetApiKeyQuotaRequest, InitializeUserRequest,
            SetAccountStatusRequest, SetAlertsRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest, SetUserPlanRequest,
        },
    },
};

/// Most characters of the fields of the contract.
const USER: usize = 36;
const ID: usize = 128;
const REASON: usize = 255;

pub(super) const USER_ID: Field = Field::text("user_id", USER);
pub(super) const REASON_FIELD: Field = Field::text("reason", REASON);

pub(in crate::console) static OPEN: Action =
    Action::new("open", INITIALIZE_USER, &[USER_ID], |api, values, attempt| {
        Box::pin(async move {
            let request = InitializeUserRequest { user_id: values.text("user_id") };
            api.accounts.initialize_user(request, attempt.intent).await.map(drop)
        })
    });

pub(in crate::console) static STATUS: Action = Action::of_account(
    "status",
    SET_ACCOUNT_STATUS,
    &[USER_ID, Field::choice("status", &["ACTIVE", "FROZEN", "CLOSED"]), REASON_FIELD],
    |api, values, attempt| {
        Box::pin(async move {
            let request = SetAccountStatusRequest {
                user_id: values.text("user_id"),
                status: values.text("status"),
                reason: values.text("reason"),
            };
            api.accounts.set_account_status(request, attempt.intent).await.map(drop)
        })
    },
);

pub(in crate::console) static ADJUST: Action = Action::of_account(
    "adjust",
    ADJUST_BALANCE,
    &[USER_ID, Field::decimal("amount"), Field::flag("allow_negative"), REASON_FIELD],
    |api, values, attempt| {
        Box::pin(async move {
            let request = AdjustBalanceRequest {
                user_id: values.text("user_id"),
                amount: values.amount("amount")?.unwrap_or_default(),
                reason: values.text("reason"),
                adjustment_id: attempt.id(),
                operator: attempt.intent.actor.caller.to_string(),
                allow_negative: values.is_set("allow_negative"),
            };
            api.accounts.adjust_balance(request, attempt.intent).await.map(drop)
        })
    },
);

pub(in crate::console) static LIMITS: Action = Action {
    current: Some(|api, values| Box::pin(current_limits(api, values))),
    ..Action::of_account(
        "limits",
        SET_USER_LIMITS,
        &[USER_ID, Field::count("daily_limit").optional(), Field::count("monthly_limit").optional()],
        |api, values, attempt| {
            Box::pin(async move {
                let request = SetUserLimitsRequest {
                    user_id: values.text("user_id"),
                    daily_limit: values.count("daily_limit")?,
                    monthly_limit: values.count("monthly_limit")?,
                };
                api.limits.set_user_limits(request, attempt.intent).await.map(drop)
            })
        },
    )
};

async fn current_limits(api: &Api, values: &mut Values) -> Result<()> {
    if values.is_set("user_id") {
        let account = api.accounts.get_account(GetAccountRequest { user_id: values.text("user_id") }).await?;
        let limits = account.limits.unwrap_or_default();
        for (name, limit) in [("daily_limit", limits.daily_limit), ("monthly_limit", limits.monthly_limit)] {
            values.set(name, limit.map(|limit| limit.to_string()).unwrap_or_default());
        }
    }
    Ok(())
}

pub(in crate::console) static PLAN: Action = Action {
    current: Some(|api, values| {
        Box::pin(async move {
            if values.is_set("user_id") {
                let account = api.accounts.get_account(GetAccountRequest { user_id: values.text("user_id") }).await?;
                values.set("plan", account.plan);
            }
            Ok(())
        })
    }),
    ..Action::of_account(
        "plan",
        SET_USER_PLAN,
        &[USER_ID, Field::text("plan", ID), REASON_FIELD.optional()],
        |api, values, attempt| {
            Box::pin(async move {
                let request = SetUserPlanRequest {
                    user_id: values.text("user_id"),
                    plan: values.text("plan"),
                    reason: values.text("reason"),
                };
                api.accounts.set_user_plan(request, attempt.intent).await.map(drop)
            })
        },
    )
};

pub(in crate::console) static ALERTS: Action = Action::of_account(
    "alerts",
    SET_ALERTS,
    &[
        USER_ID,
        Field::text("balance_below", REASON).optional(),
        Field::text("quota_percent", REASON).optional(),
        Field::flag("use_defaults"),
        REASON_FIELD.optional(),
    ],
    |api, values, attempt| {
        Box::pin(async move {
            let percent = |text: &str| {
                text.parse().map_err(|_| Invalid::new("quota_percent", "must be whole percentages").into())
            };
            let request = SetAlertsRequest {
                user_id: values.text("user_id"),
                balance_below: values
                    .list("balance_below", |text| parse_amount("balance_below", text).map(Money::to_wire))?,
                quota_percent: values.list("quota_percent", percent)?,
                use_defaults: values.is_set("use_defaults"),
                reason: values.text("reason"),
            };
            api.accounts.set_alerts(request, attempt.intent).await.map(drop)
        })
    },
);

pub(in crate::console) static KEY_QUOTA: Action = Action {
    current: Some(|api, values| Box::pin(current_key_quota(api, values))),
    ..Action::new(
        "key-quota",
        SET_API_KEY_QUOTA,
        &[
            Field::text("api_key_id", ID),
            Field::choice("quota_type", &["requests", "tokens", "amount"]),
            Field::choice("period", &["day", "month", "total"]),
            Field::decimal("limit").optional(),
        ],
        |api, values, attempt| {
            Box::pin(async move {
                let request = SetApiKeyQuotaRequest {
                    api_key_id: values.text("api_key_id"),
                    quota_type: values.text("quota_type"),
                    period: values.text("period"),
                    limit: match values.get("quota_type") {
                        "amount" => values.amount("limit")?,
                        _ => values.large_count("limit")?.map(|limit| limit as f64),
                    },
                };
                api.limits.set_api_key_quota(request, attempt.intent).await.map(drop)
            })
        },
    )
};

/// The quota of the named type, or else the first one of the key.
async fn current_key_quota(api: &Api, values: &mut Values) -> Result<()> {
    if !values.is_set("api_key_id") {
        return Ok(());
    }
    let quotas = api.limits.get_api_key_quota(GetApiKeyQuotaRequest { api_key_id: values.text("api_key_id") }).await?;
    let kind = values.text("quota_type");
    let found = quotas.quotas.into_iter().find(|quota| kind.is_empty() || quota.quota_type == kind);
    if let Some(quota) = found {
        values.set("limit", format::plain(quota.limit));
        values.set("quota_type", quota.quota_type);
        values.set("period", quota.period);
    }
    Ok(())
}
