//! What payment-service reports of a top-up, signed or as a hint.

use super::{
    Recharges,
    gateway::{Payment, PaymentState, TraceContext},
    in_time,
};
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        posting::{OrderUpdate, PaymentUpdate},
    },
    values::{
        error::{Error, Result},
        ids::{OrderId, PaymentId},
        money::Money,
    },
};

/// A report of payment-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub order: OrderId,
    pub result: NoticedResult,
    /// The account's when absent.
    pub currency: Option<String>,
}

/// What became of an order through a report.
#[derive(Debug)]
pub struct SettledOrder {
    pub order: Order,
    /// A repeat changes nothing.
    pub changed: bool,
    /// Why the report itself is refused, although it led to this.
    pub refusal: Option<Error>,
}

impl From<(Order, bool)> for SettledOrder {
    fn from((order, changed): (Order, bool)) -> Self {
        Self { order, changed, refusal: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticedResult {
    Paid {
        payment: PaymentId,
        amount: Money,
    },
    Failed {
        payment: Option<PaymentId>,
        /// `None` where nothing was paid and none is named.
        amount: Option<Money>,
    },
}

impl NoticedResult {
    fn amount(&self) -> Option<Money> {
        match self {
            Self::Paid { amount, .. } => Some(*amount),
            Self::Failed { amount, .. } => *amount,
        }
    }
}

impl From<NoticedResult> for PaymentUpdate {
    fn from(result: NoticedResult) -> Self {
        match result {
            NoticedResult::Paid { payment, amount } => PaymentUpdate::Paid { payment, amount },
            NoticedResult::Failed { payment, amount } => PaymentUpdate::Failed { payment, amount },
        }
    }
}

impl Recharges {
    /// Settles an order by a report. One that is not `believed`, because nothing proves
    /// who sent it, is a hint: payment-service itself is asked, and what it says is what
    /// counts, also when the report is refused.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`], [`Error::AmountMismatch`], [`Error::DuplicateRecharge`];
    /// [`Error::PaymentUnavailable`] when payment-service can't be asked or does not say
    /// the same yet; [`Error::Invalid`] beyond the largest balance,
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn settle(&self, notice: Notice, believed: bool, trace: &TraceContext) -> Result<SettledOrder> {
        let found = in_time(self.orders.order(&notice.order)).await?;
        let order = found.ok_or_else(|| Error::OrderNotFound(notice.order.to_string()))?;
        if let Some(currency) = &notice.currency {
            self.check_currency(currency)?;
        }
        // A settled order does not change any more, whatever is said of it.
        if believed || order.status == OrderStatus::Success {
            return self.update(&order, notice.result.into()).await.map(SettledOrder::from);
        }
        if notice.result.amount().is_some_and(|amount| amount != order.amount) {
            return Err(order.amount_mismatch());
        }
        self.confirm(&order, notice.result, trace).await
    }

    /// Asks payment-service, and settles by its answer; then holds the hint against it.
    async fn confirm(&self, order: &Order, hint: NoticedResult, trace: &TraceContext) -> Result<SettledOrder> {
        let asking = self.confirmations.try_acquire();
        let _asking = asking.map_err(|_| Error::Overloaded("too many callbacks wait for payment-service".into()))?;
        let not_confirmed = |why| Error::PaymentUnavailable(format!("it does not confirm the callback: {why}"));
        let payment = self.gateway()?.payment_of(&order.id, trace).await.map_err(|error| {
            tracing::warn!(order = %order.id, %error, "payment-service does not tell the payment");
            Error::from(error)
        })?;
        let payment = payment.ok_or_else(|| not_confirmed("the order has no payment there"))?;
        let Some((settled, changed)) = self.settle_by(order, &payment).await? else {
            return Err(not_confirmed("the payment is not decided; send it again"));
        };
        let refusal = match hint {
            NoticedResult::Paid { .. } if settled.status != OrderStatus::Success => {
                Some(not_confirmed("the payment failed"))
            }
            _ if settled.status != OrderStatus::Success => None,
            // It is settled now; a hint of another payment is refused.
            hint => self.update(&settled, hint.into()).await.err(),
        };
        Ok(SettledOrder { order: settled, changed, refusal })
    }

    /// Settles an order by what payment-service says; `None` while that is undecided.
    async fn settle_by(&self, order: &Order, payment: &Payment) -> Result<Option<(Order, bool)>> {
        match self.news_of(payment)? {
            Some(payment_update) => self.update(order, payment_update).await.map(Some),
            None => Ok(None),
        }
    }

    /// What a payment means for its order; `None` while it is undecided.
    pub(super) fn news_of(&self, payment: &Payment) -> Result<Option<PaymentUpdate>> {
        Ok(match payment.state {
            PaymentState::Pending => None,
            PaymentState::Paid => {
                self.check_currency(&payment.currency)?;
                Some(PaymentUpdate::Paid { payment: payment.id.clone(), amount: payment.amount })
            }
            PaymentState::Failed => Some(PaymentUpdate::Failed { payment: Some(payment.id.clone()), amount: None }),
        })
    }

    pub(super) async fn update(&self, order: &Order, payment_update: PaymentUpdate) -> Result<(Order, bool)> {
        let update = OrderUpdate { user: order.user.clone(), order: order.id.clone(), payment_update };
        self.engine.update_order(update).await
    }
}
