//! The bounds of the fields of requests, as the service checks them, for the OpenAPI document.

use super::{
    account::{MAX_OPERATOR, MAX_REASON},
    charge::MAX_ITEMS,
    events,
    limits::MAX_COUNT,
    prices,
    reports::{paging, usage},
    rest::MAX_RECHARGE_BODY,
    webhooks,
};
use crate::biz::{
    audit_trail::{AUDITED_RPCS, Actor},
    charge::{
        prices::{MAX_ALIASES, MAX_SERVICE_TIERS, MAX_TIERS},
        quote::MAX_UNITS,
    },
    events::{EventType, alerts::MAX_THRESHOLDS},
    limits::key_quota::{Period, QuotaType},
    metering::tokens::{MAX_BYTES, MAX_MESSAGES},
    reports::usage::GroupBy,
    settlement::{order::OrderStatus, unapplied::UnappliedStatus},
    values::{
        account_status::AccountStatus,
        factor::Factor,
        ids::{
            AdjustmentId, ApiKeyId, Charset, IdempotencyKey, ModelName, OrderId, PaymentId, PlanName, PriceVersionId,
            RefundId, ServiceName, ServiceTier, TraceId, UserId, WebhookId,
        },
        money::Money,
    },
    webhooks::{secret::MAX_OVERLAP_HOURS, url::WebhookUrl},
};

/// The values that a field takes.
#[derive(Debug, Clone)]
pub enum Bound {
    /// At most so many characters of a set.
    Id { max: usize, charset: &'static Charset },
    /// A text for people with at most so many characters, all of them visible.
    Words { max: usize },
    /// A text of at most so many bytes.
    Bytes { max: usize },
    /// One of these words.
    Choice(Vec<&'static str>),
    /// Some of these words, separated by commas, in at most so many characters.
    Choices { words: Vec<&'static str>, max: usize },
    /// A day, such as 2026-11-21.
    Day,
    /// A month, such as 2026-11.
    Month,
    /// A code of ISO 4217.
    Currency,
    /// An opaque token of at most so many characters.
    Token { max: usize },
    /// A whole number.
    Whole { min: i64, max: i64 },
    /// A number with at most six decimal places. Without `takes_least`, it is above `min`.
    Decimal { min: f64, max: f64, takes_least: bool },
    /// A list of so many items; each item has the bound, unless it is a message.
    Items { min: usize, max: usize, item: Option<Box<Bound>> },
    /// A map of at most so many entries.
    Entries { max: usize, key: Box<Bound>, value: Box<Bound> },
}

/// The rule of one field.
#[derive(Debug, Clone)]
pub struct FieldRule {
    pub bound: Bound,
    /// Whether a request without the field is refused. A field that is not required may be empty.
    pub is_required: bool,
}

/// The rule of a field of a request. `None` for flags, messages and instants, whose type is their bound.
pub fn rule(message: &str, field: &str) -> Option<FieldRule> {
    let bound = bound(message, field)?;
    Some(FieldRule { bound, is_required: is_required(message, field) })
}

macro_rules! id {
    ($name:ident) => {
        Bound::Id { max: $name::MAX_LEN, charset: $name::CHARSET }
    };
}

fn bound(message: &str, field: &str) -> Option<Bound> {
    let whole = |min: u32, max: u32| Bound::Whole { min: min.into(), max: max.into() };
    let tokens = || Bound::Whole { min: 0, max: i32::MAX.into() };
    Some(match (message, field) {
        (_, "user_id") => id!(UserId),
        (_, "service_name") => id!(ServiceName),
        (_, "trace_id") => id!(TraceId),
        (_, "adjustment_id") => id!(AdjustmentId),
        (_, "refund_id") => id!(RefundId),
        (_, "idempotency_key") => id!(IdempotencyKey),
        (_, "api_key_id") => id!(ApiKeyId),
        (_, "model") => id!(ModelName),
        (_, "version_id") => id!(PriceVersionId),
        (_, "service_tier") => id!(ServiceTier),
        (_, "plan") => id!(PlanName),
        (_, "order_id") => id!(OrderId),
        (_, "payment_order_id") => id!(PaymentId),
        (_, "webhook_id") => id!(WebhookId),
        (_, "reason") => Bound::Words { max: MAX_REASON },
        (_, "operator") => Bound::Words { max: MAX_OPERATOR },
        (_, "caller") => Bound::Bytes { max: Actor::MAX_CALLER },
        (_, "from" | "to") => Bound::Day,
        (_, "month") => Bound::Month,
        // It is compared with that of the order, and any other text is another currency.
        ("RechargeCallbackRequest", "currency") => Bound::Bytes { max: MAX_RECHARGE_BODY },
        (_, "currency") => Bound::Currency,
        ("GetUsageRequest", "page_size") => whole(0, usage::MAX_GROUPS),
        (_, "page_size") => whole(0, paging::MAX_SIZE),
        (_, "page") => whole(0, paging::MAX_OFFSET + 1),
        ("GetUsageRequest", "page_token") => Bound::Token { max: usage::MAX_TOKEN },
        ("ListPriceVersionsRequest", "page_token") => Bound::Token { max: prices::MAX_TOKEN },
        (_, "page_token") => Bound::Token { max: paging::MAX_TOKEN },
        ("QuotePriceRequest", "count") => whole(0, MAX_UNITS),
        (_, "count") => whole(1, MAX_UNITS),
        (_, "cost" | "estimated_cost") => amount(Money::ZERO, true),
        ("RechargeRequest", "amount") => amount(Money::ZERO, false),
        ("AdjustBalanceRequest" | "RechargeCallbackRequest", "amount") => amount(-Money::MAX, true),
        (_, "amount") => amount(Money::ZERO, true),
        ("SetApiKeyQuotaRequest", "limit") => Bound::Decimal { min: 0.0, max: MAX_COUNT, takes_least: true },
        ("ListEventsRequest", "after") => Bound::Token { max: events::MAX_CURSOR },
        ("ListEventsRequest", "types") => {
            Bound::Choices { words: EventType::ALL.map(EventType::name).into(), max: events::MAX_TYPES }
        }
        ("ListWebhookDeliveriesRequest", "limit") => whole(0, webhooks::MAX_LIMIT),
        ("PutWebhookRequest", "overlap_hours") => whole(0, MAX_OVERLAP_HOURS),
        ("PutWebhookRequest", "url") => Bound::Bytes { max: WebhookUrl::MAX_LEN },
        ("PutWebhookRequest", "types") => {
            let item = Bound::Choice(EventType::ALL.map(EventType::name).into());
            Bound::Items { min: 0, max: EventType::ALL.len(), item: Some(Box::new(item)) }
        }
        ("RedeliverWebhookRequest", "event_id") => Bound::Bytes { max: webhooks::MAX_EVENT_ID },
        ("ListEventsRequest", "limit") => whole(0, events::MAX_LIMIT),
        ("SetAlertsRequest", "balance_below") => {
            Bound::Items { min: 0, max: MAX_THRESHOLDS, item: Some(Box::new(amount(Money::ZERO, true))) }
        }
        ("SetAlertsRequest", "quota_percent") => {
            Bound::Items { min: 0, max: MAX_THRESHOLDS, item: Some(Box::new(whole(1, 100))) }
        }
        ("PutPriceVersionRequest", "tiers") => Bound::Items { min: 0, max: MAX_TIERS, item: None },
        ("PutPriceVersionRequest", "aliases") => {
            Bound::Items { min: 0, max: MAX_ALIASES, item: Some(Box::new(id!(ModelName))) }
        }
        ("PutPriceVersionRequest", "service_tiers") => {
            let factor = Bound::Decimal { min: 0.0, max: Factor::MAX.to_wire(), takes_least: true };
            Bound::Entries { max: MAX_SERVICE_TIERS, key: Box::new(id!(ServiceTier)), value: Box::new(factor) }
        }
        ("PriceTier", "above_input_tokens") => Bound::Whole { min: 1, max: i32::MAX.into() },
        ("PutPriceVersionRequest" | "PriceTier", price) if is_price(price) => amount(Money::ZERO, true),
        ("BatchDeductQuotaRequest", "items") => Bound::Items { min: 1, max: MAX_ITEMS, item: None },
        ("CountTokensRequest", "messages") => Bound::Items { min: 0, max: MAX_MESSAGES, item: None },
        ("CountTokensRequest", "text") | ("CommitReservationRequest", "output_text") | ("ChatMessage", _) => {
            Bound::Bytes { max: MAX_BYTES }
        }
        ("SetUserLimitsRequest", "daily_limit" | "monthly_limit") => tokens(),
        (_, "images" | "max_tokens") => tokens(),
        (_, count) if count.ends_with("_tokens") => tokens(),
        ("ListRecordsRequest", "type") => Bound::Whole { min: 0, max: 4 },
        _ => Bound::Choice(choices(message, field)?),
    })
}

fn choices(message: &str, field: &str) -> Option<Vec<&'static str>> {
    Some(match (message, field) {
        ("GetUsageRequest", "group_by") => GroupBy::ALL.map(GroupBy::name).into(),
        ("SetApiKeyQuotaRequest", "quota_type") => QuotaType::ALL.map(QuotaType::name).into(),
        ("SetApiKeyQuotaRequest", "period") => Period::ALL.map(Period::name).into(),
        ("SetAccountStatusRequest", "status") => AccountStatus::ALL.map(AccountStatus::name).into(),
        ("ListRechargeOrdersRequest", "status") => OrderStatus::ALL.map(OrderStatus::name).into(),
        ("ListUnappliedPaymentsRequest", "status") => {
            UnappliedStatus::ALL.map(UnappliedStatus::name).into_iter().chain(["all"]).collect()
        }
        ("RechargeCallbackRequest", "status") => vec!["SUCCESS", "FAILED", "REFUNDED", "CHARGEBACK"],
        ("RechargeRequest", "payment_method") => vec!["alipay", "wechat", "wechatpay", "stripe"],
        ("ResolvePaymentRequest", "action") => vec!["credit", "refund", "dismiss"],
        ("ListWebhookDeliveriesRequest", "outcome") => webhooks::OUTCOMES.into(),
        ("ListAuditEventsRequest", "rpc") => AUDITED_RPCS.into(),
        _ => return None,
    })
}

fn amount(min: Money, takes_least: bool) -> Bound {
    Bound::Decimal { min: min.to_wire(), max: Money::MAX.to_wire(), takes_least }
}

/// Whether a field has the name of a class with a price.
fn is_price(field: &str) -> bool {
    crate::biz::charge::prices::Class::ALL.iter().any(|class| class.name() == field)
}

/// Whether a request without the field is refused. Ids that a header may carry are not required in the body.
fn is_required(message: &str, field: &str) -> bool {
    match field {
        "user_id" => !matches!(
            message,
            "GetRechargeOrderRequest"
                | "ListAuditEventsRequest"
                | "ListEventsRequest"
                | "QuotePriceRequest"
                | "ResolvePaymentRequest"
        ),
        "service_name" => {
            matches!(message, "CheckQuotaRequest" | "DeductQuotaRequest" | "ReserveQuotaRequest" | "QuotePriceRequest")
        }
        "count" => matches!(message, "CheckQuotaRequest" | "DeductQuotaRequest" | "ReserveQuotaRequest"),
        "trace_id" => matches!(message, "GetTransactionRequest" | "RefundChargeRequest"),
        "reason" => !matches!(message, "SetUserPlanRequest" | "SetAlertsRequest"),
        "amount" => matches!(message, "RechargeRequest" | "AdjustBalanceRequest"),
        "api_key_id" => matches!(message, "SetApiKeyQuotaRequest" | "GetApiKeyQuotaRequest"),
        "model" => matches!(message, "PutPriceVersionRequest" | "DeletePriceVersionRequest"),
        "version_id" => message == "DeletePriceVersionRequest",
        "input" | "output" => message == "PutPriceVersionRequest",
        "payment_order_id" => message == "ResolvePaymentRequest",
        "status" => matches!(message, "SetAccountStatusRequest" | "RechargeCallbackRequest"),
        "order_id" | "quota_type" | "period" | "plan" | "payment_method" | "action" | "webhook_id" | "items"
        | "role" | "above_input_tokens" => true,
        _ => false,
    }
}
