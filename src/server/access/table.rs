//! The access table: the roles that may call each rpc, over both protocols of the internal port. An
//! rpc that is not in the table is refused to everyone.

use crate::config::Role::{self, Admin, Gateway, Keys, Metrics, Payment, Support};

/// The roles that may call an rpc; `None` for an rpc that the table does not have.
pub fn roles(rpc: &str) -> Option<&'static [Role]> {
    Some(match rpc {
        "CheckQuota" | "ShouldRateLimit" | "Authorize" | "DeductQuota" | "BatchDeductQuota" | "ReserveQuota"
        | "CommitReservation" | "ReleaseReservation" | "MeterStream" | "CountTokens" | "QuotePrice" | "Recharge" => {
            &[Gateway, Admin]
        }
        "GetTransaction" | "GetAccount" | "GetRechargeOrder" | "ListRechargeOrders" | "ListAdjustments"
        | "GetStatement" | "ListRecords" | "ExportRecords" | "GetStatsToday" | "GetStatsMonth" | "GetStatsSummary"
        | "GetUsage" => &[Gateway, Support, Admin],
        "RechargeCallback" => &[Payment, Admin],
        "InitializeUser" | "SetApiKeyQuota" | "GetApiKeyQuota" => &[Keys, Admin],
        "ListAuditEvents"
        | "ListEvents"
        | "ListUnappliedPayments"
        | "ListWebhooks"
        | "ListWebhookDeliveries"
        | "ExportStatements"
        | "ExportAllRecords"
        | "ExportRecharges"
        | "ExportRechargeRefunds"
        | "ExportAdjustments" => &[Support, Admin],
        "SetUserLimits" | "SetUserPlan" | "SetAlerts" | "SetAccountStatus" | "AdjustBalance" | "RefundCharge"
        | "RefundRecharge" | "ResolvePayment" | "PutPriceVersion" | "ListPriceVersions" | "DeletePriceVersion"
        | "PutWebhook" | "DeleteWebhook" | "RedeliverWebhook" | "TestWebhook" => &[Admin],
        _ => return None,
    })
}

/// The roles that may read `/metrics`, with `server.grpc.auth.protect_operations`.
pub const METRICS: &[Role] = &[Metrics, Admin];
/// The roles that may use reflection, with `server.grpc.auth.protect_operations`.
pub const REFLECTION: &[Role] = &Role::ALL;
/// The roles that may read the console of the internal port.
pub const CONSOLE: &[Role] = &[Support, Admin];
/// The roles that may do the actions of the console, send its forms of webhooks, and read its prices and API keys: those
/// of all their rpcs.
pub const CONSOLE_ACTIONS: &[Role] = &[Admin];
/// The roles that may name the user of a front end's request, in mode gateway.
pub const IDENTITY: &[Role] = &[Gateway, Admin];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ACTIONS;

    #[test]
    fn the_role_of_the_actions_may_call_each_of_their_rpcs() {
        for action in ACTIONS {
            let roles = roles(action.rpc).unwrap();
            assert!(CONSOLE_ACTIONS.iter().all(|role| roles.contains(role)), "{}: {roles:?}", action.name);
        }
    }
}
