//! One payment: the order from billing and the outcome.

use std::sync::Arc;

use http::Uri;

use super::{
    amount::Amount,
    refund::{RefundState, SandboxRefund},
};
use crate::{
    biz::values::{currency::Currency, invalid::Invalid},
    data::payment::proto::{CreatePaymentRequest, PaymentMethod},
};

/// Characters, all ASCII: the size of the column in billing's table.
const MAX_ORDER_ID: usize = 64;
const MAX_SUBJECT: usize = 256;
const MAX_URL: usize = 2_048;

#[derive(Debug, Clone)]
pub struct SandboxPayment {
    pub id: String,
    pub order: Arc<SandboxOrder>,
    /// `None` until the user has tried to pay.
    pub outcome: Option<PaymentOutcome>,
    /// Refunds and chargebacks, oldest first.
    pub refunds: Vec<SandboxRefund>,
}

impl SandboxPayment {
    pub fn refund(&self, id: &str) -> Option<&SandboxRefund> {
        self.refunds.iter().find(|refund| refund.id == id)
    }

    /// The amount that no refund has taken or is about to take, in minor units. Nothing before the
    /// payment.
    pub fn left(&self) -> i64 {
        if self.outcome != Some(PaymentOutcome::Success) {
            return 0;
        }
        let taken = self.refunds.iter().filter(|refund| refund.state != RefundState::Failed);
        self.order.amount.minor() - taken.map(|refund| refund.amount.minor()).sum::<i64>()
    }
}

/// The result of an attempt to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentOutcome {
    Success,
    /// A success may follow, because the user can try again.
    Failed,
}

impl PaymentOutcome {
    /// SUCCESS or FAILED, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Success, Self::Failed].into_iter().find(|outcome| text.eq_ignore_ascii_case(outcome.as_str()))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
        }
    }
}

/// The order: amount, method, and the URLs of user and billing.
#[derive(Debug)]
pub struct SandboxOrder {
    pub id: String,
    pub amount: Amount,
    pub method: Method,
    pub subject: String,
    pub return_url: String,
    pub notify_url: NotifyUrl,
}

impl SandboxOrder {
    /// # Errors
    /// The first invalid field and its rule.
    pub fn parse(request: CreatePaymentRequest) -> Result<Self, Invalid> {
        let method = Method::parse(request.method())?;
        let id = request.order_id;
        if !(1..=MAX_ORDER_ID).contains(&id.len()) || !id.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(Invalid::new("order_id", "must be 1 to 64 printable ASCII characters"));
        }
        let currency = Currency::parse(&request.currency);
        let currency = currency.ok_or_else(|| Invalid::new("currency", "must be a code of ISO 4217, such as CNY"))?;
        if request.subject.chars().count() > MAX_SUBJECT {
            return Err(Invalid::new("subject", "must be at most 256 characters"));
        }
        if request.return_url.len() > MAX_URL {
            return Err(Invalid::new("return_url", "must be at most 2048 bytes"));
        }
        Ok(Self {
            id,
            amount: Amount::parse(request.amount, currency)?,
            method,
            subject: request.subject,
            return_url: request.return_url,
            notify_url: NotifyUrl::parse(&request.notify_url)?,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Alipay,
    WechatPay,
    Stripe,
}

impl Method {
    fn parse(method: PaymentMethod) -> Result<Self, Invalid> {
        match method {
            PaymentMethod::Alipay => Ok(Self::Alipay),
            PaymentMethod::Wechatpay => Ok(Self::WechatPay),
            PaymentMethod::Stripe => Ok(Self::Stripe),
            PaymentMethod::Unspecified => Err(Invalid::new("method", "must be ALIPAY, WECHATPAY or STRIPE")),
        }
    }

    /// The name on the pay page.
    pub fn words(self) -> &'static str {
        match self {
            Self::Alipay => "Alipay",
            Self::WechatPay => "WeChat Pay",
            Self::Stripe => "Card (Stripe)",
        }
    }
}

/// The destination of callbacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyUrl {
    /// Receives the callback as a POST of JSON.
    Http(Uri),
    /// `http://host:port` of a server of the RechargeCallback rpc. In requests: `grpc://host:port`.
    Grpc(Uri),
}

impl NotifyUrl {
    fn parse(text: &str) -> Result<Self, Invalid> {
        const FORMS: &str = "must be http://... or grpc://host:port, at most 2048 bytes";
        let invalid = |why: &str| Invalid::new("notify_url", why);
        let uri: Uri = text.parse().ok().filter(|_| text.len() <= MAX_URL).ok_or_else(|| invalid(FORMS))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(_)) => Ok(Self::Http(uri)),
            (Some("https"), _) => Err(invalid("the sandbox sends callbacks over plain HTTP only: use http://")),
            (Some("grpc"), Some(server)) if server.port().is_some() && uri.path() == "/" && uri.query().is_none() => {
                let server = format!("http://{server}").parse().map_err(|_| invalid(FORMS))?;
                Ok(Self::Grpc(server))
            }
            _ => Err(invalid(FORMS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CreatePaymentRequest {
        CreatePaymentRequest {
            order_id: "order-1".into(),
            amount: 1_234,
            currency: "CNY".into(),
            method: PaymentMethod::Alipay.into(),
            notify_url: "http://127.0.0.1:8107/callback".into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_invalid_order_is_refused_with_the_name_of_its_field() {
        assert!(SandboxOrder::parse(request()).is_ok());
        for (field, bad) in [
            ("order_id", CreatePaymentRequest { order_id: String::new(), ..request() }),
            ("order_id", CreatePaymentRequest { order_id: "x".repeat(65), ..request() }),
            ("order_id", CreatePaymentRequest { order_id: "a\nb".into(), ..request() }),
            ("amount", CreatePaymentRequest { amount: 0, ..request() }),
            ("amount", CreatePaymentRequest { amount: -1, ..request() }),
            ("amount", CreatePaymentRequest { amount: i64::MAX, ..request() }),
            ("currency", CreatePaymentRequest { currency: "cny".into(), ..request() }),
            ("currency", CreatePaymentRequest { currency: String::new(), ..request() }),
            ("method", CreatePaymentRequest { method: 0, ..request() }),
            ("method", CreatePaymentRequest { method: 9, ..request() }),
            ("subject", CreatePaymentRequest { subject: "主".repeat(257), ..request() }),
            ("return_url", CreatePaymentRequest { return_url: "x".repeat(2_049), ..request() }),
        ] {
            assert_eq!(SandboxOrder::parse(bad.clone()).unwrap_err().field, field, "{bad:?}");
        }
    }

    #[test]
    fn a_callback_goes_over_http_or_grpc() {
        let http = NotifyUrl::parse("http://billing/internal/v1/billing/callback?a=b").unwrap();
        assert!(matches!(http, NotifyUrl::Http(_)));
        for grpc in ["grpc://127.0.0.1:9107", "grpc://billing:9107/"] {
            assert!(
                matches!(NotifyUrl::parse(grpc), Ok(NotifyUrl::Grpc(server)) if server.scheme_str() == Some("http"))
            );
        }
        for bad in ["", "/callback", "billing:9107", "ftp://a/", "grpc://billing", "grpc://a:1/path", "grpc://a:1?b"] {
            assert_eq!(NotifyUrl::parse(bad).unwrap_err().field, "notify_url", "{bad}");
        }
        let https = NotifyUrl::parse("https://billing/callback").unwrap_err();
        assert!(https.why.contains("plain HTTP only"), "{https}");
    }
}
