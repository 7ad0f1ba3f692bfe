//! The way to what an id names. Only ids that an index finds are looked up: charges and records belong to an account, so
//! their ids are found in a named account alone.

use uuid::Uuid;

use super::facts::{OperationsService, WRITTEN_WITHIN, time_of};
use crate::biz::values::{
    error::Result,
    ids::{ApiKeyId, OrderId, PaymentId, RefundId, TraceId, UserId},
};

/// What an id names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Account(String),
    Charge { user: String, trace: String },
    TopUp { user: String, order: String },
    UnappliedPayment(String),
    ApiKey(String),
    AuditEvent(String),
}

impl OperationsService {
    /// All that an id names: an account, a top-up, its payment or its refund, an unapplied payment, an API key with
    /// quotas, an audit event. With an account also a charge by its trace id or by one of its records.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::biz::values::error::Error::Invalid) for an account that is none, and the errors of reads.
    pub async fn find(&self, id: &str, account: &str) -> Result<Vec<Finding>> {
        let account = UserId::parse_optional("user_id", account)?;
        let of_account = async {
            match &account {
                Some(user) => self.charge_of(user, id).await,
                None => Ok(None),
            }
        };
        let found = futures_util::try_join!(
            self.account(id),
            of_account,
            self.top_up(id),
            self.unapplied(id),
            self.api_key(id),
            self.audit_event(id),
        )?;
        let (account, charge, top_up, payment, key, event) = found;
        Ok([account, charge, top_up, payment, key, event].into_iter().flatten().collect())
    }

    async fn account(&self, id: &str) -> Result<Option<Finding>> {
        let Ok(user) = UserId::parse("user_id", id) else { return Ok(None) };
        Ok(self.accounts.exists(&user).await?.then(|| Finding::Account(user.to_string())))
    }

    async fn charge_of(&self, user: &UserId, id: &str) -> Result<Option<Finding>> {
        let Ok(trace) = TraceId::parse("trace_id", id) else { return Ok(None) };
        let charge = |trace: &TraceId| Finding::Charge { user: user.to_string(), trace: trace.to_string() };
        if self.transactions.transaction(user, &trace).await?.is_some() {
            return Ok(Some(charge(&trace)));
        }
        let Some(written) = time_of(id) else { return Ok(None) };
        let records = self.records_between(user, (written, written + WRITTEN_WITHIN)).await?;
        let record = records.into_iter().find(|record| record.id == id);
        Ok(record.and_then(|record| record.trace).map(|trace| charge(&trace)))
    }

    /// By the id of the order, of its payment or of a refund of it.
    async fn top_up(&self, id: &str) -> Result<Option<Finding>> {
        let order = async {
            match OrderId::parse("order_id", id) {
                Ok(order) => self.orders.order(&order).await,
                Err(_) => Ok(None),
            }
        };
        let of_payment = async {
            match PaymentId::parse("payment_order_id", id) {
                Ok(payment) => self.orders.order_of_payment(&payment).await,
                Err(_) => Ok(None),
            }
        };
        let refund = async {
            match RefundId::parse("refund_id", id) {
                Ok(refund) => self.orders.order_refund(&refund).await,
                Err(_) => Ok(None),
            }
        };
        let (order, of_payment, refund) = futures_util::try_join!(order, of_payment, refund)?;
        let named = order.or(of_payment).map(|order| (order.user, order.id));
        let named = named.or(refund.map(|refund| (refund.user, refund.order)));
        Ok(named.map(|(user, order)| Finding::TopUp { user: user.to_string(), order: order.to_string() }))
    }

    async fn unapplied(&self, id: &str) -> Result<Option<Finding>> {
        let Ok(payment) = PaymentId::parse("payment_order_id", id) else { return Ok(None) };
        let found = self.orders.unapplied_payment(&payment).await?;
        Ok(found.map(|payment| Finding::UnappliedPayment(payment.payment.to_string())))
    }

    async fn api_key(&self, id: &str) -> Result<Option<Finding>> {
        let Ok(key) = ApiKeyId::parse("api_key_id", id) else { return Ok(None) };
        let quotas = self.key_quotas.key_quotas(&key).await?;
        Ok((!quotas.is_empty()).then(|| Finding::ApiKey(key.to_string())))
    }

    async fn audit_event(&self, id: &str) -> Result<Option<Finding>> {
        let Ok(id) = id.parse::<Uuid>() else { return Ok(None) };
        Ok(self.trail.audit_event(id).await?.map(|event| Finding::AuditEvent(event.id.to_string())))
    }
}
