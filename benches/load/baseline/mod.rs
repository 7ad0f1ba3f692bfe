//! Other designs, each as a process of its own. The baseline is the design that this service replaces: a lock in Redis
//! around one transaction per request, on the tables of the legacy service. Transport, pool and prepared statements are
//! the same as in the service, so that only the design differs. And a rate limiter counts in Redis alone.

mod charge;
mod limiter;
mod lock;

use std::{
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use billing_service::{
    command, data, server,
    service::proto::{
        AdjustBalanceReply, AdjustBalanceRequest, ApiKeyQuotas, BatchDeductQuotaReply, BatchDeductQuotaRequest,
        CheckQuotaReply, CheckQuotaRequest, CommitReservationReply, CommitReservationRequest, CountTokensReply,
        CountTokensRequest, DeductQuotaReply, DeductQuotaRequest, DeletePriceVersionReply, DeletePriceVersionRequest,
        DeleteWebhookReply, DeleteWebhookRequest, GetApiKeyQuotaRequest, GetTransactionReply, GetTransactionRequest,
        InitializeUserReply, InitializeUserRequest, ListAuditEventsReply, ListAuditEventsRequest, ListEventsReply,
        ListEventsRequest, ListPriceVersionsReply, ListPriceVersionsRequest, ListUnappliedPaymentsReply,
        ListUnappliedPaymentsRequest, ListWebhookDeliveriesReply, ListWebhookDeliveriesRequest, ListWebhooksReply,
        ListWebhooksRequest, MeterStreamReply, MeterStreamRequest, PutPriceVersionReply, PutPriceVersionRequest,
        PutWebhookReply, PutWebhookRequest, QuotePriceReply, QuotePriceRequest, RechargeCallbackReply,
        RechargeCallbackRequest, RedeliverWebhookReply, RedeliverWebhookRequest, RefundChargeReply,
        RefundChargeRequest, RefundRechargeReply, RefundRechargeRequest, ReleaseReservationReply,
        ReleaseReservationRequest, ReserveQuotaReply, ReserveQuotaRequest, ResolvePaymentReply, ResolvePaymentRequest,
        SetAccountStatusReply, SetAccountStatusRequest, SetAlertsReply, SetAlertsRequest, SetApiKeyQuotaRequest,
        SetUserLimitsReply, SetUserLimitsRequest, SetUserPlanReply, SetUserPlanRequest, TestWebhookReply,
        TestWebhookRequest,
        billing_internal_service_server::{BillingInternalService, BillingInternalServiceServer},
    },
};
use sqlx::{Connection, MySqlConnection, mysql::MySqlConnectOptions};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use self::{limiter::Limiter, lock::Locks};

/// Connections to the database, all open from the start.
const CONNECTIONS: usize = 50;
/// Long, so that slow answers are measured and not cut.
const DEADLINE: Duration = Duration::from_secs(30);

/// Serves `DeductQuota` of the baseline until SIGTERM, or with `source: None` of the rate limiter. Logs its address on
/// standard error in the form of the real server.
///
/// # Errors
/// MariaDB or Redis does not answer.
pub async fn serve(source: Option<&str>, redis: &str) -> anyhow::Result<ExitCode> {
    let design = match source {
        Some(source) => {
            let options = data::dsn::mysql(source).map_err(|why| anyhow!(why))?;
            let pool = Pool::connect(&options).await.context("mysql")?;
            Design::Legacy { pool, locks: Locks::connect(redis).await.context("redis")? }
        }
        None => Design::Limiter(Limiter(lock::connect(redis).await.context("redis")?)),
    };
    let routes = Routes::new(BillingInternalServiceServer::new(design));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let serving =
        serde_json::json!({"fields": {"message": "serving", "grpc_addr": listener.local_addr()?.to_string()}});
    eprintln!("{serving}");
    let limits =
        server::ListenerLimits { connections: 1_000, drain_timeout: Duration::from_secs(1), ..Default::default() };
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let signal = command::stop_signal(command::Hangup::Stops)?;
    tokio::spawn(async move {
        signal.await;
        stopping.cancel();
    });
    server::serve(listener, routes.into_axum_router(), limits, stop).await;
    Ok(ExitCode::SUCCESS)
}

/// A pool that reuses connections without a ping. The pool of sqlx pings the server after each use,
/// a round trip that the baseline design did not have.
struct Pool {
    idle: Mutex<Vec<MySqlConnection>>,
    permits: Semaphore,
}

impl Pool {
    async fn connect(options: &MySqlConnectOptions) -> Result<Self, sqlx::Error> {
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(MySqlConnection::connect_with(options).await?);
        }
        Ok(Self { idle: Mutex::new(idle), permits: Semaphore::new(CONNECTIONS) })
    }

    async fn charge(&self, request: &DeductQuotaRequest) -> Reply<DeductQuotaReply> {
        let permit = timeout(DEADLINE, self.permits.acquire()).await;
        let _permit = permit.ok().and_then(Result::ok).ok_or_else(|| Status::unavailable("no connection"))?;
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut connection = taken.ok_or_else(|| Status::internal("fewer connections than permits"))?;
        let charged = charge::charge(&mut connection, request).await;
        idle().push(connection);
        charged.map(Response::new)
    }
}

enum Design {
    Legacy { pool: Pool, locks: Locks },
    Limiter(Limiter),
}

type Reply<T> = Result<Response<T>, Status>;

fn not_measured<T>() -> Reply<T> {
    Err(Status::unimplemented("other designs only charge"))
}

#[tonic::async_trait]
impl BillingInternalService for Design {
    async fn deduct_quota(&self, request: Request<DeductQuotaRequest>) -> Reply<DeductQuotaReply> {
        let request = request.into_inner();
        match self {
            Self::Legacy { pool, locks } => {
                let held = locks.lock(&request.user_id).await?;
                let charged = pool.charge(&request).await;
                locks.unlock(held).await?;
                charged
            }
            Self::Limiter(limiter) => limiter.charge(&request).await,
        }
    }

    async fn check_quota(&self, _: Request<CheckQuotaRequest>) -> Reply<CheckQuotaReply> {
        not_measured()
    }

    async fn batch_deduct_quota(&self, _: Request<BatchDeductQuotaRequest>) -> Reply<BatchDeductQuotaReply> {
        not_measured()
    }

    async fn reserve_quota(&self, _: Request<ReserveQuotaRequest>) -> Reply<ReserveQuotaReply> {
        not_measured()
    }

    async fn commit_reservation(&self, _: Request<CommitReservationRequest>) -> Reply<CommitReservationReply> {
        not_measured()
    }

    async fn release_reservation(&self, _: Request<ReleaseReservationRequest>) -> Reply<ReleaseReservationReply> {
        not_measured()
    }

    async fn get_transaction(&self, _: Request<GetTransactionRequest>) -> Reply<GetTransactionReply> {
        not_measured()
    }

    async fn recharge_callback(&self, _: Request<RechargeCallbackRequest>) -> Reply<RechargeCallbackReply> {
        not_measured()
    }

    async fn initialize_user(&self, _: Request<InitializeUserRequest>) -> Reply<InitializeUserReply> {
        not_measured()
    }

    type MeterStreamStream = tokio_stream::Empty<Result<MeterStreamReply, Status>>;

    async fn meter_stream(&self, _: Request<Streaming<MeterStreamRequest>>) -> Reply<Self::MeterStreamStream> {
        not_measured()
    }

    async fn count_tokens(&self, _: Request<CountTokensRequest>) -> Reply<CountTokensReply> {
        not_measured()
    }

    async fn adjust_balance(&self, _: Request<AdjustBalanceRequest>) -> Reply<AdjustBalanceReply> {
        not_measured()
    }

    async fn refund_charge(&self, _: Request<RefundChargeRequest>) -> Reply<RefundChargeReply> {
        not_measured()
    }

    async fn refund_recharge(&self, _: Request<RefundRechargeRequest>) -> Reply<RefundRechargeReply> {
        not_measured()
    }

    async fn list_unapplied_payments(
        &self,
        _: Request<ListUnappliedPaymentsRequest>,
    ) -> Reply<ListUnappliedPaymentsReply> {
        not_measured()
    }

    async fn resolve_payment(&self, _: Request<ResolvePaymentRequest>) -> Reply<ResolvePaymentReply> {
        not_measured()
    }

    async fn set_account_status(&self, _: Request<SetAccountStatusRequest>) -> Reply<SetAccountStatusReply> {
        not_measured()
    }

    async fn list_events(&self, _: Request<ListEventsRequest>) -> Reply<ListEventsReply> {
        not_measured()
    }

    async fn put_webhook(&self, _: Request<PutWebhookRequest>) -> Reply<PutWebhookReply> {
        not_measured()
    }

    async fn list_webhooks(&self, _: Request<ListWebhooksRequest>) -> Reply<ListWebhooksReply> {
        not_measured()
    }

    async fn delete_webhook(&self, _: Request<DeleteWebhookRequest>) -> Reply<DeleteWebhookReply> {
        not_measured()
    }

    async fn list_webhook_deliveries(
        &self,
        _: Request<ListWebhookDeliveriesRequest>,
    ) -> Reply<ListWebhookDeliveriesReply> {
        not_measured()
    }

    async fn redeliver_webhook(&self, _: Request<RedeliverWebhookRequest>) -> Reply<RedeliverWebhookReply> {
        not_measured()
    }

    async fn test_webhook(&self, _: Request<TestWebhookRequest>) -> Reply<TestWebhookReply> {
        not_measured()
    }

    async fn set_alerts(&self, _: Request<SetAlertsRequest>) -> Reply<SetAlertsReply> {
        not_measured()
    }

    async fn list_audit_events(&self, _: Request<ListAuditEventsRequest>) -> Reply<ListAuditEventsReply> {
        not_measured()
    }

    async fn set_api_key_quota(&self, _: Request<SetApiKeyQuotaRequest>) -> Reply<ApiKeyQuotas> {
        not_measured()
    }

    async fn get_api_key_quota(&self, _: Request<GetApiKeyQuotaRequest>) -> Reply<ApiKeyQuotas> {
        not_measured()
    }

    async fn set_user_plan(&self, _: Request<SetUserPlanRequest>) -> Reply<SetUserPlanReply> {
        not_measured()
    }

    async fn quote_price(&self, _: Request<QuotePriceRequest>) -> Reply<QuotePriceReply> {
        not_measured()
    }

    async fn put_price_version(&self, _: Request<PutPriceVersionRequest>) -> Reply<PutPriceVersionReply> {
        not_measured()
    }

    async fn list_price_versions(&self, _: Request<ListPriceVersionsRequest>) -> Reply<ListPriceVersionsReply> {
        not_measured()
    }

    async fn delete_price_version(&self, _: Request<DeletePriceVersionRequest>) -> Reply<DeletePriceVersionReply> {
        not_measured()
    }

    async fn set_user_limits(&self, _: Request<SetUserLimitsRequest>) -> Reply<SetUserLimitsReply> {
        not_measured()
    }
}
