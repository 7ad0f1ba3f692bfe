//! Statements of accounts by month, and the exports of all accounts.

mod accountant;
mod exports;
mod legacy;
mod months;

use billing_service::{
    app,
    biz::{
        jobs::archive::archive_records,
        values::calendar::{Calendar, Clock},
    },
    service::proto::{
        GetStatementReply, GetStatementRequest, RechargeCallbackRequest, RefundChargeRequest, RefundRechargeReply,
        RefundRechargeRequest, ResolvePaymentRequest, StatementLine,
    },
};
use serde_json::json;
use tonic::Status;

use crate::harness::{
    Backend, Service,
    payments::{Paying, press, signed, success},
    progress::Unwatched,
};

impl Service {
    async fn try_statement(&self, user: &str, month: &str) -> Result<GetStatementReply, Status> {
        let request = GetStatementRequest { user_id: user.into(), month: month.into() };
        self.public.clone().get_statement(request).await.map(|reply| reply.into_inner())
    }

    async fn statement(&self, user: &str, month: &str) -> GetStatementReply {
        self.try_statement(user, month).await.unwrap()
    }

    /// The text of an export on one of the ports.
    async fn csv(&self, path: &str) -> String {
        let port = if path.starts_with("/internal/") { self.app.grpc_addr } else { self.app.http_addr };
        let response = self.http.get(format!("http://{port}{path}")).send().await.unwrap();
        let (status, kind) = (response.status(), response.headers()["content-type"].to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        assert_eq!((status.as_u16(), kind.as_str()), (200, "text/csv; charset=utf-8"), "{text}");
        text
    }

    /// The statement of a month in each of its forms.
    async fn bytes_of(&self, user: &str, month: &str) -> [String; 4] {
        let query = format!("user_id={user}&month={month}");
        let url = format!("http://{}/api/v1/billing/statement?{query}", self.app.http_addr);
        [
            format!("{:?}", self.statement(user, month).await),
            self.http.get(url).send().await.unwrap().text().await.unwrap(),
            self.csv(&format!("/api/v1/billing/statement.csv?{query}")).await,
            self.csv(&format!("/internal/v1/billing/statements.csv?month={month}")).await,
        ]
    }

    /// Moves the records of all months but this one and the last.
    async fn archive(&self) -> u64 {
        let store = app::connect(&self.database.config(&[])).await.unwrap();
        let calendar = Calendar::new(chrono_tz::Asia::Shanghai, self.clock.clone());
        let moved = archive_records(&*store, &calendar, 1.try_into().unwrap(), false, &Unwatched).await.unwrap();
        store.close().await;
        moved.moved.records
    }
}

/// Millionths. A double has them exactly.
fn micros(amount: f64) -> i64 {
    (amount * 1e6).round() as i64
}

/// A line in short: kind, service, model, closed month; calls, free and paid units; amount.
type Short<'l> = ([&'l str; 4], [i64; 3], f64);

fn lines(statement: &GetStatementReply) -> Vec<Short<'_>> {
    statement.lines.iter().map(short).collect()
}

fn short(line: &StatementLine) -> Short<'_> {
    let StatementLine { kind, service_name, model, late_of, calls, free_count, paid_count, .. } = line;
    assert_eq!(line.units, free_count + paid_count);
    ([kind, service_name, model, late_of], [*calls, *free_count, *paid_count], line.amount)
}

/// Fails unless the lines add up, and each statement continues the one before. Returns the last closing balance.
async fn assert_chain(service: &Service, user: &str, months: &[&str]) -> f64 {
    let mut before = 0;
    for month in months {
        let statement = service.statement(user, month).await;
        let moved: i64 = statement.lines.iter().map(|line| micros(line.amount)).sum();
        assert_eq!(micros(statement.opening_balance), before, "opening of {user} in {month}: {statement:?}");
        assert_eq!(before + moved, micros(statement.closing_balance), "closing of {user} in {month}: {statement:?}");
        before = micros(statement.closing_balance);
    }
    before as f64 / 1e6
}

/// A refund of a top-up.
fn refund_of(order: &str, id: &str, amount: f64) -> RefundRechargeRequest {
    RefundRechargeRequest {
        order_id: order.into(),
        refund_id: id.into(),
        amount,
        reason: "for a test".into(),
        force: true,
    }
}

/// A refund of some units of a charge; of all that are left, without a count.
fn refund(user: &str, trace: &str, id: &str, count: Option<i32>) -> RefundChargeRequest {
    RefundChargeRequest {
        user_id: user.into(),
        trace_id: trace.into(),
        refund_id: id.into(),
        count,
        reason: "for a test".into(),
    }
}

/// Money between a service on a test clock and the sandbox. The sandbox signs with the time of the machine,
/// so it loses its callbacks, and the test sends its own.
impl Paying {
    /// Sends a callback that is signed at the time of the test clock.
    async fn report(&self, callback: RechargeCallbackRequest) -> Result<(), Status> {
        let request = signed(callback, self.service.clock.now());
        self.service.internal.clone().recharge_callback(request).await.map(drop)
    }

    /// An order that is paid, but not reported.
    async fn unreported(&self, user: &str, amount: f64) -> String {
        let reply = self.recharge(user, amount).await;
        press(&self.service.http, &reply.payment_url, "SUCCESS").await;
        reply.order_id
    }

    async fn settle(&self, order: &str, amount: f64) {
        let payment = self.order(order).await.payment_order_id;
        self.report(success(order, &payment, amount)).await.unwrap();
    }

    /// A credited top-up.
    async fn top_up(&self, user: &str, amount: f64) -> String {
        let order = self.unreported(user, amount).await;
        self.settle(&order, amount).await;
        order
    }

    async fn give_back(&self, request: RefundRechargeRequest) -> RefundRechargeReply {
        self.service.internal.clone().refund_recharge(request).await.unwrap().into_inner()
    }

    /// Reports that money went back without a request, with status REFUNDED or CHARGEBACK.
    async fn take_back(&self, order: &str, (id, status): (&str, &str), amount: f64) {
        let payment = self.order(order).await.payment_order_id;
        let report = success(order, &payment, amount);
        self.report(RechargeCallbackRequest { status: status.into(), refund_id: id.into(), ..report }).await.unwrap();
    }

    /// Credits a second payment of an order to a user.
    async fn credit_unapplied(&self, order: &str, payment: &str, (user, amount): (&str, f64)) {
        assert!(self.report(success(order, payment, amount)).await.is_err());
        let request = ResolvePaymentRequest {
            payment_order_id: payment.into(),
            action: "credit".into(),
            user_id: user.into(),
            reason: "for a test".into(),
        };
        self.service.internal.clone().resolve_payment(request).await.unwrap();
    }
}

/// A service whose `asset` has 5 free units a month and costs 0.05 a unit, in the middle of October.
async fn start(on: Backend) -> Paying {
    let paying = Paying::start_with(on, &[("billing.free_quotas.asset", "5")]).await;
    paying.service.clock.set("2026-10-10T04:00:00Z");
    paying.switch(json!({"lose": true}));
    paying
}
