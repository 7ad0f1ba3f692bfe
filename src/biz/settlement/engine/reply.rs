//! Typed replies: each kind of posting has a reply channel of its type.

use tokio::sync::oneshot;

use crate::biz::{
    settlement::{
        order::Order,
        order_refund::OrderRefund,
        posting::{Adjusted, Effect, Outcome},
        refund::Refunded,
        transaction::Transaction,
        unapplied::UnappliedPayment,
    },
    values::error::{Error, Result},
};

/// A transaction, and the effect of the request on it.
pub type Settled = Result<(Transaction, Effect)>;

/// The reservation after a stream's report, and whether its API key has no tokens left. If the
/// reservation had ended before the report, it is not PENDING and the report was not stored.
pub type Reported = Result<(Transaction, bool)>;

/// A refund of an order, the order, and whether the request changed anything.
pub type OrderRefunded = Result<(OrderRefund, Order, bool)>;

/// The channel that answers a posting.
pub(super) enum Reply {
    Opened(oneshot::Sender<Result<bool>>),
    Settled(oneshot::Sender<Settled>),
    Reported(oneshot::Sender<Reported>),
    Ended(oneshot::Sender<Result<Option<(Transaction, Effect)>>>),
    Adjusted(oneshot::Sender<Result<(Adjusted, bool)>>),
    Refunded(oneshot::Sender<Result<(Refunded, bool)>>),
    OrderUpdated(oneshot::Sender<Result<(Order, bool)>>),
    OrderRefunded(oneshot::Sender<OrderRefunded>),
    PaymentCredited(oneshot::Sender<Result<(UnappliedPayment, bool)>>),
    StatusSet(oneshot::Sender<Result<bool>>),
    PlanSet(oneshot::Sender<Result<bool>>),
    AlertsSet(oneshot::Sender<Result<bool>>),
    RefusalNoted(oneshot::Sender<Result<()>>),
}

impl Reply {
    /// Answers the caller. A caller that went away needs no answer.
    ///
    /// An outcome of another kind is a defect of the ledger. The channel is then dropped, and the
    /// caller gets OVERLOADED with an unknown outcome.
    pub fn send(self, outcome: Outcome) {
        match (self, outcome) {
            (reply, Outcome::Refused(error)) => reply.refuse(error),
            (Self::Opened(reply), Outcome::Opened { created }) => answer(reply, Ok(created)),
            (Self::Settled(reply), Outcome::Settled { transaction, effect }) => {
                answer(reply, Ok((transaction, effect)));
            }
            (Self::Reported(reply), Outcome::Reported { transaction, is_exhausted }) => {
                answer(reply, Ok((transaction, is_exhausted)));
            }
            (Self::Ended(reply), Outcome::Ended { ended }) => answer(reply, Ok(ended)),
            (Self::Adjusted(reply), Outcome::Adjusted { adjusted, replayed }) => {
                answer(reply, Ok((adjusted, replayed)))
            }
            (Self::Refunded(reply), Outcome::Refunded { refunded, replayed }) => {
                answer(reply, Ok((refunded, replayed)));
            }
            (Self::OrderUpdated(reply), Outcome::OrderUpdated { order, changed }) => {
                answer(reply, Ok((order, changed)))
            }
            (Self::OrderRefunded(reply), Outcome::OrderRefunded { refund, order, changed }) => {
                answer(reply, Ok((refund, order, changed)))
            }
            (Self::PaymentCredited(reply), Outcome::PaymentCredited { payment, changed }) => {
                answer(reply, Ok((payment, changed)))
            }
            (Self::StatusSet(reply), Outcome::StatusSet { changed }) => answer(reply, Ok(changed)),
            (Self::PlanSet(reply), Outcome::PlanSet { changed }) => answer(reply, Ok(changed)),
            (Self::AlertsSet(reply), Outcome::AlertsSet { changed }) => answer(reply, Ok(changed)),
            (Self::RefusalNoted(reply), Outcome::RefusalNoted) => answer(reply, Ok(())),
            (_, outcome) => tracing::error!(?outcome, "ledger returned the wrong kind of outcome for a posting"),
        }
    }

    pub fn refuse(self, error: Error) {
        match self {
            Self::Opened(reply) => answer(reply, Err(error)),
            Self::Settled(reply) => answer(reply, Err(error)),
            Self::Reported(reply) => answer(reply, Err(error)),
            Self::Ended(reply) => answer(reply, Err(error)),
            Self::Adjusted(reply) => answer(reply, Err(error)),
            Self::Refunded(reply) => answer(reply, Err(error)),
            Self::OrderUpdated(reply) => answer(reply, Err(error)),
            Self::OrderRefunded(reply) => answer(reply, Err(error)),
            Self::PaymentCredited(reply) => answer(reply, Err(error)),
            Self::StatusSet(reply) => answer(reply, Err(error)),
            Self::PlanSet(reply) => answer(reply, Err(error)),
            Self::AlertsSet(reply) => answer(reply, Err(error)),
            Self::RefusalNoted(reply) => answer(reply, Err(error)),
        }
    }
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
