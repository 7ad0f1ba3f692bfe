//! Paths of the contract that other code names, and the rpc behind each path.

use std::{collections::HashSet, sync::LazyLock};

use http::{Method, Request};
use prost_reflect::DescriptorPool;

use super::proto::DESCRIPTORS;

/// The begin of the paths of BillingInternalService and of the exports of all users.
pub const INTERNAL_PREFIX: &str = "/internal/";
/// The route on which payment-service sends its callbacks.
pub const CALLBACK_PATH: &str = "/internal/v1/billing/callback";
/// The route on which top-ups start.
pub const RECHARGE_PATH: &str = "/api/v1/billing/recharge";
/// The route that a proxy asks before it passes a request on. A proxy may append the path of the request.
pub const AUTHORIZE_PATH: &str = "/internal/v1/billing/authorize";
/// The page of the console that starts top-ups.
pub const TOP_UP_PAGE: &str = "/console/top-up";
/// The path of RechargeCallback over gRPC.
pub const GRPC_CALLBACK_PATH: &str = "/billing.v1.BillingInternalService/RechargeCallback";
/// The path of Recharge over gRPC.
pub const GRPC_RECHARGE_PATH: &str = "/billing.v1.BillingService/Recharge";

/// The begin of the paths of RefundRecharge and ResolvePayment; the ids follow.
const REFUNDS_BEGIN: &str = "/internal/v1/billing/recharge/";
const RESOLUTIONS_BEGIN: &str = "/internal/v1/billing/unapplied-payments/";
/// Their paths over gRPC.
const GRPC_REFUND_PATH: &str = "/billing.v1.BillingInternalService/RefundRecharge";
const GRPC_RESOLVE_PATH: &str = "/billing.v1.BillingInternalService/ResolvePayment";

/// The forms of the console that call them.
const REFUND_FORM: &str = "/console/actions/refund-top-up";
const RESOLVE_FORM: &str = "/console/actions/resolve-payment";

/// The path of MeterStream over gRPC.
pub const GRPC_STREAM_PATH: &str = "/billing.v1.BillingInternalService/MeterStream";

/// Whether a request is a stream of messages.
pub fn is_stream<B>(request: &Request<B>) -> bool {
    request.uri().path() == GRPC_STREAM_PATH
}

/// Whether a request is a callback, on either protocol.
pub fn is_callback<B>(request: &Request<B>) -> bool {
    matches!(request.uri().path(), CALLBACK_PATH | GRPC_CALLBACK_PATH)
}

/// Whether a request gives a top-up or another payment back, on either protocol or by a form.
pub fn gives_money_back<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    let is_refund = path.strip_prefix(REFUNDS_BEGIN).is_some_and(|rest| rest.ends_with("/refund"));
    let is_resolution = request.method() == Method::POST && path.starts_with(RESOLUTIONS_BEGIN);
    is_refund || is_resolution || matches!(path, GRPC_REFUND_PATH | GRPC_RESOLVE_PATH | REFUND_FORM | RESOLVE_FORM)
}

/// Whether a request starts a top-up, on either protocol or by a form.
pub fn starts_recharge<B>(request: &Request<B>) -> bool {
    matches!(request.uri().path(), RECHARGE_PATH | GRPC_RECHARGE_PATH | TOP_UP_PAGE)
}

/// The rpc of a path over gRPC: `DeductQuota` of `/billing.v1.BillingInternalService/DeductQuota`.
pub fn grpc_rpc(path: &str) -> Option<&str> {
    path.rsplit('/').next().filter(|name| !name.is_empty())
}

/// As [`grpc_rpc`], for the rpcs of the contract only. Callers choose the path, and the labels of
/// metrics must be bounded.
pub fn known_grpc_rpc(path: &str) -> Option<&'static str> {
    static RPCS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap_or_default();
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        methods.map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name())).collect()
    });
    grpc_rpc(RPCS.get(path)?)
}

/// The rpc of a REST route. Exports have names too, although they are no rpcs of the contract.
pub fn rest_rpc(method: &Method, route: &str) -> Option<&'static str> {
    let is_get = method == Method::GET;
    Some(match route {
        "/api/v1/billing/account" | "/api/v1/billing/account/{user_id}" => "GetAccount",
        RECHARGE_PATH => "Recharge",
        "/api/v1/billing/recharge/{order_id}" => "GetRechargeOrder",
        "/api/v1/billing/recharges" => "ListRechargeOrders",
        "/api/v1/billing/adjustments" => "ListAdjustments",
        "/api/v1/billing/statement" => "GetStatement",
        "/api/v1/billing/statement.csv" => "ExportStatement",
        "/api/v1/billing/records" => "ListRecords",
        "/api/v1/billing/records.csv" => "ExportRecords",
        "/api/v1/billing/stats/today" => "GetStatsToday",
        "/api/v1/billing/stats/month" => "GetStatsMonth",
        "/api/v1/billing/stats/summary" => "GetStatsSummary",
        "/api/v1/billing/usage" => "GetUsage",
        AUTHORIZE_PATH | "/internal/v1/billing/authorize/" | "/internal/v1/billing/authorize/{*path}" => "Authorize",
        "/internal/v1/billing/check" => "CheckQuota",
        "/internal/v1/billing/deduct" => "DeductQuota",
        "/internal/v1/billing/deduct/batch" => "BatchDeductQuota",
        "/internal/v1/billing/reserve" => "ReserveQuota",
        "/internal/v1/billing/commit" => "CommitReservation",
        "/internal/v1/billing/release" => "ReleaseReservation",
        "/internal/v1/billing/transactions/{user_id}/{trace_id}" => "GetTransaction",
        CALLBACK_PATH => "RechargeCallback",
        "/internal/v1/billing/recharge/{order_id}/refund" => "RefundRecharge",
        "/internal/v1/billing/unapplied-payments" => "ListUnappliedPayments",
        "/internal/v1/billing/unapplied-payments/{payment_order_id}" => "ResolvePayment",
        "/internal/v1/billing/users" => "InitializeUser",
        "/internal/v1/billing/users/{user_id}/status" => "SetAccountStatus",
        "/internal/v1/billing/users/{user_id}/limits" => "SetUserLimits",
        "/internal/v1/billing/users/{user_id}/alerts" => "SetAlerts",
        "/internal/v1/billing/users/{user_id}/plan" => "SetUserPlan",
        "/internal/v1/billing/api-keys/{api_key_id}/quota" if is_get => "GetApiKeyQuota",
        "/internal/v1/billing/api-keys/{api_key_id}/quota" => "SetApiKeyQuota",
        "/internal/v1/billing/adjust" => "AdjustBalance",
        "/internal/v1/billing/refund" => "RefundCharge",
        "/internal/v1/billing/statements.csv" => "ExportStatements",
        "/internal/v1/billing/records.csv" => "ExportAllRecords",
        "/internal/v1/billing/recharges.csv" => "ExportRecharges",
        "/internal/v1/billing/recharge-refunds.csv" => "ExportRechargeRefunds",
        "/internal/v1/billing/adjustments.csv" => "ExportAdjustments",
        "/internal/v1/billing/quote" => "QuotePrice",
        "/internal/v1/billing/prices" => match *method {
            Method::DELETE => "DeletePriceVersion",
            Method::POST => "PutPriceVersion",
            _ => "ListPriceVersions",
        },
        "/internal/v1/billing/events" => "ListEvents",
        "/internal/v1/billing/webhooks" if is_get => "ListWebhooks",
        "/internal/v1/billing/webhooks" => "PutWebhook",
        "/internal/v1/billing/webhooks/{webhook_id}" => "DeleteWebhook",
        "/internal/v1/billing/webhooks/{webhook_id}/deliveries" => "ListWebhookDeliveries",
        "/internal/v1/billing/webhooks/{webhook_id}/redeliver" => "RedeliverWebhook",
        "/internal/v1/billing/webhooks/{webhook_id}/test" => "TestWebhook",
        "/internal/v1/billing/audit-events" => "ListAuditEvents",
        "/internal/v1/billing/tokens/count" => "CountTokens",
        _ => return None,
    })
}
