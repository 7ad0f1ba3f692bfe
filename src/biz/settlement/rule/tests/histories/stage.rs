//! The stage of a history: the rule in memory, or a real database.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::biz::{
    account::Account,
    audit_trail::AuditEvent,
    jobs::audit::{Difference, Evidence, counts::Counting},
    limits::{
        caps::Caps,
        key_quota::{KeyQuotas, NewKeyQuota},
    },
    recharge::unapplied::UnappliedReport,
    reports::{record::Record, statistics::DailyUse},
    settlement::{
        order::Order,
        order_refund::OrderRefund,
        posting::{Batch, Outcome},
        transaction::Transaction,
    },
    values::{
        calendar::{BillingTime, Calendar, DaySpan},
        ids::{ApiKeyId, OrderId, PaymentId, RefundId, TraceId, UserId},
    },
};

pub trait Stage {
    async fn settle(&self, batch: &Batch) -> Vec<Outcome>;
    /// The account with its quotas of a month; an empty account if the user has none.
    async fn account(&self, user: &UserId, month: u32) -> Account;
    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime);
    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime);
    async fn key_quotas(&self, key: &ApiKeyId) -> KeyQuotas;
    async fn keep_order(&self, order: &Order);
    async fn order(&self, id: &OrderId) -> Option<Order>;
    async fn order_refund(&self, id: &RefundId) -> Option<OrderRefund>;
    async fn keep_unapplied(&self, report: &UnappliedReport, at: DateTime<Utc>);
    /// The user that an unapplied payment was credited to.
    async fn credited_to(&self, payment: &PaymentId) -> Option<UserId>;
    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Option<Transaction>;
    async fn records(&self, user: &UserId) -> Vec<Record>;
    async fn daily(&self, user: &UserId, span: DaySpan) -> Vec<DailyUse>;
    /// The reservations that a sweep would find; `None` on a stage without a sweep.
    async fn due(&self, until: DateTime<Utc>) -> Option<BTreeSet<(UserId, TraceId)>>;
    /// The events of a user.
    async fn audit_events(&self, user: &UserId) -> Vec<AuditEvent>;
    /// The events that subscribers read about a user, as [`super::events::shown`].
    async fn events(&self, user: &UserId) -> Vec<String>;
    async fn evidence(&self, case: &str) -> Vec<Evidence>;
    /// Moves the records from before a time to the archive. Only databases have one.
    async fn archive(&self, _users: &[UserId], _before: DateTime<Utc>) {}
    /// Seals the closed months of a case. Only databases have seals.
    async fn seal(&self, _case: &str, _calendar: &Calendar) {}
    /// The differences that the whole audit of a case finds. Only databases have one.
    async fn audit(&self, _case: &str, _calendar: &Calendar) -> Vec<Difference> {
        Vec::new()
    }
    /// The differences of the caps of `users` and of the quotas of `key`, whose users are among them.
    async fn differing_limits(&self, users: &[UserId], key: &ApiKeyId, rule: Counting) -> Vec<Difference>;
}
