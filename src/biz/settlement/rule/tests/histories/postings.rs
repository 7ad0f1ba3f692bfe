//! Steps of the model as postings, and its numbers as ids.

use std::sync::Arc;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    StoppedClock, events,
    model::{
        Call, MODELS, Moment, OrderRefundStep, OrderStep, Overrun, Policy, Priced, RefundRequest, Report, SERVICES,
        Service, Status, Step, TTL_MINUTES, Tokens, order_amount, stray_amount,
    },
};
use crate::biz::{
    account::{
        catalog::{Catalog, Price, QuotaUnit, ServiceTerms},
        policy::{AboveHold, OnExpiry},
        quota_weights::QuotaWeights,
    },
    audit_trail::{
        ADJUST_BALANCE, Actor, AuditedCall, REFUND_CHARGE, REFUND_RECHARGE, RESOLVE_PAYMENT, SET_ACCOUNT_STATUS,
        SET_ALERTS, SET_USER_PLAN,
    },
    charge::{
        prices::{CLASSES, Class, Draft, Given, PlanPrices, PriceBook, PriceVersion, Prices},
        quote::{Ask, Quoter},
    },
    recharge::unapplied::UnappliedReport,
    settlement::{
        order::{Order, OrderStatus},
        order_refund::OrderRefundContent,
        posting::{
            self, Adjustment, AdjustmentContent, AlertsChange, Cause, Charge, Commit, Expire, OrderRefundRequest,
            OrderRefundUpdate, OrderUpdate, PaymentCredit, PaymentUpdate, PlanChange, Posting, RecordIds, Refund,
            RefundEvent, RefusedCall, Release, ReportedRefund, Reserve, StatusChange, Stop,
        },
        refund::RefundContent,
        transaction::ChargeContent,
        unapplied::UnappliedCause,
    },
    values::{
        account_status::AccountStatus,
        calendar::{BillingTime, Calendar, Month},
        ids::{
            AdjustmentId, ApiKeyId, ModelName, OrderId, PaymentId, PlanName, PriceVersionId, RefundId, ServiceName,
            TraceId, UserId,
        },
        money::Money,
        usage::Usage,
    },
};

pub fn user(case: &str, user: u8) -> UserId {
    UserId::from_stored(format!("{case}-{user}"))
}

pub fn api_key(case: &str) -> ApiKeyId {
    ApiKeyId::from_stored(format!("key-{case}"))
}

pub fn service(service: u8) -> ServiceName {
    ServiceName::from_stored(format!("s{service}"))
}

pub fn trace(trace: u8) -> TraceId {
    TraceId::from_stored(format!("t{trace}"))
}

/// Few stream ids, so that reserves, reports and takeovers often share one.
pub fn stream_id(trace: u8, stream: u8) -> Uuid {
    Uuid::from_u128(u128::from(trace) << 8 | u128::from(stream))
}

fn model(model: u8) -> ModelName {
    ModelName::from_stored(format!("m{model}"))
}

pub fn order_id(case: &str, user: u8, order: u8) -> OrderId {
    OrderId::from_stored(format!("order-{case}-{user}-{order}"))
}

fn payment_id(case: &str, payment: u8) -> PaymentId {
    PaymentId::from_stored(format!("pay-{case}-{payment}"))
}

/// The id of an unapplied payment.
pub fn stray_id(case: &str, payment: u8) -> PaymentId {
    PaymentId::from_stored(format!("stray-{case}-{payment}"))
}

pub fn order_refund_id(case: &str, refund: u8) -> RefundId {
    RefundId::from_stored(format!("refund-{case}-{refund}"))
}

/// The month of a number of the model.
pub fn month(number: u32) -> Month {
    format!("{:04}-{:02}", number / 12, number % 12 + 1).parse().unwrap()
}

/// The moment of the model for an instant.
pub fn moment(calendar: &Calendar, at: BillingTime, start: DateTime<Utc>) -> Moment {
    let months = at.day.year() * 12 + i32::try_from(at.day.month0()).unwrap();
    Moment {
        month: u32::try_from(months).unwrap(),
        day: at.day.num_days_from_ce(),
        micros: at.utc.timestamp_micros(),
        minute: u32::try_from((at.utc - start).num_minutes()).unwrap(),
        month_began: calendar.start_of(at.month.first_day()).timestamp_micros(),
    }
}

pub fn catalog(policies: &[Policy]) -> Catalog {
    let policy = |policy: &Policy| crate::biz::account::policy::Policy {
        on_expiry: if policy.charges_expired { OnExpiry::Commit } else { OnExpiry::Release },
        above_hold: match policy.overrun {
            Overrun::Charged => AboveHold::Charge,
            Overrun::Capped => AboveHold::Cap,
            Overrun::Spilled => AboveHold::Spill,
        },
    };
    let terms = |of: &Service, with: &Policy| ServiceTerms {
        price: match of.priced {
            Priced::PerUnit(price) => Price::Unit(Money::from_micros(price)),
            Priced::Calls => Price::Model(QuotaUnit::Calls),
            Priced::Tokens => Price::Model(QuotaUnit::TOKENS),
            Priced::Weighed => Price::Model(QuotaUnit::Tokens(weights())),
        },
        free_quota: of.free_units.into(),
        policy: policy(with),
    };
    let services: Vec<_> = (0u8..)
        .zip(SERVICES.iter().zip(policies))
        .map(|(number, (of, with))| (service(number), terms(of, with)))
        .collect();
    let in_plan = services.iter().map(|(service, terms)| {
        let price = match terms.price {
            Price::Unit(price) => Price::Unit(price.plus(Money::from_micros(1))),
            by_model => by_model,
        };
        (service.clone(), ServiceTerms { price, ..*terms })
    });
    let mut catalog = Catalog::new(services.iter().cloned());
    catalog.add_plan(plan(), in_plan);
    catalog.set_alerts(events::alerts());
    catalog
}

/// The weights of the service that has some.
fn weights() -> QuotaWeights {
    let mut given = [None; CLASSES];
    given[Class::CachedInput as usize] = Some("0.5".parse().unwrap());
    given[Class::Reasoning as usize] = Some("3".parse().unwrap());
    QuotaWeights::new(given)
}

/// The plan that a user may have.
pub fn plan() -> PlanName {
    PlanName::from_stored("plan")
}

/// Prices calls as the service does, at the time of `clock`.
pub fn quoter(start: DateTime<Utc>, clock: StoppedClock) -> Quoter {
    let mut book = PriceBook::default();
    for (number, versions) in (0u8..).zip(MODELS) {
        for (place, version) in versions.iter().enumerate() {
            let given = |[input, cached_input, output]: [i64; 3]| {
                let mut given = Given::default();
                given[Class::Input as usize] = Some(Money::from_micros(input));
                given[Class::CachedInput as usize] = Some(Money::from_micros(cached_input));
                given[Class::Output as usize] = Some(Money::from_micros(output));
                given
            };
            let mut draft = Draft { given: given(version.prices), ..Draft::default() };
            draft.given[Class::Reasoning as usize] = version.reasoning.map(Money::from_micros);
            draft.tiers.extend(version.tier.map(|(above, prices)| (above, given(prices))));
            let prices = draft.check().unwrap();
            let version_id = PriceVersionId::from_stored(version_id(number, place));
            let from = start + TimeDelta::minutes(version.from_minute.into());
            book.set(model(number), from, Ok(PriceVersion::new(version_id, prices)));
        }
    }
    book.add_plan(plan(), PlanPrices { multiplier: "2".parse().unwrap(), models: PriceBook::default() });
    Quoter::new(Arc::new(Prices::new(book)), Arc::new(Calendar::new(chrono_tz::Asia::Shanghai, clock)))
}

pub fn version_id(model: u8, place: usize) -> String {
    format!("m{model}-v{place}")
}

fn usage(tokens: Tokens) -> Usage {
    Usage {
        cached_input_tokens: tokens.cached,
        reasoning_tokens: tokens.reasoning,
        ..Usage::of_text(tokens.input, tokens.output)
    }
}

/// Converts the steps of one history to postings.
pub struct Postings<'h> {
    pub case: &'h str,
    pub catalog: Arc<Catalog>,
    pub quoter: Quoter,
}

impl Postings<'_> {
    pub fn of(&self, number: u8, step: &Step) -> Posting {
        let user = user(self.case, number);
        match step {
            Step::Charge { call, is_delivered } => {
                let charge = self.call(user, *call, RecordIds::fresh(), (call.tokens.map(usage), None));
                Posting::Charge(Charge { is_delivered: *is_delivered, ..charge })
            }
            Step::Reserve { call, stream } => {
                let ids = RecordIds { main: stream_id(call.trace, *stream), ..RecordIds::fresh() };
                let call = self.call(user, *call, ids, (None, call.tokens.map(usage)));
                Posting::Reserve(Reserve { call, ttl: TimeDelta::minutes(TTL_MINUTES.into()) })
            }
            Step::Report(Report { trace: id, stream, takes_over, tokens, target, ttl_minutes, stop: told }) => {
                Posting::Report(posting::Report {
                    user,
                    trace: trace(*id),
                    stream: stream_id(*id, *stream),
                    takes_over: *takes_over,
                    usage: tokens.map(usage),
                    target: target.map(usage),
                    ttl: TimeDelta::minutes((*ttl_minutes).into()),
                    stop: self.stop(number, *told),
                })
            }
            Step::Commit(of) => Posting::Commit(Commit {
                user,
                trace: trace(of.trace),
                count: of.count,
                cost: of.cost.map(Money::from_micros),
                usage: of.tokens.map(usage),
                counted_output: of.text,
                service_tier: None,
                served: None,
                stream: of.stream.map(|stream| stream_id(of.trace, stream)),
                stop: self.stop(number, of.stop),
                record_ids: RecordIds::fresh(),
            }),
            Step::Release { trace: id } => {
                Posting::Release(Release { user, trace: trace(*id), request: Uuid::now_v7() })
            }
            Step::Expire { trace: id } => {
                let (cause, record_ids) = (Cause::Expired, RecordIds::fresh());
                Posting::Expire(Expire { user, trace: trace(*id), cause, record_ids })
            }
            Step::Break { trace: id, stream, tokens, stop: told } => {
                let (stream, stop) = (stream_id(*id, *stream), self.stop(number, *told));
                let cause = Cause::Broken { stream, usage: tokens.map(usage), stop };
                Posting::Expire(Expire { user, trace: trace(*id), cause, record_ids: RecordIds::fresh() })
            }
            Step::Adjust { id, amount, allow_negative } => Posting::Adjust(Adjustment {
                user,
                id: AdjustmentId::from_stored(format!("a{id}")),
                content: AdjustmentContent {
                    amount: Money::from_micros(*amount),
                    reason: "random".into(),
                    operator: String::new(),
                },
                allow_negative: *allow_negative,
                request: Uuid::now_v7(),
                call: call(ADJUST_BALANCE),
            }),
            Step::Refund(RefundRequest { trace: id, id: refund, count }) => Posting::Refund(Refund {
                user,
                id: RefundId::from_stored(format!("r{refund}")),
                content: RefundContent { trace: trace(*id), count: *count, reason: "random".into() },
                record_ids: RecordIds::fresh(),
                call: call(REFUND_CHARGE),
            }),
            Step::CreditPayment { payment } => {
                Posting::CreditPayment(PaymentCredit::new(user, stray_id(self.case, *payment), call(RESOLVE_PAYMENT)))
            }
            Step::SetStatus { id, status } => {
                let call = AuditedCall { id: self.id(0, number, *id), ..call(SET_ACCOUNT_STATUS) };
                Posting::SetStatus(StatusChange { user, status: account_status(*status), call })
            }
            Step::SetPlan { id, is_planned } => {
                let call = AuditedCall { id: self.id(1, number, *id), ..call(SET_USER_PLAN) };
                Posting::SetPlan(PlanChange { user, plan: is_planned.then(plan), call })
            }
            Step::SetAlerts { id, alerts } => {
                let call = AuditedCall { id: self.id(2, number, *id), ..call(SET_ALERTS) };
                let alerts = alerts.map(|own| Arc::new(events::own_alerts(own)));
                Posting::SetAlerts(AlertsChange { user, alerts, call })
            }
            Step::RefusedCheck { call } => {
                let call = self.call(user, *call, RecordIds::fresh(), (None, call.tokens.map(usage)));
                Posting::NoteRefusal(RefusedCall { call })
            }
            Step::OrderRefund { order, refund, refund_step } => {
                self.order_refund(user, number, (*order, *refund), *refund_step)
            }
            Step::Order { order, order_step } => Posting::UpdateOrder(OrderUpdate {
                user,
                order: order_id(self.case, number, *order),
                payment_update: payment_update(self.case, *order, *order_step),
            }),
        }
    }

    fn stop(&self, user: u8, number: Option<u8>) -> Option<Stop> {
        number.map(|number| Stop { id: self.id(3, user, number), output_tokens: 0 })
    }

    /// An id of this history, which a repeat has again.
    fn id(&self, kind: u8, user: u8, number: u8) -> Uuid {
        let case: u64 = self.case.parse().unwrap_or_default();
        Uuid::from_u64_pair(case, u64::from(kind) << 32 | u64::from(user) << 8 | u64::from(number))
    }

    fn order_refund(&self, user: UserId, number: u8, (order, refund): (u8, u8), step: OrderRefundStep) -> Posting {
        let (order, id) = (order_id(self.case, number, order), order_refund_id(self.case, refund));
        let event = match step {
            OrderRefundStep::Begin { amount, is_forced } => {
                let amount = amount.map(Money::from_micros);
                let content = OrderRefundContent { order, amount, reason: "random".into(), is_forced };
                let (request, call) = (Uuid::now_v7(), call(REFUND_RECHARGE));
                return Posting::RefundOrder(OrderRefundRequest { user, id, content, request, call });
            }
            OrderRefundStep::Succeeded => RefundEvent::Succeeded,
            OrderRefundStep::Failed => RefundEvent::Failed,
            OrderRefundStep::Reported { amount, is_chargeback, payment } => RefundEvent::Reported(ReportedRefund {
                is_chargeback,
                payment: payment.map(|payment| payment_id(self.case, payment)),
                amount: Money::from_micros(amount),
            }),
        };
        Posting::UpdateOrderRefund(OrderRefundUpdate { user, order, id, event })
    }

    /// A call with its used or estimated tokens.
    fn call(
        &self,
        user: UserId,
        call: Call,
        record_ids: RecordIds,
        (taken, estimate): (Option<Usage>, Option<Usage>),
    ) -> Charge {
        let (service, model) = (service(call.service), model(call.model));
        let cost = call.cost.map(Money::from_micros);
        let (_, terms) = self.catalog.find(service.as_str()).unwrap();
        let usage = taken.or(estimate);
        let ask = Ask {
            plan: None,
            count: call.count,
            cost,
            model: Some(&model),
            service_tier: None,
            usage,
            tokens_field: "usage",
        };
        Charge {
            user,
            trace: trace(call.trace),
            is_delivered: false,
            quote: self.quoter.tariff().quote(terms, ask),
            tariff: Some(self.quoter.tariff()),
            content: ChargeContent {
                service,
                count: call.count,
                cost,
                api_key: call.keyed.then(|| api_key(self.case)),
                model: Some(model),
                usage: taken,
                estimate,
                service_tier: None,
            },
            record_ids,
        }
    }
}

/// A call of an operator.
pub fn call(rpc: &'static str) -> AuditedCall {
    AuditedCall::new(rpc, Actor::new("tester", "admin", "r"), "random")
}

pub fn account_status(status: Status) -> AccountStatus {
    match status {
        Status::Active => AccountStatus::Active,
        Status::Frozen => AccountStatus::Frozen,
        Status::Closed => AccountStatus::Closed,
    }
}

/// A new order.
pub fn new_order(case: &str, number: u8, order: u8, at: DateTime<Utc>) -> Order {
    Order {
        id: order_id(case, number, order),
        user: user(case, number),
        amount: Money::from_micros(order_amount(order)),
        method: None,
        status: OrderStatus::Pending,
        payment: None,
        payment_url: None,
        idempotency_key: None,
        refunded: Money::ZERO,
        refunding: Money::ZERO,
        credited_at: None,
        created_at: at,
        updated_at: at,
    }
}

/// The report of an unapplied payment.
pub fn stray(case: &str, payment: u8) -> UnappliedReport {
    UnappliedReport {
        payment: stray_id(case, payment),
        order: OrderId::from_stored("unknown"),
        amount: Money::from_micros(stray_amount(payment)),
        currency: "CNY".into(),
        cause: UnappliedCause::UnknownOrder,
    }
}

fn payment_update(case: &str, order: u8, order_step: OrderStep) -> PaymentUpdate {
    let amount = |is_wrong| Money::from_micros(order_amount(order) + i64::from(is_wrong));
    match order_step {
        OrderStep::Opened { payment } => {
            PaymentUpdate::Opened { payment: payment_id(case, payment), url: "https://pay".into() }
        }
        OrderStep::Paid { payment, wrong_amount } => {
            PaymentUpdate::Paid { payment: payment_id(case, payment), amount: amount(wrong_amount) }
        }
        OrderStep::Failed { payment, wrong_amount } => PaymentUpdate::Failed {
            payment: payment.map(|payment| payment_id(case, payment)),
            amount: wrong_amount.then(|| amount(true)),
        },
        OrderStep::Expired => PaymentUpdate::Expired,
    }
}
