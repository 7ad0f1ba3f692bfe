//! Money of a payment that goes back: refunds and chargebacks.

use super::amount::Amount;

/// A refund or chargeback of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRefund {
    pub id: String,
    pub kind: RefundKind,
    pub amount: Amount,
    pub state: RefundState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundKind {
    /// Requested by billing, or made on the pay page.
    Refund,
    /// Taken back by the payer's bank.
    Chargeback,
}

impl RefundKind {
    /// The status of its callback.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refund => "REFUNDED",
            Self::Chargeback => "CHARGEBACK",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundState {
    /// Until a button of the pay page decides.
    Pending,
    Success,
    Failed,
}

/// The reason to refuse a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundRefusal {
    UnknownPayment,
    /// The amount is none.
    Amount,
    /// The payment is not paid, or less is left of it.
    NotLeft,
    /// The id belongs to another refund.
    OtherContent,
    TooMany,
}

impl RefundRefusal {
    pub fn why(self) -> &'static str {
        match self {
            Self::UnknownPayment => "payment not found",
            Self::Amount => "amount: must be above 0, and something must be left",
            Self::NotLeft => "amount: the payment is not paid, or less is left of it",
            Self::OtherContent => "refund_id: belongs to a refund with other content",
            Self::TooMany => "the payment has too many refunds",
        }
    }
}
