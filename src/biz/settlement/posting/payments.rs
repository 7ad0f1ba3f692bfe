//! Postings of payments: top-ups, their refunds, and credits of unapplied payments.

use uuid::Uuid;

use crate::biz::{
    audit_trail::AuditedCall,
    settlement::order_refund::OrderRefundContent,
    values::{
        ids::{AdjustmentId, OrderId, PaymentId, RefundId, UserId},
        money::Money,
    },
};

/// An update of a user's top-up order.
#[derive(Debug, Clone)]
pub struct OrderUpdate {
    pub user: UserId,
    pub order: OrderId,
    pub payment_update: PaymentUpdate,
}

/// An event of a top-up at payment-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentUpdate {
    /// A payment was opened and waits for the user.
    Opened { payment: PaymentId, url: String },
    /// The payment succeeded.
    Paid { payment: PaymentId, amount: Money },
    /// The payment failed, or none could be opened.
    Failed { payment: Option<PaymentId>, amount: Option<Money> },
    /// The order was not paid in time.
    Expired,
}

impl PaymentUpdate {
    /// The payment of the event.
    pub fn payment(&self) -> Option<&PaymentId> {
        match self {
            Self::Opened { payment, .. } | Self::Paid { payment, .. } => Some(payment),
            Self::Failed { payment, .. } => payment.as_ref(),
            Self::Expired => None,
        }
    }
}

/// The begin of a refund of a top-up: the amount is held until payment-service decides.
#[derive(Debug, Clone)]
pub struct OrderRefundRequest {
    pub user: UserId,
    pub id: RefundId,
    pub content: OrderRefundContent,
    /// Id of this request, with the purpose of [`Charge::record_ids`](super::Charge::record_ids).
    pub request: Uuid,
    pub call: AuditedCall,
}

/// An event of a refund at payment-service.
#[derive(Debug, Clone)]
pub struct OrderRefundUpdate {
    pub user: UserId,
    pub order: OrderId,
    pub id: RefundId,
    pub event: RefundEvent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundEvent {
    /// The money of a requested refund went back.
    Succeeded,
    /// No money of a requested refund went back.
    Failed,
    /// A callback reports money that went back.
    Reported(ReportedRefund),
}

/// Money that went back, by a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedRefund {
    /// False if the report does not prove its kind.
    pub is_chargeback: bool,
    /// `None` if the callback names no payment.
    pub payment: Option<PaymentId>,
    pub amount: Money,
}

/// The credit of an unapplied payment to a user, as an adjustment.
#[derive(Debug, Clone)]
pub struct PaymentCredit {
    pub user: UserId,
    pub payment: PaymentId,
    /// The id of the adjustment, which follows from the payment.
    pub adjustment: AdjustmentId,
    /// Id of this request, with the purpose of [`Charge::record_ids`](super::Charge::record_ids).
    pub request: Uuid,
    pub call: AuditedCall,
}

/// The begin of the ids of such adjustments.
pub const UNAPPLIED_PREFIX: &str = "unapplied payment ";

impl PaymentCredit {
    pub fn new(user: UserId, payment: PaymentId, call: AuditedCall) -> Self {
        let adjustment = AdjustmentId::from_stored(format!("{UNAPPLIED_PREFIX}{payment}"));
        Self { user, payment, adjustment, request: Uuid::now_v7(), call }
    }
}
