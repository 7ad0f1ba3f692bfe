//! The rpcs of accounts: read, open, adjust, list adjustments, and set the status.

use std::{sync::Arc, time::Instant};

use chrono::Utc;
use uuid::Uuid;

use super::{
    convert::{int32, int64},
    limits::limits,
    prices::plan_name,
    proto::{
        AdjustBalanceReply, AdjustBalanceRequest, BalanceAdjustment, FreeQuota, GetAccountReply, GetAccountRequest,
        InitializeUserReply, InitializeUserRequest, ListAdjustmentsReply, ListAdjustmentsRequest,
        SetAccountStatusReply, SetAccountStatusRequest, SetAlertsReply, SetAlertsRequest, SetUserPlanReply,
        SetUserPlanRequest,
    },
    reads::Reads,
    reports::paging::Page,
};
use crate::{
    biz::{
        account::catalog::Catalog,
        audit_trail::{
            ADJUST_BALANCE, AuditedCall, Consent, INITIALIZE_USER, Intent, SET_ACCOUNT_STATUS, SET_ALERTS,
            SET_USER_PLAN,
        },
        events::alerts::{Alerts, MAX_THRESHOLDS},
        settlement::{
            accounts::Accounts,
            adjustments::AdjustmentStore,
            audit_events,
            engine::Engine,
            posting::{
                Adjusted, Adjustment, AdjustmentContent, AlertsChange, PlanChange, StatusChange, UNAPPLIED_PREFIX,
            },
        },
        values::{
            account_status::AccountStatus,
            currency::Currency,
            error::Result,
            ids::{AdjustmentId, PlanName, UserId},
            invalid::Invalid,
            money::Money,
            text,
        },
    },
    context,
    metrics::ChargeObserver,
};

/// Most characters of the reason of an operator.
pub(super) const MAX_REASON: usize = 255;
/// Most characters of the name of an operator.
pub(super) const MAX_OPERATOR: usize = 64;

/// Shows, opens and adjusts accounts, and sets their status.
pub struct AccountService {
    accounts: Arc<Accounts>,
    engine: Arc<Engine>,
    adjustments: Arc<dyn AdjustmentStore>,
    observer: ChargeObserver,
    catalog: Arc<Catalog>,
    /// ISO 4217 code of every amount.
    currency: Currency,
    reads: Reads,
}

impl AccountService {
    /// `currency` is the currency of every amount.
    pub fn new(
        (accounts, catalog): (Arc<Accounts>, Arc<Catalog>),
        engine: Arc<Engine>,
        (adjustments, reads): (Arc<dyn AdjustmentStore>, Reads),
        observer: ChargeObserver,
        currency: Currency,
    ) -> Self {
        Self { accounts, engine, adjustments, observer, catalog, currency, reads }
    }

    pub async fn get_account(&self, request: GetAccountRequest) -> Result<GetAccountReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let (account, now) = self.accounts.peek(&user).await?;
        let quotas = account
            .quotas
            .iter()
            .map(|(service, quota)| FreeQuota {
                service_name: service.to_string(),
                total_quota: int32(quota.total),
                used_quota: int32(quota.used),
                reset_month: now.month.to_string(),
                held_quota: int32(quota.held),
                total_units: int64(quota.total),
                used_units: int64(quota.used),
                held_units: int64(quota.held),
            })
            .collect();
        Ok(GetAccountReply {
            user_id: user.to_string(),
            balance: account.balance.amount.to_wire(),
            quotas,
            held: account.balance.held.to_wire(),
            currency: self.currency.to_string(),
            limits: account.requests.map(|requests| limits(requests, now)),
            status: account.balance.status.to_string(),
            plan: plan_name(account.balance.plan),
        })
    }

    /// Whether the user has an account. Reads show an empty one of everybody.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::biz::values::error::Error::Invalid) and the errors of a read.
    pub async fn exists(&self, user_id: &str) -> Result<bool> {
        self.accounts.exists(&UserId::parse("user_id", user_id)?).await
    }

    pub async fn initialize_user(
        &self,
        request: InitializeUserRequest,
        intent: impl Into<Intent>,
    ) -> Result<InitializeUserReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let call = AuditedCall::new(INITIALIZE_USER, intent, "");
        // An opening is always the same change, so the consent to it needs no lock.
        if call.consent != Consent::Given {
            let new = (!self.accounts.exists(&user).await?).then(|| audit_events::of_opening(&call, &user, Utc::now()));
            call.consented(new)?;
        }
        let created = self.accounts.initialize(&user, call).await?;
        Ok(InitializeUserReply { success: true, created })
    }

    pub async fn set_account_status(
        &self,
        request: SetAccountStatusRequest,
        intent: impl Into<Intent>,
    ) -> Result<SetAccountStatusReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let status: AccountStatus = request.status.parse()?;
        let reason = free_text("reason", request.reason, 1, MAX_REASON)?;
        let call = AuditedCall::new(SET_ACCOUNT_STATUS, intent, reason);
        let changed = self.engine.set_status(StatusChange { user, status, call }).await?;
        Ok(SetAccountStatusReply { success: true, status: status.to_string(), changed })
    }

    pub async fn set_user_plan(
        &self,
        request: SetUserPlanRequest,
        intent: impl Into<Intent>,
    ) -> Result<SetUserPlanReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let plan = PlanName::parse("plan", &request.plan)?;
        let plan = Some(plan).filter(|plan| plan.as_str() != PlanName::DEFAULT);
        if let Some(plan) = plan.filter(|plan| !self.catalog.plans().any(|known| known == *plan)) {
            let known: Vec<_> = self.catalog.plans().map(|plan| plan.to_string()).collect();
            let why = format!("{plan:?} is not configured; these are: default {}", known.join(" "));
            return Err(Invalid::new("plan", why.trim_end()).into());
        }
        let call = AuditedCall::new(SET_USER_PLAN, intent, free_text("reason", request.reason, 0, MAX_REASON)?);
        let changed = self.engine.set_plan(PlanChange { user, plan, call }).await?;
        Ok(SetUserPlanReply { success: true, plan: plan_name(plan), changed })
    }

    pub async fn set_alerts(&self, request: SetAlertsRequest, intent: impl Into<Intent>) -> Result<SetAlertsReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let own = alerts(&request)?;
        let call = AuditedCall::new(SET_ALERTS, intent, free_text("reason", request.reason, 0, MAX_REASON)?);
        let in_force = own.clone().unwrap_or_else(|| self.catalog.alerts().clone());
        let changed = self.engine.set_alerts(AlertsChange { user, alerts: own, call }).await?;
        Ok(SetAlertsReply {
            success: true,
            balance_below: in_force.balance_below.iter().map(|threshold| threshold.to_wire()).collect(),
            quota_percent: in_force.quota_percent.iter().copied().map(i32::from).collect(),
            changed,
        })
    }

    pub async fn adjust_balance(
        &self,
        request: AdjustBalanceRequest,
        intent: impl Into<Intent>,
    ) -> Result<AdjustBalanceReply> {
        let started = Instant::now();
        let adjustment = adjustment(request, intent)?;
        let (amount, may_change) = (adjustment.content.amount, adjustment.call.consent != Consent::Withheld);
        let adjusted = self.engine.adjust(adjustment).await;
        if may_change {
            let is_repeat = adjusted.as_ref().map(|(_, is_repeat)| *is_repeat);
            self.observer.count_adjustment(is_repeat, amount, started.elapsed());
        }
        let (adjusted, replayed) = adjusted?;
        Ok(AdjustBalanceReply {
            success: true,
            adjustment_id: adjusted.id.to_string(),
            balance: adjusted.balance_after.to_wire(),
            replayed: context::note_replayed(replayed),
        })
    }

    pub async fn list_adjustments(&self, request: ListAdjustmentsRequest) -> Result<ListAdjustmentsReply> {
        let page = Page::parse(request.page, request.page_size, &request.page_token)?;
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let (adjustments, total) = futures_util::try_join!(
            self.adjustments.adjustments(&user, &page.start, page.size + 1),
            self.adjustments.count_adjustments(&user),
        )?;
        // The request orders the adjustments of one instant.
        let keyed: Vec<_> = adjustments.into_iter().map(|adjusted| (adjusted.request.to_string(), adjusted)).collect();
        let (listed, next_page_token) = page.cut(&keyed, |(request, adjusted)| (adjusted.created_at, request.as_str()));
        let adjustments = listed.iter().map(|(_, adjusted)| self.adjustment_reply(adjusted)).collect();
        Ok(ListAdjustmentsReply { adjustments, total: int32(total), next_page_token })
    }

    fn adjustment_reply(&self, adjusted: &Adjusted) -> BalanceAdjustment {
        BalanceAdjustment {
            adjustment_id: adjusted.id.to_string(),
            user_id: adjusted.user.to_string(),
            amount: adjusted.content.amount.to_wire(),
            currency: self.currency.to_string(),
            reason: adjusted.content.reason.clone(),
            balance: adjusted.balance_after.to_wire(),
            created_at: Some(adjusted.created_at.into()),
        }
    }
}

/// The alerts of a request; `None` for the configured ones.
fn alerts(request: &SetAlertsRequest) -> Result<Option<Arc<Alerts>>> {
    if request.use_defaults {
        if !request.balance_below.is_empty() || !request.quota_percent.is_empty() {
            return Err(Invalid::new("use_defaults", "takes no thresholds beside it").into());
        }
        return Ok(None);
    }
    // One more than allowed is refused by its number, and the rest of a long list is not looked at.
    let most = MAX_THRESHOLDS + 1;
    let balances = request.balance_below.iter().take(most);
    let balances =
        balances.map(|threshold| Ok(Money::from_wire("balance_below", *threshold)?)).collect::<Result<_>>()?;
    let percents = request.quota_percent.iter().take(most).map(|percent| u8::try_from(*percent).unwrap_or(u8::MAX));
    Ok(Some(Arc::new(Alerts::new(balances, percents.collect())?)))
}

fn adjustment(request: AdjustBalanceRequest, intent: impl Into<Intent>) -> Result<Adjustment> {
    let user = UserId::parse("user_id", &request.user_id)?;
    let amount = Money::from_wire("amount", request.amount)?;
    if amount.is_zero() {
        return Err(Invalid::new("amount", "must be above zero for a credit or below zero for a debit").into());
    }
    let reason = free_text("reason", request.reason, 1, MAX_REASON)?;
    let operator = free_text("operator", request.operator, 0, MAX_OPERATOR)?;
    let id = AdjustmentId::parse("adjustment_id", &request.adjustment_id)?;
    if id.as_str().starts_with(UNAPPLIED_PREFIX) {
        let why = format!("must not begin with {UNAPPLIED_PREFIX:?}: ResolvePayment credits a payment");
        return Err(Invalid::new("adjustment_id", why).into());
    }
    let call = AuditedCall::new(ADJUST_BALANCE, intent, reason.clone());
    let content = AdjustmentContent { amount, reason, operator };
    Ok(Adjustment { user, id, content, allow_negative: request.allow_negative, request: Uuid::now_v7(), call })
}

/// Checks a text for people: `min` to `max` characters, all of them visible.
pub(super) fn free_text(field: &str, text: String, min: usize, max: usize) -> Result<String> {
    let length = text.chars().count();
    let blank = min > 0 && text.trim().is_empty();
    if blank || !(min..=max).contains(&length) || text.chars().any(text::is_deceptive) {
        let why = format!(
            "must be {min} to {max} characters, not all blank; control characters, line separators and bidirectional \
             marks are refused"
        );
        return Err(Invalid::new(field, why).into());
    }
    Ok(text)
}
