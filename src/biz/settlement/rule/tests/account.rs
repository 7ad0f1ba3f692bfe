//! One account in memory, for small cases. It settles one posting at a time. Answers and states are
//! short texts.

use std::{fmt::Write as _, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{books::Books, histories::postings::call};
use crate::biz::{
    account::{
        catalog::{Catalog, Price, QuotaUnit, ServiceTerms},
        policy::Policy,
    },
    audit_trail::{ADJUST_BALANCE, REFUND_CHARGE, REFUND_RECHARGE, SET_ACCOUNT_STATUS},
    charge::{
        prices::{PriceBook, PriceList, PriceVersion, Prices},
        quote::{Ask, Quoter},
    },
    events::alerts::Alerts,
    jobs::audit,
    limits::{
        caps::Caps,
        key_quota::{NewKeyQuota, Period, QuotaType},
    },
    reports::record::{Record, RecordType},
    settlement::{
        order::{Order, OrderStatus},
        order_refund::OrderRefundContent,
        posting::{
            Adjustment, AdjustmentContent, Batch, Cause, Charge, Commit, Effect, Expire, Opening, OrderRefundRequest,
            OrderRefundUpdate, OrderUpdate, Outcome, PaymentUpdate, Posting, RecordIds, Refund, RefundEvent, Release,
            Report, Reserve, StatusChange,
        },
        refund::{RefundContent, Refunded},
        transaction::{ChargeContent, Status, Transaction},
    },
    values::{
        account_status::AccountStatus,
        calendar::{BillingTime, Calendar, SystemClock},
        ids::{
            AdjustmentId, ApiKeyId, ModelName, OrderId, PaymentId, PriceVersionId, RefundId, ServiceName, TraceId,
            UserId,
        },
        money::Money,
        usage::Usage,
    },
};

/// Lifetime of a hold.
pub const TTL: TimeDelta = TimeDelta::minutes(10);

pub fn yuan(text: &str) -> Money {
    text.parse().unwrap()
}

pub fn user() -> UserId {
    UserId::from_stored("u")
}

pub fn trace() -> TraceId {
    TraceId::from_stored("t")
}

pub fn key() -> ApiKeyId {
    ApiKeyId::from_stored("k")
}

pub fn stream(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub fn usage(input_tokens: u32, output_tokens: u32) -> Usage {
    Usage::of_text(input_tokens, output_tokens)
}

/// A call of a service. Each has 4 free units a month.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub service: &'static str,
    pub count: u32,
    pub cost: Option<&'static str>,
    pub usage: Option<Usage>,
    pub is_keyed: bool,
}

/// A call of the service `units`, whose unit costs 1.
pub fn units(count: u32) -> Call {
    Call { service: "units", count, cost: None, usage: None, is_keyed: false }
}

/// A call of the service `tokens`, whose units are tokens. An input token costs 1, a cached one 0.5, an
/// output token 2.
pub fn tokens(input: u32, output: u32) -> Call {
    Call { service: "tokens", usage: Some(usage(input, output)), ..units(1) }
}

/// A call of the service `calls`, whose units are calls, at the prices of `tokens`.
pub fn calls(count: u32, input: u32, output: u32) -> Call {
    Call { service: "calls", usage: Some(usage(input, output)), ..units(count) }
}

/// The books of one user, and of one API key.
pub struct TestAccount {
    pub books: Books,
    catalog: Arc<Catalog>,
    calendar: Calendar,
    quoter: Quoter,
    pub at: BillingTime,
}

impl TestAccount {
    /// An account with a balance, at noon of the last day of November in the billing zone.
    pub fn with(balance: &str) -> Self {
        Self::with_policy(balance, Policy::default())
    }

    pub fn with_policy(balance: &str, policy: Policy) -> Self {
        let calendar = || Calendar::new(chrono_tz::Asia::Shanghai, SystemClock);
        let at = calendar().at("2026-11-30T04:00:00Z".parse().unwrap());
        let terms = |price| ServiceTerms { price, free_quota: 4, policy };
        let (by_call, by_token) = (Price::Model(QuotaUnit::Calls), Price::Model(QuotaUnit::TOKENS));
        let services = [("units", Price::Unit(yuan("1"))), ("calls", by_call), ("tokens", by_token)];
        let catalog = services.map(|(name, price)| (ServiceName::from_stored(name), terms(price)));
        let million = |price: &str| Money::from_micros(yuan(price).micros() * 1_000_000);
        let prices = PriceList::flat(million("1"), Some(million("0.5")), million("2"));
        let version = PriceVersion::new(PriceVersionId::from_stored("v"), prices);
        let mut book = PriceBook::default();
        book.set(ModelName::from_stored("m"), DateTime::UNIX_EPOCH, Ok(version));
        let account = Self {
            books: Books::default(),
            catalog: Arc::new(Catalog::new(catalog)),
            calendar: calendar(),
            quoter: Quoter::new(Arc::new(Prices::new(book)), Arc::new(calendar())),
            at,
        };
        if balance != "0" {
            account.settle(adjust("opening", balance));
        }
        account
    }

    pub fn set_default_alerts(&mut self, alerts: Alerts) {
        let mut catalog = Catalog::clone(&self.catalog);
        catalog.set_alerts(alerts);
        self.catalog = Arc::new(catalog);
    }

    pub fn pass(&mut self, time: TimeDelta) {
        self.at = self.calendar.at(self.at.utc + time);
    }

    /// The answer of a batch with one posting.
    pub fn settle(&self, posting: impl Into<Posting>) -> String {
        answer(&self.outcomes([posting.into()])[0])
    }

    /// The answer of each posting of a batch.
    pub fn settle_all<const N: usize>(&self, postings: [Posting; N]) -> [String; N] {
        let outcomes = self.outcomes(postings);
        std::array::from_fn(|index| answer(&outcomes[index]))
    }

    fn outcomes<const N: usize>(&self, postings: [Posting; N]) -> Vec<Outcome> {
        self.books.settle(&self.batch(postings))
    }

    pub fn batch<const N: usize>(&self, postings: [Posting; N]) -> Batch {
        let (catalog, periods) = (self.catalog.clone(), self.calendar.periods());
        Batch { postings: postings.into(), at: self.at, catalog, periods }
    }

    /// Settles a call, under the trace id of all cases.
    pub fn charge(&self, call: Call) -> String {
        self.settle(self.charge_of(call))
    }

    pub fn charge_of(&self, call: Call) -> Charge {
        self.posting(call, call.usage, None)
    }

    /// Holds a call, metered by the first stream.
    pub fn reserve(&self, call: Call) -> String {
        self.settle(self.reserve_of(call))
    }

    pub fn reserve_of(&self, call: Call) -> Reserve {
        let charge = self.posting(call, None, call.usage);
        let record_ids = RecordIds { main: stream(1), ..charge.record_ids };
        Reserve { call: Charge { record_ids, ..charge }, ttl: TTL }
    }

    fn posting(&self, call: Call, taken: Option<Usage>, estimate: Option<Usage>) -> Charge {
        let (service, terms) = self.catalog.find(call.service).unwrap();
        let (model, cost) = (ModelName::from_stored("m"), call.cost.map(yuan));
        let ask = Ask {
            plan: None,
            count: call.count,
            cost,
            model: Some(&model),
            service_tier: None,
            usage: taken.or(estimate),
            tokens_field: "usage",
        };
        Charge {
            user: user(),
            trace: trace(),
            is_delivered: false,
            quote: self.quoter.tariff().quote(terms, ask),
            tariff: None,
            content: ChargeContent {
                service: service.clone(),
                count: call.count,
                cost,
                api_key: call.is_keyed.then(key),
                model: Some(model),
                usage: taken,
                estimate,
                service_tier: None,
            },
            record_ids: RecordIds::fresh(),
        }
    }

    pub fn set_key_quota(&self, kind: QuotaType, period: Period, limit: i64) {
        self.books.keep_key_quota(&NewKeyQuota { key: key(), kind, period, limit: Some(limit) }, self.at);
    }

    pub fn set_daily_cap(&self, cap: u32) {
        self.books.set_caps(&user(), Caps { daily: Some(cap), monthly: None }, self.at);
    }

    /// The used amount of a quota of the API key.
    pub fn key_used(&self, kind: QuotaType) -> i64 {
        self.books.key_quotas()[&(key(), kind)].used(self.at)
    }

    /// The balance, and the free units of `units` in this month.
    pub fn state(&self) -> String {
        self.state_of("units")
    }

    pub fn state_of(&self, service: &str) -> String {
        assert_eq!(audit::compare(&self.books.evidence(&user())), []);
        let balance = self.books.balance(&user());
        let row = (user(), self.at.month, ServiceName::from_stored(service));
        let quota = self.books.quota(&row).unwrap_or_default();
        format!("balance {}, held {}; free {}, held {}", balance.amount, balance.held, quota.used, quota.held)
    }

    /// The records, in the order of their kinds.
    pub fn records(&self) -> Vec<String> {
        let mut records = self.books.records(&user());
        records.sort_by_key(|record| record.kind);
        let text = |record: &Record| {
            let kind = match record.kind {
                RecordType::Free => "free",
                RecordType::Balance => "paid",
                RecordType::FreeRefund => "free back",
                RecordType::BalanceRefund => "paid back",
            };
            let tokens = record.usage.map_or(0, |usage| usage.tokens());
            let late = record.late_of.map(|month| format!(", late of {month}")).unwrap_or_default();
            format!("{} {kind} for {}, {tokens} tokens{late}", record.count, record.amount)
        };
        records.iter().map(text).collect()
    }

    pub fn transaction(&self) -> Transaction {
        self.books.transaction(&user(), &trace()).unwrap()
    }

    /// Stores an order over 20 with a state and a payment.
    pub fn keep_order(&self, status: OrderStatus, payment: Option<&str>) {
        self.keep_order_of("o", status, payment);
    }

    pub fn keep_order_of(&self, id: &str, status: OrderStatus, payment: Option<&str>) {
        self.books.keep_order(&Order {
            id: OrderId::from_stored(id),
            user: user(),
            amount: yuan("20"),
            method: None,
            status,
            payment: payment.map(PaymentId::from_stored),
            payment_url: None,
            idempotency_key: None,
            refunded: if status == OrderStatus::Refunded { yuan("20") } else { Money::ZERO },
            refunding: Money::ZERO,
            credited_at: None,
            created_at: DateTime::<Utc>::UNIX_EPOCH,
            updated_at: DateTime::<Utc>::UNIX_EPOCH,
        });
    }
}

macro_rules! postings {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Posting {
            fn from(posting: $kind) -> Self {
                Posting::$kind(posting)
            }
        })*
    };
}

postings!(Charge, Reserve, Report, Commit, Release, Expire);

/// A commit of the reserved units.
pub fn commit() -> Commit {
    Commit {
        user: user(),
        trace: trace(),
        count: None,
        cost: None,
        usage: None,
        counted_output: None,
        service_tier: None,
        served: None,
        stream: None,
        stop: None,
        record_ids: RecordIds::fresh(),
    }
}

/// A commit of `count` units.
pub fn commit_of(count: u32) -> Commit {
    Commit { count: Some(count), ..commit() }
}

/// A commit of these tokens.
pub fn commit_with(input: u32, output: u32) -> Commit {
    Commit { usage: Some(usage(input, output)), ..commit() }
}

/// A report of the first stream, which has delivered these tokens.
pub fn reported(input: u32, output: u32) -> Report {
    Report { usage: Some(usage(input, output)), ..report() }
}

/// A report of the first stream without tokens and without a target.
pub fn report() -> Report {
    Report {
        user: user(),
        trace: trace(),
        stream: stream(1),
        takes_over: false,
        usage: None,
        target: None,
        ttl: TTL,
        stop: None,
    }
}

pub fn release() -> Release {
    Release { user: user(), trace: trace(), request: Uuid::now_v7() }
}

pub fn expire() -> Expire {
    Expire { user: user(), trace: trace(), cause: Cause::Expired, record_ids: RecordIds::fresh() }
}

/// The end of a stream that broke.
pub fn break_off(number: u128, usage: Option<Usage>) -> Expire {
    Expire { cause: Cause::Broken { stream: stream(number), usage, stop: None }, ..expire() }
}

pub fn adjust(id: &str, amount: &str) -> Posting {
    Posting::Adjust(Adjustment {
        user: user(),
        id: AdjustmentId::from_stored(id),
        content: AdjustmentContent { amount: yuan(amount), reason: "a case".into(), operator: String::new() },
        request: Uuid::now_v7(),
        allow_negative: false,
        call: call(ADJUST_BALANCE),
    })
}

/// A request to refund the order of all cases; `None` for all that is left of it.
pub fn order_refund(id: &str, amount: Option<&str>) -> OrderRefundRequest {
    OrderRefundRequest {
        user: user(),
        id: RefundId::from_stored(id),
        content: OrderRefundContent {
            order: OrderId::from_stored("o"),
            amount: amount.map(yuan),
            reason: "a case".into(),
            is_forced: false,
        },
        request: Uuid::now_v7(),
        call: call(REFUND_RECHARGE),
    }
}

/// An event of a refund of the order of all cases.
pub fn order_refund_event(id: &str, event: RefundEvent) -> Posting {
    let (order, id) = (OrderId::from_stored("o"), RefundId::from_stored(id));
    Posting::UpdateOrderRefund(OrderRefundUpdate { user: user(), order, id, event })
}

/// A debit that may take the balance below zero.
pub fn claw_back(id: &str, amount: &str) -> Posting {
    let Posting::Adjust(adjustment) = adjust(id, amount) else { unreachable!() };
    Posting::Adjust(Adjustment { allow_negative: true, ..adjustment })
}

/// A charge under another trace id.
pub fn other(account: &TestAccount, call: Call) -> Posting {
    Posting::Charge(Charge { trace: TraceId::from_stored("t2"), ..account.charge_of(call) })
}

/// A reserve under another trace id.
pub fn reserve_other(account: &TestAccount, call: Call) -> Posting {
    let reserve = account.reserve_of(call);
    let call = Charge { trace: TraceId::from_stored("t2"), ..reserve.call };
    Posting::Reserve(Reserve { call, ..reserve })
}

/// A charge of delivered work.
pub fn deliver(account: &TestAccount, trace: &str, call: Call) -> Posting {
    let trace = TraceId::from_stored(trace);
    Posting::Charge(Charge { trace, is_delivered: true, ..account.charge_of(call) })
}

/// As [`TestAccount::charge`], of delivered work.
pub fn charge_delivered(account: &TestAccount, call: Call) -> String {
    account.settle(deliver(account, trace().as_str(), call))
}

/// A refund of the call of all cases.
pub fn refund(id: &str, count: impl Into<Option<u32>>) -> Posting {
    Posting::Refund(Refund {
        user: user(),
        id: RefundId::from_stored(id),
        content: RefundContent { trace: trace(), count: count.into(), reason: "a case".into() },
        record_ids: RecordIds::fresh(),
        call: call(REFUND_CHARGE),
    })
}

pub fn open() -> Posting {
    Posting::Open(Opening { user: user(), call: None })
}

pub fn set_status(status: AccountStatus) -> Posting {
    Posting::SetStatus(StatusChange { user: user(), status, call: call(SET_ACCOUNT_STATUS) })
}

pub fn update_order(payment_update: PaymentUpdate) -> Posting {
    Posting::UpdateOrder(OrderUpdate { user: user(), order: OrderId::from_stored("o"), payment_update })
}

fn answer(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Opened { created } => format!("created: {created}"),
        Outcome::Settled { transaction, effect } => with_effect(transaction, *effect),
        Outcome::Reported { transaction, is_exhausted } => {
            let mut text = of_transaction(transaction);
            if *is_exhausted {
                text.push_str(", exhausted");
            }
            text
        }
        Outcome::Ended { ended: None } => "nothing to end".into(),
        Outcome::Ended { ended: Some((transaction, effect)) } => with_effect(transaction, *effect),
        Outcome::Adjusted { adjusted, replayed } => {
            format!("{}balance {}", if *replayed { "found: " } else { "" }, adjusted.balance_after)
        }
        Outcome::Refunded { refunded, replayed } => {
            let Refunded { free, paid, amount, sum, balance_after, .. } = refunded;
            let all = format!("{} for {} in all, balance {balance_after}", sum.units(), sum.amount);
            format!("{}{free} free, {paid} paid for {amount} back; {all}", if *replayed { "found: " } else { "" })
        }
        Outcome::OrderUpdated { order, changed } => {
            let payment = order.payment.as_ref().map_or("no payment", |payment| payment.as_str());
            format!("{}{}, {payment}", if *changed { "" } else { "unchanged: " }, order.status)
        }
        Outcome::OrderRefunded { refund, order, changed } => {
            let again = if *changed { "" } else { "unchanged: " };
            format!(
                "{again}{} of {}, order {} with {} back",
                refund.status, refund.amount, order.status, order.refunded
            )
        }
        Outcome::PaymentCredited { payment, changed } => {
            format!("{}{}", if *changed { "" } else { "unchanged: " }, payment.status)
        }
        Outcome::RefusalNoted => "noted".into(),
        Outcome::StatusSet { changed } | Outcome::PlanSet { changed } | Outcome::AlertsSet { changed } => {
            if *changed { "set" } else { "unchanged" }.into()
        }
        Outcome::Refused(error) => format!("refused: {error}"),
    }
}

fn with_effect(transaction: &Transaction, effect: Effect) -> String {
    match effect {
        Effect::Applied => of_transaction(transaction),
        Effect::Unchanged => format!("found: {}", of_transaction(transaction)),
        Effect::Added { split, shortfall } => {
            let added = format!("{} free, {} paid for {}, {shortfall} short", split.free, split.paid, split.amount);
            format!("added {added}: {}", of_transaction(transaction))
        }
    }
}

fn of_transaction(transaction: &Transaction) -> String {
    let Transaction { free, paid, amount, shortfall, .. } = transaction;
    match (transaction.status, &transaction.reservation) {
        (Status::Pending, Some(hold)) => {
            let mut text = format!("holds {} free and {}", hold.free, hold.amount);
            if let Some(reported) = hold.reported {
                write!(text, ", reported {} + {}", reported.input_tokens, reported.output_tokens).unwrap();
            }
            text
        }
        (Status::Committed, _) => {
            let short = if shortfall.is_zero() { String::new() } else { format!(", {shortfall} short") };
            format!("charged {free} free, {paid} paid for {amount}{short}")
        }
        (status, _) => status.name().to_lowercase(),
    }
}
