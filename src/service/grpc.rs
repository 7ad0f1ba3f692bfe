//! The contract over gRPC: each rpc passes its message to [`Api`].

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    Api,
    idempotency::IdSource,
    metering::Replies,
    origin::Origin,
    proto::{
        AdjustBalanceReply, AdjustBalanceRequest, ApiKeyQuotas, BatchDeductQuotaReply, BatchDeductQuotaRequest,
        CheckQuotaReply, CheckQuotaRequest, CommitReservationReply, CommitReservationRequest, CountTokensReply,
        CountTokensRequest, DeductQuotaReply, DeductQuotaRequest, GetAccountReply, GetAccountRequest,
        GetApiKeyQuotaRequest, GetRechargeOrderRequest, GetStatsMonthRequest, GetStatsReply, GetStatsSummaryReply,
        GetStatsSummaryRequest, GetStatsTodayRequest, GetTransactionReply, GetTransactionRequest, GetUsageReply,
        GetUsageRequest, InitializeUserReply, InitializeUserRequest, ListRechargeOrdersReply,
        ListRechargeOrdersRequest, ListRecordsReply, ListRecordsRequest, MeterStreamRequest, RechargeCallbackReply,
        RechargeCallbackRequest, RechargeOrder, RechargeReply, RechargeRequest, ReleaseReservationReply,
        ReleaseReservationRequest, ReserveQuotaReply, ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsReply,
        SetUserLimitsRequest, billing_internal_service_server::BillingInternalService,
        billing_service_server::BillingService,
    },
};
use crate::biz::values::error::Error;

/// Both services of the contract.
#[derive(Clone)]
pub struct Grpc(pub Arc<Api>);

type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(result: Result<T, Error>) -> Reply<T> {
    Ok(Response::new(result?))
}

#[tonic::async_trait]
impl BillingService for Grpc {
    async fn get_account(&self, request: Request<GetAccountRequest>) -> Reply<GetAccountReply> {
        reply(self.0.get_account(request.into_inner()).await)
    }

    async fn recharge(&self, request: Request<RechargeRequest>) -> Reply<RechargeReply> {
        let metadata = request.metadata().clone();
        let (origin, mut message) = with_origin(request);
        fill_id(metadata, IdSource::RechargeKey, &mut message.idempotency_key)?;
        reply(self.0.recharge(message, origin).await)
    }

    async fn get_recharge_order(&self, request: Request<GetRechargeOrderRequest>) -> Reply<RechargeOrder> {
        reply(self.0.get_recharge_order(request.into_inner()).await)
    }

    async fn list_recharge_orders(
        &self,
        request: Request<ListRechargeOrdersRequest>,
    ) -> Reply<ListRechargeOrdersReply> {
        reply(self.0.list_recharge_orders(request.into_inner()).await)
    }

    async fn list_records(&self, request: Request<ListRecordsRequest>) -> Reply<ListRecordsReply> {
        reply(self.0.list_records(request.into_inner()).await)
    }

    async fn get_stats_today(&self, request: Request<GetStatsTodayRequest>) -> Reply<GetStatsReply> {
        reply(self.0.get_stats_today(request.into_inner()).await)
    }

    async fn get_stats_month(&self, request: Request<GetStatsMonthRequest>) -> Reply<GetStatsReply> {
        reply(self.0.get_stats_month(request.into_inner()).await)
    }

    async fn get_stats_summary(&self, request: Request<GetStatsSummaryRequest>) -> Reply<GetStatsSummaryReply> {
        reply(self.0.get_stats_summary(request.into_inner()).await)
    }

    async fn get_usage(&self, request: Request<GetUsageRequest>) -> Reply<GetUsageReply> {
        reply(self.0.get_usage(request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl BillingInternalService for Grpc {
    async fn check_quota(&self, request: Request<CheckQuotaRequest>) -> Reply<CheckQuotaReply> {
        reply(self.0.check_quota(request.into_inner()).await)
    }

    async fn deduct_quota(&self, request: Request<DeductQuotaRequest>) -> Reply<DeductQuotaReply> {
        let (metadata, _, mut message) = request.into_parts();
        fill_id(metadata, IdSource::TraceId, &mut message.trace_id)?;
        reply(self.0.deduct_quota(message).await)
    }

    async fn batch_deduct_quota(&self, request: Request<BatchDeductQuotaRequest>) -> Reply<BatchDeductQuotaReply> {
        let (metadata, _, message) = request.into_parts();
        IdSource::Items.read(&metadata.into_headers())?;
        reply(self.0.batch_deduct_quota(message).await)
    }

    async fn reserve_quota(&self, request: Request<ReserveQuotaRequest>) -> Reply<ReserveQuotaReply> {
        let (metadata, _, mut message) = request.into_parts();
        fill_id(metadata, IdSource::TraceId, &mut message.trace_id)?;
        reply(self.0.reserve_quota(message).await)
    }

    async fn commit_reservation(&self, request: Request<CommitReservationRequest>) -> Reply<CommitReservationReply> {
        let (metadata, _, mut message) = request.into_parts();
        fill_id(metadata, IdSource::Reservation, &mut message.trace_id)?;
        reply(self.0.commit_reservation(message).await)
    }

    async fn release_reservation(&self, request: Request<ReleaseReservationRequest>) -> Reply<ReleaseReservationReply> {
        let (metadata, _, mut message) = request.into_parts();
        fill_id(metadata, IdSource::Reservation, &mut message.trace_id)?;
        reply(self.0.release_reservation(message).await)
    }

    async fn get_transaction(&self, request: Request<GetTransactionRequest>) -> Reply<GetTransactionReply> {
        reply(self.0.get_transaction(request.into_inner()).await)
    }

    async fn recharge_callback(&self, request: Request<RechargeCallbackRequest>) -> Reply<RechargeCallbackReply> {
        let (origin, message) = with_origin(request);
        reply(self.0.recharge_callback(message, origin).await)
    }

    async fn initialize_user(&self, request: Request<InitializeUserRequest>) -> Reply<InitializeUserReply> {
        reply(self.0.initialize_user(request.into_inner()).await)
    }

    async fn set_user_limits(&self, request: Request<SetUserLimitsRequest>) -> Reply<SetUserLimitsReply> {
        reply(self.0.set_user_limits(request.into_inner()).await)
    }

    async fn set_api_key_quota(&self, request: Request<SetApiKeyQuotaRequest>) -> Reply<ApiKeyQuotas> {
        reply(self.0.set_api_key_quota(request.into_inner()).await)
    }

    async fn get_api_key_quota(&self, request: Request<GetApiKeyQuotaRequest>) -> Reply<ApiKeyQuotas> {
        reply(self.0.get_api_key_quota(request.into_inner()).await)
    }

    async fn adjust_balance(&self, request: Request<AdjustBalanceRequest>) -> Reply<AdjustBalanceReply> {
        let (metadata, _, mut message) = request.into_parts();
        fill_id(metadata, IdSource::AdjustmentId, &mut message.adjustment_id)?;
        reply(self.0.adjust_balance(message).await)
    }

    type MeterStreamStream = Replies;

    async fn meter_stream(&self, request: Request<Streaming<MeterStreamRequest>>) -> Reply<Replies> {
        let (metadata, _, messages) = request.into_parts();
        let fill = move |open: &mut ReserveQuotaRequest| fill_id(metadata, IdSource::TraceId, &mut open.trace_id);
        Ok(Response::new(self.0.clone().meter_stream(messages, fill)))
    }

    async fn count_tokens(&self, request: Request<CountTokensRequest>) -> Reply<CountTokensReply> {
        reply(self.0.count_tokens(request.into_inner()).await)
    }
}

fn with_origin<M>(request: Request<M>) -> (Origin, M) {
    let (metadata, extensions, message) = request.into_parts();
    (Origin::of(&metadata.into_headers(), &extensions), message)
}

/// Takes an id that the message lacks from the metadata.
fn fill_id(metadata: MetadataMap, source: IdSource, id: &mut String) -> Result<(), Error> {
    if id.is_empty()
        && let Some(other) = source.read(&metadata.into_headers())?
    {
        *id = other.into_owned();
    }
    Ok(())
}
