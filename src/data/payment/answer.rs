//! Converts replies of payment-service to domain values.

use super::proto::{
    self, CreatePaymentReply, CreateRefundReply, GetPaymentReply, GetRefundReply, PaymentStatus, RefundStatus,
};
use crate::biz::{
    recharge::gateway::{
        FoundRefund, FoundRefundContent, OpenedPayment, Payment, PaymentError, PaymentState, RefundState,
    },
    settlement::order::PaymentMethod,
    values::ids::{OrderId, PaymentId, RefundId},
};

/// Bytes; the size of the column in the orders.
const MAX_URL: usize = 2_048;

pub(super) fn method(method: PaymentMethod) -> proto::PaymentMethod {
    match method {
        PaymentMethod::Alipay => proto::PaymentMethod::Alipay,
        PaymentMethod::Wechatpay => proto::PaymentMethod::Wechatpay,
        PaymentMethod::Stripe => proto::PaymentMethod::Stripe,
    }
}

/// The opened payment. Fails if the reply has no usable URL.
pub(super) fn opened(reply: CreatePaymentReply) -> Result<OpenedPayment, PaymentError> {
    if matches!(reply.status(), PaymentStatus::Failed | PaymentStatus::Closed) {
        return Err(PaymentError::Refused("the payment failed at once".into()));
    }
    let id = payment_id(&reply.payment_id)?;
    let url = if reply.pay_url.is_empty() { reply.pay_code } else { reply.pay_url };
    if !(1..=MAX_URL).contains(&url.len()) || !url.bytes().all(|byte| byte.is_ascii_graphic()) || is_script(&url) {
        return Err(malformed("the payment URL"));
    }
    Ok(OpenedPayment { id, url })
}

/// The payment of an order.
pub(super) fn payment_of(reply: GetPaymentReply, order: &OrderId) -> Result<Payment, PaymentError> {
    if reply.order_id != order.as_str() {
        return Err(malformed("the order of the payment"));
    }
    payment(reply)
}

/// The payment with an id.
pub(super) fn payment_with(reply: GetPaymentReply, id: &PaymentId) -> Result<Payment, PaymentError> {
    if reply.payment_id != id.as_str() {
        return Err(malformed("the id of the payment"));
    }
    payment(reply)
}

fn payment(reply: GetPaymentReply) -> Result<Payment, PaymentError> {
    let state = match reply.status() {
        PaymentStatus::Success => PaymentState::Paid,
        PaymentStatus::Failed | PaymentStatus::Closed => PaymentState::Failed,
        PaymentStatus::Pending | PaymentStatus::Unspecified => PaymentState::Pending,
    };
    let order = OrderId::parse("order_id", &reply.order_id).map_err(|_| malformed("the order of the payment"))?;
    let id = payment_id(&reply.payment_id)?;
    Ok(Payment { id, order, minor_amount: reply.amount, currency: reply.currency, state })
}

pub(super) fn refunded(reply: &CreateRefundReply, id: &RefundId) -> Result<RefundState, PaymentError> {
    check_refund_id(&reply.refund_id, id)?;
    Ok(refund_state(reply.status()))
}

pub(super) fn refund(reply: GetRefundReply, id: &RefundId) -> Result<FoundRefund, PaymentError> {
    check_refund_id(&reply.refund_id, id)?;
    let state = refund_state(reply.status());
    let order =
        OrderId::parse_optional("order_id", &reply.order_id).map_err(|_| malformed("the order of the refund"))?;
    let payment = PaymentId::parse_optional("payment_id", &reply.payment_id);
    let payment = payment.map_err(|_| malformed("the payment of the refund"))?;
    let (minor_amount, currency) = (reply.amount, reply.currency);
    Ok(FoundRefund { state, content: order.map(|order| FoundRefundContent { order, payment, minor_amount, currency }) })
}

/// An answer may leave the id out.
fn check_refund_id(answered: &str, id: &RefundId) -> Result<(), PaymentError> {
    if answered.is_empty() || answered == id.as_str() { Ok(()) } else { Err(malformed("the id of the refund")) }
}

/// An unknown status counts as pending.
fn refund_state(status: RefundStatus) -> RefundState {
    match status {
        RefundStatus::Success => RefundState::Success,
        RefundStatus::Failed => RefundState::Failed,
        RefundStatus::Pending | RefundStatus::Unspecified => RefundState::Pending,
    }
}

fn payment_id(id: &str) -> Result<PaymentId, PaymentError> {
    PaymentId::parse("payment_id", id).map_err(|_| malformed("the id of the payment"))
}

/// Whether a browser would run the URL as a script in the page of the front end.
fn is_script(url: &str) -> bool {
    let scheme = url.split(':').next().unwrap_or_default();
    ["javascript", "data", "vbscript"].iter().any(|script| scheme.eq_ignore_ascii_case(script))
}

fn malformed(what: &str) -> PaymentError {
    PaymentError::Malformed(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(payment_id: &str, pay_url: &str) -> CreatePaymentReply {
        CreatePaymentReply { payment_id: payment_id.into(), pay_url: pay_url.into(), ..Default::default() }
    }

    #[test]
    fn the_payment_url_is_the_pay_page_or_the_content_of_a_qr_code() {
        assert_eq!(opened(reply("p-1", "https://pay/p-1")).unwrap().url, "https://pay/p-1");
        let code = CreatePaymentReply { pay_code: "weixin://wxpay/x".into(), ..reply("p-1", "") };
        assert_eq!(opened(code).unwrap().url, "weixin://wxpay/x");
    }

    #[test]
    fn a_reply_without_a_payment_url_is_unusable() {
        let long = format!("https://{}", "x".repeat(MAX_URL));
        for (id, url) in [
            ("", "https://pay"),
            ("p 1", "https://pay"),
            (&*"p".repeat(65), "https://pay"),
            ("p-1", ""),
            ("p-1", "https://pay/\n"),
            ("p-1", &long),
            ("p-1", "JavaScript:alert(1)"),
        ] {
            assert!(matches!(opened(reply(id, url)), Err(PaymentError::Malformed(_))), "{id} {url}");
        }
    }

    #[test]
    fn the_payment_of_another_order_is_refused() {
        let order = OrderId::from_stored("o-1");
        let reply = |order_id: &str, status| GetPaymentReply {
            payment_id: "p-1".into(),
            order_id: order_id.into(),
            amount: 1_999,
            currency: "CNY".into(),
            status,
        };
        assert!(payment_of(reply("o-2", 2), &order).is_err());
        assert!(payment_with(reply("o-2", 2), &PaymentId::from_stored("p-2")).is_err());
        let paid = payment_of(reply("o-1", 2), &order).unwrap();
        assert_eq!((paid.minor_amount, paid.state), (1_999, PaymentState::Paid));
        // An unknown status counts as pending.
        assert_eq!(payment_of(reply("o-1", 77), &order).unwrap().state, PaymentState::Pending);
        assert_eq!(payment_with(reply("o-2", 2), &PaymentId::from_stored("p-1")).unwrap().order.as_str(), "o-2");
    }

    #[test]
    fn the_answer_for_another_refund_is_malformed() {
        let id = RefundId::from_stored("r");
        let reply = |refund_id: &str, status| CreateRefundReply { refund_id: refund_id.into(), status };
        assert!(refunded(&reply("other", 2), &id).is_err());
        for (status, state) in [(2, RefundState::Success), (3, RefundState::Failed), (1, RefundState::Pending)] {
            assert_eq!(refunded(&reply("r", status), &id).unwrap(), state);
        }
        // An unknown status is never taken for a decision.
        assert_eq!(refunded(&reply("", 77), &id).unwrap(), RefundState::Pending);
        let bare = GetRefundReply { refund_id: "r".into(), status: 2, ..Default::default() };
        assert_eq!(refund(bare.clone(), &id).unwrap(), FoundRefund { state: RefundState::Success, content: None });
        let named = GetRefundReply { order_id: "o".into(), amount: 5, currency: "CNY".into(), ..bare };
        let content = refund(named.clone(), &id).unwrap().content.unwrap();
        assert_eq!((content.minor_amount, content.payment), (5, None));
        let paid = GetRefundReply { payment_id: "p".into(), ..named };
        assert_eq!(refund(paid.clone(), &id).unwrap().content.unwrap().payment, Some(PaymentId::from_stored("p")));
        assert!(refund(GetRefundReply { payment_id: "p p".into(), ..paid }, &id).is_err());
    }
}
