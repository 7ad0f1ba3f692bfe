//! The rpcs of top-ups: start, callback and list; refunds and unapplied payments.

mod admission;
mod hints;
mod refund;
mod unapplied;

use std::{sync::Arc, time::Instant};

use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use self::{admission::Admission, hints::Hints};
use super::{
    convert::int32,
    origin::Origin,
    proto::{
        GetRechargeOrderRequest, ListRechargeOrdersReply, ListRechargeOrdersRequest, RechargeCallbackReply,
        RechargeCallbackRequest, RechargeOrder, RechargeReply, RechargeRequest,
    },
    reads::Reads,
    reports::paging::Page,
    request::RequestId,
};
use crate::{
    biz::{
        recharge::{
            RechargeStore, Recharges,
            callback::{Notice, NoticedResult, SettledOrder},
            order::OrderFilter,
            request::{NewRecharge, Started},
            returned::Returned,
        },
        settlement::{
            order::{Order, PaymentMethod},
            posting::ReportedRefund,
        },
        values::{
            currency::Currency,
            error::{Error, Result},
            ids::{IdempotencyKey, OrderId, PaymentId, RefundId, UserId},
            invalid::Invalid,
            money::Money,
        },
    },
    context,
    metrics::Metrics,
};

/// The labels of a callback without a proof beyond its rate, in the metric of refused requests.
const UNPROVEN: &str = "unknown";
const BEYOND_RATE: &str = "callbacks";

/// Starts top-ups, settles them by callbacks, and shows their orders.
pub struct RechargeService {
    pub recharges: Arc<Recharges>,
    pub orders: Arc<dyn RechargeStore>,
    pub metrics: Arc<Metrics>,
    /// The currency of every amount.
    pub currency: Currency,
    /// Tasks of top-ups, which go on when their callers go away.
    pub tasks: TaskTracker,
    pub admission: Admission,
    pub hints: Hints,
    pub reads: Reads,
}

impl RechargeService {
    /// Starts a top-up in a task of its own, which goes on when the caller goes away.
    /// `request_id` learns the idempotency key, by which a retry finds the order.
    pub async fn recharge(
        &self,
        mut request: RechargeRequest,
        origin: Origin,
        request_id: &RequestId,
    ) -> Result<RechargeReply> {
        let started = Instant::now();
        if request.idempotency_key.is_empty() {
            request.idempotency_key = Uuid::now_v7().to_string();
        }
        request_id.note_retry_id("idempotency_key", &request.idempotency_key);
        let recharge = parse_recharge(request, &origin)?;
        let admitted = self.admission.admit(&recharge.user, origin.counted_ip)?;
        let (recharges, metrics) = (self.recharges.clone(), self.metrics.clone());
        let starting = async move {
            let _admitted = admitted;
            let made = recharges.start(recharge, &origin.trace).await;
            metrics.recharge.count_start(&made, started.elapsed());
            made
        };
        let starting = self.tasks.spawn(context::carry(starting));
        let made = starting.await.map_err(|error| Error::Internal(format!("a top-up ended abnormally: {error}")))?;
        let Started { order, page, .. } = made?;
        Ok(RechargeReply { order_id: order.id.to_string(), payment_url: page? })
    }

    pub async fn recharge_callback(
        &self,
        request: RechargeCallbackRequest,
        origin: Origin,
    ) -> Result<RechargeCallbackReply> {
        let started = Instant::now();
        let origin = origin.of_callback();
        let report = parse_report(request).inspect_err(|error| self.count_refused_callback(error))?;
        if !origin.is_trusted {
            self.hints.admit(origin.client_ip).inspect_err(|error| {
                self.metrics.requests.count_refused(UNPROVEN, BEYOND_RATE);
                self.count_refused_callback(error);
            })?;
        }
        let notice = match report {
            Report::Payment(notice) => notice,
            Report::Returned(returned) => return self.settle_returned(returned, &origin, started).await,
        };
        let order = notice.order.clone();
        let settled = self.recharges.settle(notice, origin.is_trusted, &origin.trace).await;
        if !origin.is_trusted && matches!(settled, Err(Error::OrderNotFound(_))) {
            self.hints.note_unknown(origin.client_ip);
        }
        self.metrics.recharge.count_callback(&settled, started.elapsed());
        if let Ok(SettledOrder { order: settled, changed: true, .. }) = &settled {
            tracing::info!(%order, status = %settled.status, "order settled by a callback");
        }
        let refusal = settled.map_or_else(Some, |settled| settled.refusal);
        match refusal {
            None => Ok(RechargeCallbackReply { success: true }),
            Some(error) => {
                let left_out = if origin.is_trusted { Some(0) } else { self.hints.line() };
                if let Some(left_out) = left_out {
                    tracing::warn!(%order, %error, left_out, "payment callback refused");
                }
                Err(error)
            }
        }
    }

    /// Counts and logs a callback that is refused before its order is known.
    pub fn count_refused_callback(&self, error: &Error) {
        if let Some(left_out) = self.hints.line() {
            tracing::warn!(%error, left_out, "payment callback refused");
        }
        self.metrics.recharge.count_refused();
    }

    pub async fn get_recharge_order(&self, request: GetRechargeOrderRequest) -> Result<RechargeOrder> {
        let id = OrderId::parse("order_id", &request.order_id)?;
        let user = UserId::parse_optional("user_id", &request.user_id)?;
        let order = self.orders.order(&id).await?;
        order
            .filter(|order| user.is_none_or(|user| user == order.user))
            .map(|order| self.order_reply(&order))
            .ok_or_else(|| Error::OrderNotFound(id.to_string()))
    }

    pub async fn list_recharge_orders(&self, request: ListRechargeOrdersRequest) -> Result<ListRechargeOrdersReply> {
        let page = Page::parse(request.page, request.page_size, &request.page_token)?;
        let filter = OrderFilter {
            user: UserId::parse("user_id", &request.user_id)?,
            status: Some(request.status)
                .filter(|status| !status.is_empty())
                .map(|status| status.parse())
                .transpose()?,
        };
        let _turn = self.reads.begin(&filter.user).await?;
        let (orders, total) = futures_util::try_join!(
            self.orders.orders(&filter, &page.start, page.size + 1),
            self.orders.count_orders(&filter),
        )?;
        let (orders, next_page_token) = page.cut(&orders, |order| (order.created_at, order.id.as_str()));
        let orders = orders.iter().map(|order| self.order_reply(order)).collect();
        Ok(ListRechargeOrdersReply { orders, total: int32(total), next_page_token })
    }

    fn order_reply(&self, order: &Order) -> RechargeOrder {
        RechargeOrder {
            order_id: order.id.to_string(),
            user_id: order.user.to_string(),
            amount: order.amount.to_wire(),
            currency: self.currency.to_string(),
            payment_method: order.method.map(PaymentMethod::name).unwrap_or_default().to_owned(),
            status: order.status.to_string(),
            payment_order_id: order.payment.as_ref().map(PaymentId::to_string).unwrap_or_default(),
            payment_url: order.payment_url.clone().unwrap_or_default(),
            refunded_amount: order.refunded.to_wire(),
            created_at: Some(order.created_at.into()),
            updated_at: Some(order.updated_at.into()),
        }
    }
}

fn parse_recharge(request: RechargeRequest, origin: &Origin) -> Result<NewRecharge> {
    Ok(NewRecharge {
        user: UserId::parse("user_id", &request.user_id)?,
        amount: Money::from_wire("amount", request.amount)?,
        method: request.payment_method.parse()?,
        currency: given(request.currency),
        client_ip: origin.client_ip,
        return_to: origin.return_to.clone(),
        idempotency_key: IdempotencyKey::parse_optional("idempotency_key", &request.idempotency_key)?,
    })
}

/// A callback of payment-service.
enum Report {
    Payment(Notice),
    /// Money that went back.
    Returned(Returned),
}

fn parse_report(request: RechargeCallbackRequest) -> Result<Report> {
    let order = OrderId::parse("order_id", &request.order_id)?;
    let amount = Money::from_wire("amount", request.amount)?;
    let payment = || PaymentId::parse_optional("payment_order_id", &request.payment_order_id);
    let result = match request.status.to_ascii_uppercase().as_str() {
        "SUCCESS" => {
            NoticedResult::Paid { payment: PaymentId::parse("payment_order_id", &request.payment_order_id)?, amount }
        }
        "FAILED" => {
            NoticedResult::Failed { payment: payment()?, amount: Some(amount).filter(|amount| !amount.is_zero()) }
        }
        status @ ("REFUNDED" | "CHARGEBACK") => {
            let id = RefundId::parse("refund_id", &request.refund_id)?;
            let report = ReportedRefund { is_chargeback: status == "CHARGEBACK", payment: payment()?, amount };
            return Ok(Report::Returned(Returned { order, id, report, currency: given(request.currency) }));
        }
        _ => return Err(Invalid::new("status", "must be SUCCESS, FAILED, REFUNDED or CHARGEBACK").into()),
    };
    Ok(Report::Payment(Notice { order, result, currency: given(request.currency) }))
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
