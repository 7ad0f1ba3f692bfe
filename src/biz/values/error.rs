//! The errors of the rules and of the storage. The table `crate::service::errors` maps each error of
//! the rules to its code and its statuses on the wire.

use std::fmt;

use thiserror::Error;

use super::{
    account_status::AccountStatus,
    ids::{OrderId, PaymentId},
    invalid::Invalid,
    limit::Limit,
    money::Money,
    preview::Preview,
};

/// An error for the caller. Nothing was changed, unless the variant says that the outcome is
/// unknown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    #[error("balance is not enough: {needed} needed, {available} available")]
    InsufficientBalance { needed: Money, available: Money },
    #[error("the {0} is reached")]
    InsufficientQuota(Limit),
    #[error("order {0} not found")]
    OrderNotFound(String),
    #[error("payment {0} not found among the unapplied payments")]
    PaymentNotFound(PaymentId),
    #[error("payment_order_id: {0}")]
    DuplicateRecharge(Duplicate),
    #[error("{0}")]
    AmountMismatch(String),
    #[error("payment is unavailable: {0}")]
    PaymentUnavailable(String),
    /// The id was used before, with other content.
    #[error("{id_field} was used before with other content; these fields differ: {}", fields.join(", "))]
    IdempotencyConflict { id_field: &'static str, fields: Vec<&'static str> },
    #[error("service_name: unknown service {0:?}")]
    UnknownService(String),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("transaction {0} not found")]
    TransactionNotFound(String),
    #[error("{0}")]
    TransactionState(String),
    #[error("{0}")]
    Unauthenticated(String),
    #[error("{0}")]
    PermissionDenied(String),
    /// The call has no consent to the change, so nothing was changed: it asked for a preview, or consents to another
    /// change. It has the change; `None` if nothing would change.
    #[error("nothing was changed: the change differs from its preview")]
    NotMade(Option<Box<Preview>>),
    /// The account takes no new calls and top-ups, for its status.
    #[error("account {}", .0.name().to_lowercase())]
    AccountNotActive(AccountStatus),
    /// The service is overloaded, or the database is unavailable. If a charge was accepted, its
    /// outcome is unknown; a retry with the same id finds it.
    #[error(transparent)]
    Overloaded(Overload),
    /// The log has the text. Callers never see it.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The reason that a payment can't be credited to an order.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Duplicate {
    #[error("order {0} was settled by another payment")]
    SecondPayment(OrderId),
    #[error("{0} belongs to another order")]
    PaymentOfAnotherOrder(PaymentId),
    /// An operator has credited or refunded the payment.
    #[error("{0} was resolved as an unapplied payment")]
    Resolved(PaymentId),
    #[error("{0} was credited with an order; refund that order instead")]
    Credited(PaymentId),
}

impl Error {
    /// The storage failure behind an error. Logs show it; callers never see it.
    pub fn cause(&self) -> Option<&StoreError> {
        match self {
            Self::Overloaded(overload) => overload.cause.as_ref(),
            _ => None,
        }
    }

    /// The error with its [`Self::cause`], for logs.
    pub fn in_full(&self) -> impl fmt::Display + '_ {
        InFull(self)
    }
}

struct InFull<'e>(&'e Error);

impl fmt::Display for InFull<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.cause() {
            Some(cause) => write!(f, "{}: {cause}", self.0),
            None => self.0.fmt(f),
        }
    }
}

/// The reason why a request can't be served now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Overload {
    message: String,
    /// The storage failure, if there is one.
    #[source]
    cause: Option<StoreError>,
}

impl From<String> for Overload {
    fn from(message: String) -> Self {
        Self { message, cause: None }
    }
}

impl From<&str> for Overload {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// A result in the caller's terms.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the storage behind the traits of this layer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The transaction was rolled back, and a retry would likely succeed: deadlock, lock timeout,
    /// failed certification.
    #[error("conflict with another transaction: {0}")]
    Conflict(String),
    /// The server does not answer, or the connection was lost. After a lost commit the outcome is
    /// unknown.
    #[error("unavailable: {0}")]
    Unavailable(Outage),
    /// Any other failure: a defect, or malformed data.
    #[error("{0}")]
    Failed(String),
}

impl StoreError {
    /// Whether the server takes no writes, as the old primary after a failover.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Unavailable(Outage { is_read_only: true, .. }))
    }
}

/// The reason of [`StoreError::Unavailable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    pub why: String,
    /// Whether the server refused a write because it takes none.
    pub is_read_only: bool,
}

impl<T: Into<String>> From<T> for Outage {
    fn from(why: T) -> Self {
        Self { why: why.into(), is_read_only: false }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) | StoreError::Unavailable(_) => {
                let message = "the database does not answer; retry later".into();
                Error::Overloaded(Overload { message, cause: Some(error) })
            }
            StoreError::Failed(why) => Error::Internal(why),
        }
    }
}
