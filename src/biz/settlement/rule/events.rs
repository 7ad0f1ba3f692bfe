//! The events of a posting. Each change of the state notes its own event. Levels are compared before and after
//! the whole posting, so that a level fires once for each crossing.

use serde_json::{Value, json};

use super::{Book, QuotaKey};
use crate::biz::{
    account::Quota,
    events::{
        EventType, NewEvent,
        alerts::{Alerts, Level},
    },
    limits::{
        caps::Requests,
        key_quota::{KeyQuota, KeyQuotas, QuotaType},
    },
    settlement::{
        change::of_key,
        order::{Order, OrderStatus},
        order_refund::{OrderRefund, RefundKind, RefundStatus},
        posting::{Charge, Outcome, Posting, RefusedCall, Stop},
        refund::Refunded,
        transaction::Transaction,
    },
    values::{
        error::Error,
        ids::{ApiKeyId, UserId},
        money::Money,
    },
};

/// The levels of an account before a posting.
pub(super) struct Levels {
    balance: Option<Money>,
    requests: Option<Requests>,
    /// The API key of the posting, if it has quotas.
    key: Option<(ApiKeyId, KeyQuotas)>,
    /// The stop that the posting carries, and its cause.
    stop: Option<(Stop, StopCause)>,
}

/// The reason why a hold could not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopCause {
    Balance,
    ApiKey,
    AccountStatus,
}

impl StopCause {
    fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::ApiKey => "api_key",
            Self::AccountStatus => "account_status",
        }
    }
}

impl Book<'_> {
    pub(super) fn levels(&self, posting: &Posting) -> Levels {
        let key = match self.state.key_quotas.is_empty() {
            true => None,
            false => self.state.api_key_of(posting),
        };
        Levels {
            balance: self.state.balances.get(posting.user()).map(|balance| balance.amount),
            requests: self.state.requests.get(posting.user()).copied(),
            key: key.map(|key| (key.clone(), of_key(&self.state.key_quotas, key))),
            stop: posting.stop().map(|stop| (stop, self.stop_cause(posting))),
        }
    }

    /// The reason why the hold of a stopped stream can't grow. The end of the hold would change it.
    fn stop_cause(&self, posting: &Posting) -> StopCause {
        let has_key_left = |first: &Transaction| {
            [QuotaType::Tokens, QuotaType::Amount].into_iter().all(|kind| self.left_of_key(first, kind) != Some(0))
        };
        let first = self.state.transaction_of(posting);
        match first.is_none_or(has_key_left) {
            false => StopCause::ApiKey,
            true if self.check_status(posting.user()).is_err() => StopCause::AccountStatus,
            true => StopCause::Balance,
        }
    }

    /// Notes the events of the levels that the posting has changed, and of its refusal for money.
    pub(super) fn note_events(&mut self, posting: &Posting, before: &Levels, outcome: &Result<Outcome, Error>) {
        let user = posting.user();
        match (posting, outcome) {
            (Posting::Charge(call), Err(Error::InsufficientBalance { needed, available })) => {
                self.note_exhausted(call, "charge", (*needed, *available));
            }
            (Posting::Reserve(reserve), Err(Error::InsufficientBalance { needed, available })) => {
                self.note_exhausted(&reserve.call, "reserve", (*needed, *available));
            }
            (
                _,
                Ok(
                    Outcome::Reported { transaction, .. }
                    | Outcome::Settled { transaction, .. }
                    | Outcome::Ended { ended: Some((transaction, _)) },
                ),
            ) => {
                if let Some(stopped) = before.stop {
                    self.note_stop(transaction, stopped);
                }
            }
            _ => {}
        }
        let after = self.state.balances.get(user).map(|balance| balance.amount);
        if let (Some(before), Some(after)) = (before.balance, after)
            && before != after
        {
            self.note_balance(user, before, after);
        }
        if before.requests.is_some() {
            self.note_caps(user, before.requests);
        }
        if let Some((key, quotas)) = &before.key {
            self.note_key(user, key, quotas);
        }
    }

    fn note_balance(&mut self, user: &UserId, before: Money, after: Money) {
        if after > before {
            if let Some(watch) = self.state.watches.get_mut(user).filter(|watch| watch.is_exhausted) {
                watch.is_exhausted = false;
                self.changed_watches.insert(user.clone());
            }
            return;
        }
        let alerts = self.alerts_of(user);
        let crossed: Vec<Money> = alerts.balance_crossed(before, after).collect();
        for threshold in crossed {
            let data = json!({"threshold": threshold.to_string(), "balance": after.to_string()});
            self.note_event(EventType::BalanceLow, user, data);
        }
    }

    /// Notes a refusal for money, unless it is known.
    fn note_exhausted(&mut self, call: &Charge, by: &str, (needed, available): (Money, Money)) {
        let watch = self.state.watches.entry(call.user.clone()).or_default();
        if std::mem::replace(&mut watch.is_exhausted, true) {
            return;
        }
        self.changed_watches.insert(call.user.clone());
        self.changed.insert(call.user.clone());
        let mut data = json!({
            "refused": by,
            "service_name": call.content.service.as_str(),
            "needed": needed.to_string(),
            "available": available.to_string(),
        });
        if by != CHECK {
            data["trace_id"] = call.trace.as_str().into();
        }
        self.note_event(EventType::BalanceExhausted, &call.user, data);
    }

    /// Notes the stop of a stream, unless it is known.
    fn note_stop(&mut self, stream: &Transaction, (stop, cause): (Stop, StopCause)) {
        if !self.state.events.insert(stop.id) {
            return;
        }
        let mut data = json!({
            "cause": cause.name(),
            "service_name": stream.content.service.as_str(),
            "trace_id": stream.trace.as_str(),
            "output_tokens": stop.output_tokens,
        });
        if let Some(model) = &stream.content.model {
            data["model"] = model.as_str().into();
        }
        if let Some(key) = &stream.content.api_key {
            data["api_key_id"] = key.as_str().into();
        }
        self.note_event(EventType::StreamStopped, &stream.user, data);
        if let Some(event) = self.events.last_mut() {
            event.id = Some(stop.id);
        }
    }

    /// Decides a checked call again on the state under lock, and notes the refusal for money.
    pub(super) fn note_refusal(&mut self, refused: &RefusedCall) -> Result<Outcome, Error> {
        let call = &refused.call;
        let quote = self.quote(call)?;
        self.check_status(&call.user)?;
        self.check_caps(&call.user)?;
        let quota_key = (call.user.clone(), self.batch.at.month, call.content.service.clone());
        match self.cover(&quote, &quota_key) {
            Ok(_) => {}
            Err(Error::InsufficientBalance { needed, available }) => {
                self.note_exhausted(call, CHECK, (needed, available));
            }
            Err(error) => return Err(error),
        }
        Ok(Outcome::RefusalNoted)
    }

    /// Notes the percentages of a free quota that a charge has reached.
    pub(super) fn note_use(&mut self, key: &QuotaKey, before: Quota, after: Quota) {
        let (user, month, service) = key;
        let level = Level { limit: after.total, before: before.used, after: after.used };
        for percent in self.reached(user, level) {
            let data = json!({
                "quota": "free",
                "service_name": service.as_str(),
                "month": month.to_string(),
                "percent": percent,
                "used": after.used,
                "limit": after.total,
            });
            self.note_event(EventType::QuotaThreshold, user, data);
        }
    }

    fn note_caps(&mut self, user: &UserId, before: Option<Requests>) {
        let (Some(before), Some(after)) = (before, self.state.requests.get(user).copied()) else { return };
        if before == after {
            return;
        }
        let at = self.batch.at;
        let ((day_before, month_before), (day_after, month_after)) = (before.used(at), after.used(at));
        let each = [
            ("day", after.caps.daily, day_before, day_after),
            ("month", after.caps.monthly, month_before, month_after),
        ];
        for (period, cap, before, after) in each {
            let Some(cap) = cap else { continue };
            let level = Level { limit: cap.into(), before: before.into(), after: after.into() };
            for percent in self.reached(user, level) {
                let data = json!({"quota": "cap", "period": period, "percent": percent, "used": after, "limit": cap});
                self.note_event(EventType::QuotaThreshold, user, data);
            }
        }
    }

    fn note_key(&mut self, user: &UserId, key: &ApiKeyId, before: &KeyQuotas) {
        let at = self.batch.at;
        for ((_, kind), quota) in before {
            let Some(after) = self.state.key_quotas.get(&(key.clone(), *kind)).copied() else { continue };
            let units = |count: i64| u64::try_from(count).unwrap_or(0);
            let level =
                Level { limit: units(after.limit), before: units(quota.used(at)), after: units(after.used(at)) };
            for percent in self.reached(user, level) {
                let data = of_key_quota(key, *kind, &after, (percent, after.used(at)));
                self.note_event(EventType::QuotaThreshold, user, data);
            }
        }
    }

    pub(super) fn note_order(&mut self, order: &Order, balance: Money) {
        let kind = match order.status {
            OrderStatus::Success => EventType::RechargeSucceeded,
            OrderStatus::Failed => EventType::RechargeFailed,
            OrderStatus::Expired => EventType::RechargeExpired,
            OrderStatus::Pending | OrderStatus::Refunded => return,
        };
        let mut data = json!({"order_id": order.id.as_str(), "amount": order.amount.to_string()});
        if let Some(payment) = &order.payment {
            data["payment_order_id"] = payment.as_str().into();
        }
        if order.status == OrderStatus::Success {
            data["balance"] = balance.to_string().into();
        }
        self.note_event(kind, &order.user, data);
    }

    pub(super) fn note_order_refund(&mut self, refund: &OrderRefund) {
        if refund.status != RefundStatus::Success {
            return;
        }
        let kind = match refund.kind {
            RefundKind::Chargeback => EventType::RechargeChargedBack,
            RefundKind::Requested | RefundKind::Reported => EventType::RechargeRefunded,
        };
        let data = json!({
            "order_id": refund.order.as_str(),
            "refund_id": refund.id.as_str(),
            "amount": refund.amount.to_string(),
            "balance": refund.balance_after.to_string(),
        });
        self.note_event(kind, &refund.user, data);
    }

    pub(super) fn note_refund_of_charge(&mut self, refunded: &Refunded) {
        let data = json!({
            "refund_id": refunded.id.as_str(),
            "trace_id": refunded.content.trace.as_str(),
            "amount": refunded.amount.to_string(),
            "free_count": refunded.free,
            "paid_count": refunded.paid,
            "balance": refunded.balance_after.to_string(),
        });
        self.note_event(EventType::ChargeRefunded, &refunded.user, data);
    }

    pub(super) fn note_event(&mut self, kind: EventType, user: &UserId, data: Value) {
        self.events.push(NewEvent::new(kind, Some(user), data, self.batch.at.utc));
    }

    fn reached(&self, user: &UserId, level: Level) -> Vec<u8> {
        // No allocation without a crossing.
        self.alerts_of(user).quota_crossed(level).collect()
    }

    fn alerts_of(&self, user: &UserId) -> &Alerts {
        let own = self.state.watches.get(user).and_then(|watch| watch.alerts.as_deref());
        own.unwrap_or_else(|| self.batch.catalog.alerts())
    }
}

const CHECK: &str = "check";

fn of_key_quota(key: &ApiKeyId, kind: QuotaType, quota: &KeyQuota, (percent, used): (u8, i64)) -> Value {
    let count = |count: i64| match kind {
        QuotaType::Amount => Value::from(Money::from_micros(count).to_string()),
        QuotaType::Requests | QuotaType::Tokens => Value::from(count),
    };
    json!({
        "quota": "api_key",
        "api_key_id": key.as_str(),
        "quota_type": kind.name(),
        "period": quota.period.name(),
        "percent": percent,
        "used": count(used),
        "limit": count(quota.limit),
    })
}
