//! The contract over gRPC: each rpc passes its message to its feature of [`Api`].

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Api,
    envoy::{RateLimitRequest, RateLimitResponse, rate_limit_service_server::RateLimitService},
    errors,
    idempotency::IdSource,
    metering::Replies,
    origin::{self, Caller, Origin},
    proto::{
        AdjustBalanceReply, AdjustBalanceRequest, ApiKeyQuotas, BatchDeductQuotaReply, BatchDeductQuotaRequest,
        CheckQuotaReply, CheckQuotaRequest, CommitReservationReply, CommitReservationRequest, CountTokensReply,
        CountTokensRequest, DeductQuotaReply, DeductQuotaRequest, DeletePriceVersionReply, DeletePriceVersionRequest,
        DeleteWebhookReply, DeleteWebhookRequest, GetAccountReply, GetAccountRequest, GetApiKeyQuotaRequest,
        GetRechargeOrderRequest, GetStatementReply, GetStatementRequest, GetStatsMonthRequest, GetStatsReply,
        GetStatsSummaryReply, GetStatsSummaryRequest, GetStatsTodayRequest, GetTransactionReply, GetTransactionRequest,
        GetUsageReply, GetUsageRequest, InitializeUserReply, InitializeUserRequest, ListAdjustmentsReply,
        ListAdjustmentsRequest, ListAuditEventsReply, ListAuditEventsRequest, ListEventsReply, ListEventsRequest,
        ListPriceVersionsReply, ListPriceVersionsRequest, ListRechargeOrdersReply, ListRechargeOrdersRequest,
        ListRecordsReply, ListRecordsRequest, ListUnappliedPaymentsReply, ListUnappliedPaymentsRequest,
        ListWebhookDeliveriesReply, ListWebhookDeliveriesRequest, ListWebhooksReply, ListWebhooksRequest,
        MeterStreamRequest, PutPriceVersionReply, PutPriceVersionRequest, PutWebhookReply, PutWebhookRequest,
        QuotePriceReply, QuotePriceRequest, RechargeCallbackReply, RechargeCallbackRequest, RechargeOrder,
        RechargeReply, RechargeRequest, RedeliverWebhookReply, RedeliverWebhookRequest, RefundChargeReply,
        RefundChargeRequest, RefundRechargeReply, RefundRechargeRequest, ReleaseReservationReply,
        ReleaseReservationRequest, ReserveQuotaReply, ReserveQuotaRequest, ResolvePaymentReply, ResolvePaymentRequest,
        SetAccountStatusReply, SetAccountStatusRequest, SetAlertsReply, SetAlertsRequest, SetApiKeyQuotaRequest,
        SetUserLimitsReply, SetUserLimitsRequest, SetUserPlanReply, SetUserPlanRequest, TestWebhookReply,
        TestWebhookRequest, billing_internal_service_server::BillingInternalService,
        billing_service_server::BillingService,
    },
    request::{RequestId, note_trace_id},
};
use crate::biz::{audit_trail::Actor, values::error::Error};

/// Both services of the contract, and the rate limit service of Envoy.
#[derive(Clone)]
pub struct Grpc(pub Arc<Api>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl BillingService for Grpc {
    async fn get_account(&self, request: Request<GetAccountRequest>) -> Reply<GetAccountReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.accounts.get_account(message).await)
    }

    async fn recharge(&self, request: Request<RechargeRequest>) -> Reply<RechargeReply> {
        let (origin, call, mut message) = Call::with_origin(request);
        let filled = call.fill_id(IdSource::RechargeKey, &mut message.idempotency_key);
        filled.map_err(|error| call.fail(&error))?;
        call.reply(self.0.recharges.recharge(message, origin, &call.id).await)
    }

    async fn get_recharge_order(&self, request: Request<GetRechargeOrderRequest>) -> Reply<RechargeOrder> {
        let (call, message) = Call::of(request);
        call.reply(self.0.recharges.get_recharge_order(message).await)
    }

    async fn list_recharge_orders(
        &self,
        request: Request<ListRechargeOrdersRequest>,
    ) -> Reply<ListRechargeOrdersReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.recharges.list_recharge_orders(message).await)
    }

    async fn list_adjustments(&self, request: Request<ListAdjustmentsRequest>) -> Reply<ListAdjustmentsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.accounts.list_adjustments(message).await)
    }

    async fn get_statement(&self, request: Request<GetStatementRequest>) -> Reply<GetStatementReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.statements.get_statement(message).await)
    }

    async fn list_records(&self, request: Request<ListRecordsRequest>) -> Reply<ListRecordsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.reports.list_records(message).await)
    }

    async fn get_stats_today(&self, request: Request<GetStatsTodayRequest>) -> Reply<GetStatsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.reports.get_stats_today(message).await)
    }

    async fn get_stats_month(&self, request: Request<GetStatsMonthRequest>) -> Reply<GetStatsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.reports.get_stats_month(message).await)
    }

    async fn get_stats_summary(&self, request: Request<GetStatsSummaryRequest>) -> Reply<GetStatsSummaryReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.reports.get_stats_summary(message).await)
    }

    async fn get_usage(&self, request: Request<GetUsageRequest>) -> Reply<GetUsageReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.reports.get_usage(message).await)
    }
}

#[tonic::async_trait]
impl BillingInternalService for Grpc {
    async fn check_quota(&self, request: Request<CheckQuotaRequest>) -> Reply<CheckQuotaReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.checks.check_quota(message).await)
    }

    async fn deduct_quota(&self, request: Request<DeductQuotaRequest>) -> Reply<DeductQuotaReply> {
        let (call, message) = Call::with_id(request, IdSource::TraceId, |message| &mut message.trace_id)?;
        call.reply(self.0.charges.deduct_quota(message, &call.id).await)
    }

    async fn batch_deduct_quota(&self, request: Request<BatchDeductQuotaRequest>) -> Reply<BatchDeductQuotaReply> {
        let (call, message) = Call::of(request);
        IdSource::Items.read(&call.headers).map_err(|error| call.fail(&error))?;
        call.reply(self.0.charges.batch_deduct_quota(message, &call.id).await)
    }

    async fn reserve_quota(&self, request: Request<ReserveQuotaRequest>) -> Reply<ReserveQuotaReply> {
        let (call, message) = Call::with_id(request, IdSource::TraceId, |message| &mut message.trace_id)?;
        call.reply(self.0.reservations.reserve_quota(message, &call.id).await)
    }

    async fn commit_reservation(&self, request: Request<CommitReservationRequest>) -> Reply<CommitReservationReply> {
        let (call, message) = Call::with_id(request, IdSource::Reservation, |message| &mut message.trace_id)?;
        call.reply(self.0.reservations.commit_reservation(message).await)
    }

    async fn release_reservation(&self, request: Request<ReleaseReservationRequest>) -> Reply<ReleaseReservationReply> {
        let (call, message) = Call::with_id(request, IdSource::Reservation, |message| &mut message.trace_id)?;
        call.reply(self.0.reservations.release_reservation(message).await)
    }

    async fn get_transaction(&self, request: Request<GetTransactionRequest>) -> Reply<GetTransactionReply> {
        let (call, message) = Call::of(request);
        note_trace_id(&message.trace_id);
        call.reply(self.0.reservations.get_transaction(message).await)
    }

    async fn recharge_callback(&self, request: Request<RechargeCallbackRequest>) -> Reply<RechargeCallbackReply> {
        let (origin, call, message) = Call::with_origin(request);
        call.reply(self.0.recharges.recharge_callback(message, origin).await)
    }

    async fn refund_recharge(&self, request: Request<RefundRechargeRequest>) -> Reply<RefundRechargeReply> {
        let (origin, call, mut message) = Call::with_origin(request);
        let filled = call.fill_id(IdSource::RefundId, &mut message.refund_id);
        filled.map_err(|error| call.fail(&error))?;
        call.reply(self.0.recharges.refund_recharge(message, origin, call.actor()).await)
    }

    async fn list_unapplied_payments(
        &self,
        request: Request<ListUnappliedPaymentsRequest>,
    ) -> Reply<ListUnappliedPaymentsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.recharges.list_unapplied_payments(message).await)
    }

    async fn resolve_payment(&self, request: Request<ResolvePaymentRequest>) -> Reply<ResolvePaymentReply> {
        let (origin, call, message) = Call::with_origin(request);
        call.reply(self.0.recharges.resolve_payment(message, origin, call.actor()).await)
    }

    async fn initialize_user(&self, request: Request<InitializeUserRequest>) -> Reply<InitializeUserReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.accounts.initialize_user(message, call.actor()).await)
    }

    async fn set_account_status(&self, request: Request<SetAccountStatusRequest>) -> Reply<SetAccountStatusReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.accounts.set_account_status(message, call.actor()).await)
    }

    async fn set_alerts(&self, request: Request<SetAlertsRequest>) -> Reply<SetAlertsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.accounts.set_alerts(message, call.actor()).await)
    }

    async fn set_user_plan(&self, request: Request<SetUserPlanRequest>) -> Reply<SetUserPlanReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.accounts.set_user_plan(message, call.actor()).await)
    }

    async fn set_user_limits(&self, request: Request<SetUserLimitsRequest>) -> Reply<SetUserLimitsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.limits.set_user_limits(message, call.actor()).await)
    }

    async fn set_api_key_quota(&self, request: Request<SetApiKeyQuotaRequest>) -> Reply<ApiKeyQuotas> {
        let (call, message) = Call::of(request);
        call.reply(self.0.limits.set_api_key_quota(message, call.actor()).await)
    }

    async fn get_api_key_quota(&self, request: Request<GetApiKeyQuotaRequest>) -> Reply<ApiKeyQuotas> {
        let (call, message) = Call::of(request);
        call.reply(self.0.limits.get_api_key_quota(message).await)
    }

    async fn adjust_balance(&self, request: Request<AdjustBalanceRequest>) -> Reply<AdjustBalanceReply> {
        let (call, message) = Call::with_id(request, IdSource::AdjustmentId, |message| &mut message.adjustment_id)?;
        call.reply(self.0.accounts.adjust_balance(message, call.actor()).await)
    }

    async fn quote_price(&self, request: Request<QuotePriceRequest>) -> Reply<QuotePriceReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.prices.quote_price(message).await)
    }

    async fn put_price_version(&self, request: Request<PutPriceVersionRequest>) -> Reply<PutPriceVersionReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.prices.put_price_version(message, call.actor()).await)
    }

    async fn list_price_versions(&self, request: Request<ListPriceVersionsRequest>) -> Reply<ListPriceVersionsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.prices.list_price_versions(message).await)
    }

    async fn delete_price_version(
        &self,
        request: Request<DeletePriceVersionRequest>,
    ) -> Reply<DeletePriceVersionReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.prices.delete_price_version(message, call.actor()).await)
    }

    async fn refund_charge(&self, request: Request<RefundChargeRequest>) -> Reply<RefundChargeReply> {
        let (call, message) = Call::with_id(request, IdSource::RefundId, |message| &mut message.refund_id)?;
        note_trace_id(&message.trace_id);
        call.reply(self.0.refunds.refund_charge(message, call.actor()).await)
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Reply<ListEventsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.events.list_events(message).await)
    }

    async fn put_webhook(&self, request: Request<PutWebhookRequest>) -> Reply<PutWebhookReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.webhooks.put_webhook(message, call.actor()).await)
    }

    async fn list_webhooks(&self, request: Request<ListWebhooksRequest>) -> Reply<ListWebhooksReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.webhooks.list_webhooks(message, call.actor()).await)
    }

    async fn delete_webhook(&self, request: Request<DeleteWebhookRequest>) -> Reply<DeleteWebhookReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.webhooks.delete_webhook(message, call.actor()).await)
    }

    async fn list_webhook_deliveries(
        &self,
        request: Request<ListWebhookDeliveriesRequest>,
    ) -> Reply<ListWebhookDeliveriesReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.webhooks.list_webhook_deliveries(message).await)
    }

    async fn redeliver_webhook(&self, request: Request<RedeliverWebhookRequest>) -> Reply<RedeliverWebhookReply> {
        let (origin, call, message) = Call::with_origin(request);
        call.reply(self.0.webhooks.redeliver_webhook(message, origin, call.actor()).await)
    }

    async fn test_webhook(&self, request: Request<TestWebhookRequest>) -> Reply<TestWebhookReply> {
        let (origin, call, message) = Call::with_origin(request);
        call.reply(self.0.webhooks.test_webhook(message, origin, call.actor()).await)
    }

    async fn list_audit_events(&self, request: Request<ListAuditEventsRequest>) -> Reply<ListAuditEventsReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.audit_trail.list_audit_events(message).await)
    }

    type MeterStreamStream = Replies;

    async fn meter_stream(&self, request: Request<Streaming<MeterStreamRequest>>) -> Reply<Replies> {
        let (call, messages) = Call::of(request);
        // Without callers all streams are those of one.
        let caller = call.extensions.get::<Caller>().map_or_else(Arc::default, |caller| caller.name.clone());
        let id = call.id.clone();
        let fill = move |open: &mut ReserveQuotaRequest| call.fill_id(IdSource::TraceId, &mut open.trace_id);
        Ok(self.0.streams.meter_stream(messages, fill, caller, id))
    }

    async fn count_tokens(&self, request: Request<CountTokensRequest>) -> Reply<CountTokensReply> {
        let (call, message) = Call::of(request);
        call.reply(self.0.tokens.count_tokens(message).await)
    }
}

#[tonic::async_trait]
impl RateLimitService for Grpc {
    async fn should_rate_limit(&self, request: Request<RateLimitRequest>) -> Reply<RateLimitResponse> {
        let (call, message) = Call::of(request);
        call.reply(self.0.checks.should_rate_limit(message, &call.id).await)
    }
}

/// Bytes from which a reply is compressed for a client that accepts gzip.
const WORTH_COMPRESSING: usize = 1024;

/// One call: its metadata, and the id that an internal error names.
struct Call {
    headers: HeaderMap,
    extensions: Extensions,
    id: RequestId,
}

impl Call {
    fn of<M>(request: Request<M>) -> (Self, M) {
        let (metadata, extensions, message) = request.into_parts();
        let id = RequestId::beside(&extensions);
        (Self { headers: metadata.into_headers(), extensions, id }, message)
    }

    fn with_origin<M>(request: Request<M>) -> (Origin, Self, M) {
        let (call, message) = Self::of(request);
        (Origin::of(&call.headers, &call.extensions), call, message)
    }

    /// The actor, for the audit trail.
    fn actor(&self) -> Actor {
        origin::actor(&self.extensions)
    }

    /// Takes an id that the message lacks from the metadata.
    fn with_id<M>(
        request: Request<M>,
        source: IdSource,
        field: impl FnOnce(&mut M) -> &mut String,
    ) -> Result<(Self, M), Status> {
        let (call, mut message) = Self::of(request);
        call.fill_id(source, field(&mut message)).map_err(|error| call.fail(&error))?;
        Ok((call, message))
    }

    fn fill_id(&self, source: IdSource, id: &mut String) -> Result<(), Error> {
        if id.is_empty()
            && let Some(other) = source.read(&self.headers)?
        {
            *id = other.into_owned();
        }
        if let Some(field) = source.field() {
            self.id.note_retry_id(field, id);
        }
        if source.field() == Some("trace_id") {
            note_trace_id(id);
        }
        Ok(())
    }

    fn reply<T: Message>(&self, result: Result<T, Error>) -> Reply<T> {
        let mut reply = Response::new(result.map_err(|error| self.fail(&error))?);
        if reply.get_ref().encoded_len() < WORTH_COMPRESSING {
            // Nearly every client accepts gzip. A small message only grows, and costs time.
            reply.disable_compression();
        }
        Ok(reply)
    }

    fn fail(&self, error: &Error) -> Status {
        errors::log(error, &self.id);
        errors::status(error, &self.id)
    }
}
