//! The services of all features, side by side.

use std::sync::Arc;

use super::{
    account::AccountService, audit_trail::AuditTrailService, charge::ChargeService, check::CheckService,
    events::EventService, limits::LimitService, metering::StreamService, operations::OperationsService,
    prices::PriceService, recharge::RechargeService, refund::RefundService, reports::ReportService,
    reservation::ReservationService, statements::StatementService, tokens::TokenService, webhooks::WebhookService,
};

/// Every rpc of the contract, by feature. gRPC and REST both call it. The operations are no rpcs: only the console has them.
pub struct Api {
    pub accounts: AccountService,
    pub audit_trail: AuditTrailService,
    pub events: EventService,
    pub webhooks: WebhookService,
    pub checks: CheckService,
    pub charges: ChargeService,
    pub refunds: RefundService,
    pub reservations: Arc<ReservationService>,
    pub limits: LimitService,
    pub streams: Arc<StreamService>,
    pub prices: PriceService,
    pub tokens: TokenService,
    pub recharges: RechargeService,
    pub reports: ReportService,
    pub statements: StatementService,
    pub operations: OperationsService,
}
