//! The rpcs of `payment.v1`, which billing calls.

use std::sync::Arc;

use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::{
    payment::{PaymentOutcome, SandboxOrder, SandboxPayment},
    refund::{RefundRefusal, RefundState},
    switches::{Create, Get, GetRefund, Refund},
    till::Till,
};
use crate::data::payment::proto::{
    CreatePaymentReply, CreatePaymentRequest, CreateRefundReply, CreateRefundRequest, GetPaymentReply,
    GetPaymentRequest, GetRefundReply, GetRefundRequest, PaymentStatus, RefundStatus, payment_server,
};

/// Characters of a refund id.
const MAX_REFUND_ID: usize = 128;

pub struct Rpcs(pub Arc<Till>);

#[tonic::async_trait]
impl payment_server::Payment for Rpcs {
    async fn create_payment(
        &self,
        request: Request<CreatePaymentRequest>,
    ) -> Result<Response<CreatePaymentReply>, Status> {
        let delay = self.0.switches().create_delay();
        let reply = self.create(request.into_inner());
        sleep(delay).await;
        reply.map(Response::new)
    }

    async fn get_payment(&self, request: Request<GetPaymentRequest>) -> Result<Response<GetPaymentReply>, Status> {
        let delay = self.0.switches().get_delay();
        let reply = self.get(&request.into_inner());
        sleep(delay).await;
        reply.map(Response::new)
    }

    async fn create_refund(
        &self,
        request: Request<CreateRefundRequest>,
    ) -> Result<Response<CreateRefundReply>, Status> {
        let delay = self.0.switches().refund_delay();
        let reply = self.refund(&request.into_inner());
        sleep(delay).await;
        reply.map(Response::new)
    }

    async fn get_refund(&self, request: Request<GetRefundRequest>) -> Result<Response<GetRefundReply>, Status> {
        let delay = self.0.switches().get_delay();
        let reply = self.refund_of(&request.into_inner());
        sleep(delay).await;
        reply.map(Response::new)
    }
}

impl Rpcs {
    fn create(&self, request: CreatePaymentRequest) -> Result<CreatePaymentReply, Status> {
        let switches = self.0.switches();
        match switches.create {
            Create::Normal | Create::GarbageReply => {}
            Create::Refuse => return Err(Status::failed_precondition("refused by the switch")),
            Create::Unavailable => return Err(Status::unavailable("unavailable by the switch")),
        }
        let order = SandboxOrder::parse(request).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        let order_id = order.id.clone();
        let payment = self.0.open(order).ok_or_else(|| {
            tracing::info!(order_id, "order already has a payment");
            Status::already_exists("order_id: this order already has a payment")
        })?;
        let mut reply = CreatePaymentReply { status: PaymentStatus::Pending.into(), ..Default::default() };
        if switches.create != Create::GarbageReply {
            reply.pay_url = self.0.pay_url(&payment.id);
            reply.payment_id = payment.id;
        }
        Ok(reply)
    }

    fn refund(&self, request: &CreateRefundRequest) -> Result<CreateRefundReply, Status> {
        let switch = self.0.switches().refund;
        match switch {
            Refund::Normal | Refund::LoseReply | Refund::Pending | Refund::Fail => {}
            Refund::Refuse => return Err(Status::failed_precondition("refused by the switch")),
            Refund::Unavailable => return Err(Status::unavailable("unavailable by the switch")),
        }
        if !(1..=MAX_REFUND_ID).contains(&request.refund_id.len()) {
            return Err(Status::invalid_argument("refund_id: must be 1 to 128 characters"));
        }
        let payments = &self.0.payments;
        let payment = match (request.payment_id.as_str(), request.order_id.as_str()) {
            ("", order_id) => payments.by_order(order_id),
            (id, _) => payments.by_id(id),
        };
        let payment = payment.ok_or_else(|| Status::not_found("payment not found"))?;
        let refund =
            self.0.refund(&payment.id, &request.refund_id, request.amount).map_err(|refusal| match refusal {
                RefundRefusal::UnknownPayment => Status::not_found(refusal.why()),
                RefundRefusal::Amount => Status::invalid_argument(refusal.why()),
                RefundRefusal::OtherContent => Status::already_exists(refusal.why()),
                RefundRefusal::NotLeft | RefundRefusal::TooMany => Status::failed_precondition(refusal.why()),
            })?;
        if switch == Refund::LoseReply {
            return Err(Status::unavailable("the reply is lost by the switch"));
        }
        Ok(CreateRefundReply { refund_id: refund.id, status: status(refund.state).into() })
    }

    fn refund_of(&self, request: &GetRefundRequest) -> Result<GetRefundReply, Status> {
        match self.0.switches().get_refund {
            GetRefund::Normal => {}
            GetRefund::Refuse => return Err(Status::failed_precondition("refused by the switch")),
            GetRefund::Unavailable => return Err(Status::unavailable("unavailable by the switch")),
        }
        let found = self.0.payments.refund(&request.refund_id);
        let (payment, refund) = found.ok_or_else(|| Status::not_found("refund not found"))?;
        Ok(GetRefundReply {
            refund_id: refund.id,
            status: status(refund.state).into(),
            payment_id: payment.id,
            order_id: payment.order.id.clone(),
            amount: refund.amount.minor(),
            currency: refund.amount.currency().to_string(),
        })
    }

    fn get(&self, request: &GetPaymentRequest) -> Result<GetPaymentReply, Status> {
        let switch = self.0.switches().get;
        match switch {
            Get::Normal | Get::WrongOrder | Get::WrongAmount | Get::WrongCurrency => {}
            Get::Refuse => return Err(Status::failed_precondition("refused by the switch")),
            Get::Unavailable => return Err(Status::unavailable("unavailable by the switch")),
        }
        let payments = &self.0.payments;
        let payment = match (request.order_id.as_str(), request.payment_id.as_str()) {
            ("", "") => return Err(Status::invalid_argument("payment_id or order_id: one is required")),
            ("", id) => payments.by_id(id),
            (order_id, _) => payments.by_order(order_id),
        };
        payment.map(|payment| with_fault(reply(payment), switch)).ok_or_else(|| Status::not_found("payment not found"))
    }
}

fn status(state: RefundState) -> RefundStatus {
    match state {
        RefundState::Pending => RefundStatus::Pending,
        RefundState::Success => RefundStatus::Success,
        RefundState::Failed => RefundStatus::Failed,
    }
}

fn reply(payment: SandboxPayment) -> GetPaymentReply {
    let status = match payment.outcome {
        None => PaymentStatus::Pending,
        Some(PaymentOutcome::Success) => PaymentStatus::Success,
        Some(PaymentOutcome::Failed) => PaymentStatus::Failed,
    };
    GetPaymentReply {
        payment_id: payment.id,
        order_id: payment.order.id.clone(),
        amount: payment.order.amount.minor(),
        currency: payment.order.amount.currency().to_string(),
        status: status.into(),
    }
}

/// Injects the fault of the switch into a reply.
fn with_fault(mut reply: GetPaymentReply, switch: Get) -> GetPaymentReply {
    match switch {
        Get::Normal | Get::Refuse | Get::Unavailable => {}
        Get::WrongOrder => reply.order_id.insert_str(0, "not-"),
        Get::WrongAmount => reply.amount += 1,
        Get::WrongCurrency => reply.currency = if reply.currency == "USD" { "CNY" } else { "USD" }.into(),
    }
    reply
}
